"""An append-only file of JSON lines; each line is written whole and synced, or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from pneumonia.runtime.errors import OutputError


def whole_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Split a file into complete lines and the incomplete last line that a crash left."""
    *lines, torn = data.split(b"\n")
    return lines, torn


class AppendLog:
    """Appends to a file of JSON lines. One process at a time: the folder must be locked.

    An incomplete last line, left by a crash, was never reported as written and is cut off.

    Args:
        path: The file; created with the first line.
        name: What it is called in errors.

    Attributes:
        lines: The lines that were found when it was opened, without newlines.
        torn_bytes: Length of what was cut off.

    Raises:
        OutputError: It cannot be read, or its torn line cannot be cut off.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        data = self._read()
        self.lines, torn = whole_lines(data)
        self.torn_bytes = len(torn)
        self._size = len(data) - len(torn)
        if torn:
            try:
                os.truncate(path, self._size)
            except OSError as error:
                raise self._error("cannot be written", error) from None

    def _error(self, what: str, error: OSError) -> OutputError:
        return OutputError(f"{self._name} {what}", found=error.strerror, where=str(self._path))

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._error("cannot be read", error) from None

    def append(self, record: dict[str, Any]) -> bytes:
        """Append one line and sync it; returns the line without its newline.

        Raises:
            OutputError: It cannot be written; the file is then as it was before.
        """
        line = json.dumps(record, ensure_ascii=True, allow_nan=False).encode("ascii")
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._error("cannot be written", error) from None
        try:
            self._write(handle, line + b"\n")
        except OSError as error:
            raise self._error("cannot be written", error) from None
        finally:
            os.close(handle)
        self._size += len(line) + 1
        return line

    def _write(self, handle: int, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, self._size)  # half a line would look like damage
            raise
