"""The caller's side of the child that opens files."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type

import numpy as np

from pneumonia.runtime.child.memory_file import memory_file, take_bytes
from pneumonia.runtime.child.messages import (
    MAX_HEADER_BYTES,
    MAX_LIST_BYTES,
    Wanted,
    read_answer,
    write_line,
)
from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS, ReadLimits

# Like `python -m pneumonia.runtime.child`, but nothing is imported from the working directory,
# which may be the folder that is scored (python -P does this from Python 3.11 on)
_START = (
    "import sys; sys.path = [path for path in sys.path if path] + [{!r}]; import runpy; "
    "runpy.run_module('pneumonia.runtime.child', run_name='__main__', alter_sys=True)"
)
COMMAND = (sys.executable, "-c", _START.format(str(Path(__file__).resolve().parents[3])))
START_SECONDS = 60.0  # a slow start (busy machine, slow SD card) does not count against the file
WATCH_SECONDS = 0.25
TICK_SECONDS = 1.0
AHEAD = 2  # requests sent and not answered; as many memory files for pixels
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class ChildLimits(NamedTuple):
    """Bounds of the child process and of what it reads."""

    read: ReadLimits = DEFAULT_LIMITS  # limits on files and images
    memory_mb: int = 2048  # address space of the child, MiB
    seconds: float = 30.0  # time for one file
    command: Sequence[str] = COMMAND  # the child's command line; `memory_mb` is appended


class FileRequest(NamedTuple):
    """A file to decode."""

    path: str  # the file, or the zip that holds it
    known_sha256: str = ""  # contents that need not be decoded (status `known`)
    member: int = -1  # index in the zip


class DecodedFile(NamedTuple):
    """The child's answer for one file.

    Attributes:
        status: `read`, `known` (same bytes as before), `listed`, `rejected`, `failed`, `skipped`.
        reason: Machine-readable, empty when read.
        message: One line without identifiers.
        sha256: Of the file, empty when it could not be read.
        n_bytes: Size of the file.
        seconds: Time in the child.
        height: Rows of the image, 0 unless read.
        width: Its columns.
        pixels: The grey image, uint8 (height, width); None unless read.
        info: Facts of runtime.image.radiograph; for DICOM also `word_against`.
        warnings: Warnings of runtime.image.radiograph.
        identity: UIDs, accession number and study date; they identify a patient.
        header: The attributes that results take over from a DICOM source, if wanted
            (results.header_from_bytes); empty for pictures, and for headers that cannot be written
            again.
        listed: Entries of an archive or a DICOMDIR.
        content_sha256: Digest of a DICOM image's pixels and identity (`content_digest`): equal for
            files that hold the same image, however they are encoded. Empty for pictures.
    """

    status: str
    reason: str = ""
    message: str = ""
    sha256: str = ""
    n_bytes: int = 0
    seconds: float = 0.0
    height: int = 0
    width: int = 0
    pixels: Optional[np.ndarray] = None
    info: Dict[str, Any] = {}  # noqa: RUF012 - never changed
    warnings: Tuple[str, ...] = ()
    identity: Dict[str, str] = {}  # noqa: RUF012
    header: bytes = b""
    listed: List[Any] = []  # noqa: RUF012
    content_sha256: str = ""


class _Watchdog:
    """Kills a process that misses its deadline; runs in a thread of its own."""

    def __init__(self, process: Any, tick: Callable[[], None]) -> None:
        self._process = process
        self._tick = tick
        self._lock = threading.Lock()
        self._deadline: Optional[float] = None
        self._stopped = threading.Event()
        self.expired = False
        threading.Thread(target=self._watch, name="decode-watchdog", daemon=True).start()

    def arm(self, seconds: float) -> None:
        """Set the deadline, counted from now."""
        with self._lock:
            self._deadline = time.monotonic() + seconds

    def disarm(self) -> None:
        """Clear the deadline: the process has answered."""
        with self._lock:
            self._deadline = None

    def stop(self) -> None:
        """Stop the watchdog thread."""
        self._stopped.set()

    def _watch(self) -> None:
        next_tick = 0.0
        while not self._stopped.wait(WATCH_SECONDS):
            now = time.monotonic()
            with self._lock:
                if self._deadline is None:
                    continue
                if now > self._deadline:
                    self.expired = True
                    self._process.kill()
                    return
            if now >= next_tick:
                self._tick()
                next_tick = now + TICK_SECONDS


def _no_tick() -> None:
    """Default tick callback, which does nothing."""


class DecodingChild:
    """One child process, started when needed and again after it dies. Not thread-safe.

    Args:
        tick: Called about once a second, from another thread, while the child is waited for.
    """

    def __init__(
        self,
        limits: ChildLimits,
        wanted: Wanted = Wanted(),  # noqa: B008 - immutable
        tick: Callable[[], None] = _no_tick,
    ) -> None:
        self._limits = limits
        self._wanted = wanted
        self._tick = tick
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._watchdog: Optional[_Watchdog] = None
        self._max_bytes = {"header": MAX_HEADER_BYTES, "listed": MAX_LIST_BYTES}
        self._pixel_files: List[IO[bytes]] = []
        self._sent = self._received = 0
        self._ahead: Optional[Tuple[str, FileRequest]] = None

    def __enter__(self) -> "DecodingChild":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        value: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        process, self._process = self._process, None
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        streams, self._pixel_files = self._pixel_files, []
        if process is not None:
            process.kill()
            process.wait()
            streams += [stream for stream in (process.stdin, process.stdout) if stream is not None]
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.close()

    def start(self) -> None:
        """Start the child and wait until it can read; does nothing while one runs.

        Raises:
            OSError: It does not start.
        """
        if self._process is not None:
            return
        self._sent, self._received, self._ahead = 0, 0, None
        self._pixel_files = [memory_file("pixels") for _ in range(AHEAD)]
        handles = [stream.fileno() for stream in self._pixel_files]
        process = subprocess.Popen(
            list(self._limits.command) + [str(self._limits.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, **ENVIRONMENT),
            start_new_session=True,  # Ctrl-C is for the caller, which lets the file finish
            pass_fds=handles,
        )
        self._process = process
        self._watchdog = _Watchdog(process, self._tick)
        options = {
            "limits": self._limits.read._asdict(),
            "wanted": self._wanted._asdict(),
            "pixel_files": handles,
        }
        try:
            record, _ = self._exchange([options], START_SECONDS)
        except (OSError, ValueError, KeyError, TypeError):
            self.close()
            raise OSError("the decoding child does not start") from None
        except BaseException:
            self.close()
            raise
        if record.get("status") != "ready":
            self.close()
            raise OSError("the decoding child does not start")

    def decode(
        self,
        path: str,
        known_sha256: str = "",
        member: int = -1,
        following: Optional[FileRequest] = None,
    ) -> DecodedFile:
        """Read one file; every outcome is a DecodedFile, whatever the file does to the child.

        Args:
            path: The file, or the zip that holds it.
            known_sha256: Contents that need not be decoded (status `known`).
            member: Index in the zip.
            following: The file of the next call. The child begins with it as soon as it has
                answered; its time limit counts from the next call.
        """
        return self._ask("read", FileRequest(path, known_sha256, member), following)

    def look(self, path: str, member: int = -1) -> DecodedFile:
        """Read one header without the pixels."""
        return self._ask("look", FileRequest(path, member=member))

    def list_archive(self, path: str) -> DecodedFile:
        """Status `listed` with the members of a zip (`archives.list_archive`), or a refusal."""
        return self._ask("archive", FileRequest(path))

    def list_dicomdir(self, path: str) -> DecodedFile:
        """Status `listed` with the images a DICOMDIR names, or a refusal."""
        return self._ask("dicomdir", FileRequest(path))

    def _ask(
        self, task: str, file: FileRequest, following: Optional[FileRequest] = None
    ) -> DecodedFile:
        if self._ahead not in (None, (task, file)):
            self.close()  # the child would first answer what it was asked for ahead
        watchdog = None
        try:
            self.start()
            watchdog = self._watchdog
            requests = [] if self._ahead is not None else [self._request(task, file)]
            self._ahead = None
            if following is not None:
                requests.append(self._request("read", following))
            found = self._decoded(*self._exchange(requests, self._limits.seconds))
            self._ahead = None if following is None else ("read", following)
            if self._watchdog is not None and self._watchdog.expired:
                self.close()  # it was killed right after its answer
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.close()
            if watchdog is not None and watchdog.expired:
                return DecodedFile("failed", "decode_timeout", "Decoding took too long")
            return DecodedFile("failed", "decoder_crash", "The decoder crashed")
        except BaseException:
            self.close()  # half an answer may be in the pipe
            raise

    def _request(self, task: str, file: FileRequest) -> Dict[str, Any]:
        self._sent += 1
        return dict(file._asdict(), task=task, pixel_file=self._sent % AHEAD)

    def _exchange(
        self, requests: Sequence[Dict[str, Any]], seconds: float
    ) -> Tuple[Dict[str, Any], Any]:
        """Send requests and receive one answer."""
        process, watchdog = self._process, self._watchdog
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        assert watchdog is not None
        watchdog.arm(seconds)
        try:
            for request in requests:
                write_line(process.stdin, request)
            return read_answer(process.stdout, self._max_bytes)
        finally:
            watchdog.disarm()

    def _decoded(self, record: Dict[str, Any], parts: Dict[str, bytes]) -> DecodedFile:
        height, width = int(record.get("height", 0)), int(record.get("width", 0))
        self._received += 1
        pixels = None
        n_bytes = int(record.get("pixel_bytes", 0))
        if n_bytes:
            if not 0 < n_bytes <= self._limits.read.max_pixels:
                raise ValueError("answer is too long")
            file = self._pixel_files[self._received % AHEAD]
            data = take_bytes(file.fileno(), n_bytes)
            pixels = np.frombuffer(data, dtype=np.uint8).reshape(height, width)
        return DecodedFile(
            status=str(record["status"]),
            reason=str(record.get("reason", "")),
            message=str(record.get("message", "")),
            sha256=str(record.get("sha256", "")),
            n_bytes=int(record.get("bytes", 0)),
            seconds=float(record["seconds"]),
            height=height,
            width=width,
            pixels=pixels,
            info=record.get("info", {}),
            warnings=tuple(record.get("warnings", ())),
            identity=record.get("identity", {}),
            header=parts.get("header", b""),
            listed=json.loads(str(parts["listed"], "ascii")) if "listed" in parts else [],
            content_sha256=str(record.get("content_sha256", "")),
        )
