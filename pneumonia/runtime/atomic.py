"""Files and folders that are either whole under their final name or not there at all."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import Any, Iterator

from pneumonia.runtime.errors import OutputError


def _sync_folder(folder: str) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems cannot sync a folder; the rename is atomic all the same
    finally:
        os.close(handle)


def write_bytes(path: str, data: bytes) -> None:
    """Write a file through a temporary sibling, fsync and rename.

    Raises:
        OutputError: The folder is missing, read-only or full.
    """
    path = str(path)
    folder = os.path.dirname(os.path.abspath(path))
    part = ""
    try:
        os.makedirs(folder, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=folder)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
        _sync_folder(folder)
    except OSError as error:
        if part and os.path.exists(part):
            os.unlink(part)
        raise OutputError(
            "Cannot write file", found=error.strerror or str(error), where=path
        ) from None


def write_text(path: str, text: str) -> None:
    """Write UTF-8 text atomically; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str, value: Any) -> None:
    """Write JSON atomically, keys in the order given, NaN refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Fill a folder under a temporary name, then swap it in for whatever stood at `path`.

    Yields:
        The temporary folder. On an exception it is removed and `path` is left as it was.

    Raises:
        OutputError: The parent folder cannot be written.
    """
    path = os.path.abspath(str(path))
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
        part = tempfile.mkdtemp(prefix=".part-", dir=parent)
        os.chmod(part, 0o755)
    except OSError as error:
        raise OutputError(
            "Cannot create folder", found=error.strerror or str(error), where=path
        ) from None
    try:
        yield part
        old = ""
        if os.path.isdir(path):
            old = part + ".old"
            os.rename(path, old)
        os.rename(part, path)
        _sync_folder(parent)
        if old:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            "Cannot replace folder", found=error.strerror or str(error), where=path
        ) from None
    finally:
        if os.path.isdir(part):
            shutil.rmtree(part, ignore_errors=True)
