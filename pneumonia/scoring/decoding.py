"""Decode files in a child process that may die, hang or run out of memory without harm."""

import base64
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.runtime.dicom_header import DEFAULT_LIMITS, ReadLimits
from pneumonia.scoring.archives import MAX_LIST_BYTES

WORKER = (sys.executable, "-m", "pneumonia.scoring.decode_worker")
MAX_ANSWER_BYTES = 1 << 20
NO_WORDS: Mapping[str, Sequence[str]] = {"against": (), "wanted": ()}
PIPE_BYTES = 1 << 20
START_SECONDS = 60.0  # a cold start on a busy machine is no fault of the file


def _widen(pipe: IO[bytes] | None) -> None:
    """Room for an image in a pipe, where that can be had (Linux): fewer turns to hand it over."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds of the child process and of what it reads.

    Attributes:
        read: Limits on files and images.
        memory_mb: Address space of the child, MiB.
        seconds: Time for one file.
        command: The child's command line; `memory_mb` is appended.
    """

    read: ReadLimits = DEFAULT_LIMITS
    memory_mb: int = 2048
    seconds: float = 30.0
    command: Sequence[str] = WORKER


@dataclass(frozen=True)
class Decoded:
    """What became of one file.

    Attributes:
        status: `read`, `known` (same bytes as before), `listed`, `rejected`, `failed`, `skipped`.
        reason: Machine-readable, empty when read.
        message: One line without identifiers.
        sha256: Of the file, empty when it could not be read.
        n_bytes: Size of the file.
        seconds: Time in the child.
        pixels: uint8 (H, W), None unless read.
        info: Facts of runtime.radiograph.
        warnings: Words of runtime.radiograph.
        identity: StudyInstanceUID and others; never written as they are.
        header: What results take over from a DICOM source (runtime.results.header_from_bytes);
            empty unless asked for.
        listed: What an archive or a DICOMDIR holds.
    """

    status: str
    reason: str = ""
    message: str = ""
    sha256: str = ""
    n_bytes: int = 0
    seconds: float = 0.0
    pixels: NDArray[np.uint8] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    identity: dict[str, str] = field(default_factory=dict)
    header: bytes = b""
    listed: list[Any] = field(default_factory=list)


class DecodeWorker:
    """One child process, started when needed and again after it dies. Not thread-safe.

    Args:
        limits: Bounds of the child and of what it reads.
        with_header: Also return the source's header, for results in DICOM and FHIR.
        words: Of the rules, see `decode_worker.told_word`.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        with_header: bool = False,
        words: Mapping[str, Sequence[str]] = NO_WORDS,
    ) -> None:
        self._limits = limits
        self._with_header = with_header
        self._words = {kind: list(told) for kind, told in words.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "DecodeWorker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        process = subprocess.Popen(
            [*self._limits.command, str(self._limits.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the batch, which lets the file finish
        )
        _widen(process.stdout)
        return process

    def decode(self, path: str, known_sha256: str = "", member: int = -1) -> Decoded:
        """Read one file; every outcome is a Decoded, whatever the file does to the child.

        Args:
            path: The file, or the zip that holds it.
            known_sha256: Contents that need not be decoded (status `known`).
            member: Index in the zip.
        """
        return self._ask("read", path, member, known_sha256=known_sha256)

    def look(self, path: str, member: int = -1) -> Decoded:
        """Read one header without the pixels."""
        return self._ask("look", path, member)

    def list_archive(self, path: str) -> Decoded:
        """Status `listed` with the members of a zip (`archives.list_archive`), or a refusal."""
        return self._ask("archive", path)

    def list_dicomdir(self, path: str) -> Decoded:
        """Status `listed` with the images a DICOMDIR names, or a refusal."""
        return self._ask("dicomdir", path)

    def _ask(self, task: str, path: str, member: int = -1, known_sha256: str = "") -> Decoded:
        request = {
            "task": task,
            "path": path,
            "member": member,
            "known_sha256": known_sha256,
            "limits": self._limits.read._asdict(),
            "header": self._with_header,
            "words": self._words,
        }
        limit = self._limits.seconds
        if self._process is None:
            self._process = self._start()
            limit += START_SECONDS
        process = self._process
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(limit, expire)
        timer.start()
        try:
            return self._exchange(process, request)
        except (OSError, ValueError, KeyError, struct.error):
            self.close()
            if expired.is_set():
                return Decoded("failed", "decode_timeout", "Decoding took too long")
            return Decoded("failed", "decoder_crash", "The decoder crashed")
        except BaseException:
            self.close()  # half an answer may be in the pipe
            raise
        finally:
            timer.cancel()

    def _exchange(self, process: subprocess.Popen[bytes], request: dict[str, Any]) -> Decoded:
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
        process.stdin.flush()
        size = struct.unpack(">I", self._receive(process, 4))[0]
        if size > MAX_ANSWER_BYTES:
            raise ValueError("answer is too long")
        record = json.loads(self._receive(process, size))
        payload = int(record["payload"])
        if payload > max(self._limits.read.max_pixels, MAX_LIST_BYTES):
            raise ValueError("answer is too long")
        data = self._receive(process, payload)
        pixels = None
        if record["status"] == "read" and payload:
            shape = (int(record["height"]), int(record["width"]))
            pixels = np.frombuffer(data, dtype=np.uint8).reshape(shape)
        return Decoded(
            status=record["status"],
            reason=record.get("reason", ""),
            message=record.get("message", ""),
            sha256=record["sha256"],
            n_bytes=record["bytes"],
            seconds=record["seconds"],
            pixels=pixels,
            info=record.get("info", {}),
            warnings=tuple(record.get("warnings", ())),
            identity=record.get("identity", {}),
            header=base64.b64decode(record.get("header", "")),
            listed=json.loads(data) if record["status"] == "listed" else [],
        )

    @staticmethod
    def _receive(process: subprocess.Popen[bytes], size: int) -> bytes:
        assert process.stdout is not None
        data = process.stdout.read(size)
        if len(data) != size:
            raise ValueError("the child ended")
        return data
