"""The decoding child seen from the daemon: it may die, hang or run out of memory without harm."""

import base64
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import time
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from deploy_jetson.device.daemon.settings import DecodeSettings
from pneumonia.runtime.dicom_header import ReadLimits

CHILD = (sys.executable, "-m", "deploy_jetson.device.daemon.decode_child")
MAX_ANSWER_BYTES = 4 << 20
START_S = 60.0  # a cold start on a slow card is no fault of the file
TICK_S = 1.0
CHUNK = 1 << 20


class Decoded(NamedTuple):
    """What became of one file.

    Attributes:
        status: `read`, `rejected`, `failed` or `skipped`.
        reason: Machine-readable, empty when read.
        pixels: uint8 (H, W), None unless read.
        info: Facts of runtime.radiograph.
        warnings: Words of runtime.radiograph.
        uids: Study, series and instance UID; empty for pictures.
        header: What DICOM results take over, as a DICOM file in memory; empty for pictures.
        seconds: Time in the child.
    """

    status: str
    reason: str = ""
    pixels: Optional[np.ndarray] = None
    info: Dict[str, Any] = {}  # noqa: RUF012 - never changed
    warnings: Tuple[str, ...] = ()
    uids: Dict[str, str] = {}  # noqa: RUF012
    header: bytes = b""
    seconds: float = 0.0


class _LateError(Exception):
    """The child took too long."""


class Decoder:
    """One child, started when needed and again after it dies. For one thread.

    Args:
        settings: Bounds of the child and of what it reads.
        max_file_bytes: Larger files are refused.
        tick: Called about once a second while the child is waited for.
        command: The child's command line; the memory limit is appended.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        max_file_bytes: int,
        tick: Callable[[], None],
        command: Sequence[str] = CHILD,
    ) -> None:
        self._settings = settings
        self._limits = ReadLimits(
            max_file_bytes=max_file_bytes,
            max_side=settings.max_side,
            max_pixels=settings.max_pixels,
        )
        self._tick = tick
        self._command = list(command)
        self._process: Optional[subprocess.Popen[bytes]] = None

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def start(self) -> None:
        """Start the child and wait until it can read.

        Raises:
            OSError: It does not start.
        """
        if self._process is not None:
            return
        process = subprocess.Popen(
            self._command + [str(self._settings.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
            start_new_session=True,  # a signal to the daemon lets the file finish
        )
        self._process = process
        try:
            self._answer(process, time.monotonic() + START_S)
        except (OSError, ValueError, KeyError, _LateError):
            self.close()
            raise OSError("the decoding child does not start") from None

    def decode(self, path: str) -> Decoded:
        """Read one file; every outcome is a Decoded, whatever the file does to the child."""
        request = {"path": path, "limits": self._limits._asdict()}
        try:
            self.start()
            process = self._process
            assert process is not None
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            process.stdin.flush()
            return self._decoded(*self._answer(process, time.monotonic() + self._settings.seconds))
        except _LateError:
            self.close()
            return Decoded("failed", "decode_timeout")
        except (OSError, ValueError, KeyError, TypeError):
            self.close()
            return Decoded("failed", "decoder_crash")

    def _answer(self, process: Any, end: float) -> Tuple[Dict[str, Any], bytes]:
        size = struct.unpack(">I", self._receive(process, 4, end))[0]
        if size > MAX_ANSWER_BYTES:
            raise ValueError("answer is too long")
        record = json.loads(self._receive(process, size, end).decode("ascii"))
        payload = int(record["payload"])
        if not 0 <= payload <= self._limits.max_pixels:
            raise ValueError("answer is too long")
        return record, self._receive(process, payload, end)

    def _receive(self, process: Any, size: int, end: float) -> bytes:
        """Exactly `size` bytes before `end`; the descriptor is read past Python's buffer."""
        handle = process.stdout.fileno()
        data = bytearray()
        while len(data) < size:
            left = end - time.monotonic()
            if left <= 0:
                raise _LateError
            self._tick()
            ready, _, _ = select.select([handle], [], [], min(left, TICK_S))
            if ready:
                block = os.read(handle, min(size - len(data), CHUNK))
                if not block:
                    raise ValueError("the child ended")
                data += block
        return bytes(data)

    @staticmethod
    def _decoded(record: Dict[str, Any], payload: bytes) -> Decoded:
        if record["status"] != "read":
            seconds = float(record["seconds"])
            return Decoded(str(record["status"]), str(record["reason"]), seconds=seconds)
        shape = (int(record["height"]), int(record["width"]))
        return Decoded(
            "read",
            pixels=np.frombuffer(payload, dtype=np.uint8).reshape(shape),
            info=record["info"],
            warnings=tuple(record["warnings"]),
            uids=record.get("uids", {}),
            header=base64.b64decode(record.get("header", "")),
            seconds=float(record["seconds"]),
        )
