"""Atomic writing: files and folders are complete under their final name, or absent."""

import ctypes
import json
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, Tuple

from pneumonia.runtime.errors import OutputError, os_errors_as


def file_state(path: str) -> Tuple[int, int]:
    """Bytes and time of the last change (ns); other values mean that a file was written to."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def sync_folder(folder: str) -> None:
    """Make renames in a folder durable; raises OSError where the file system cannot do that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _try_sync_folder(folder: str) -> None:
    with suppress(OSError):  # some file systems cannot; the rename is atomic all the same
        sync_folder(folder)


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
        _try_sync_folder(folder)
    except OSError as error:
        if part and os.path.exists(part):
            os.unlink(part)
        raise _not_written(error, path) from None


def write_text(path: str, text: str) -> None:
    """Write UTF-8 text atomically; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # of names that are not UTF-8


def json_bytes(value: Any) -> bytes:
    """JSON, keys in the order given, NaN refused (it is not JSON)."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("utf-8")


def write_json(path: str, value: Any) -> None:
    """Write `json_bytes` atomically; see `write_bytes`."""
    write_bytes(path, json_bytes(value))


class FileGroup:
    """Files that are written one by one and synced together, which costs far less than each alone.

    `add` writes under temporary names. `commit` syncs all of them, gives them their names, syncs
    the folders, and only then does the same with the files that mark others as complete. A crash
    at any moment leaves no marker without the files that it marks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._staged: List[Tuple[str, str, bool]] = []

    def add(self, files: Dict[str, bytes], is_marker: bool = False) -> None:
        """Write files under temporary names; may be called from several threads.

        Args:
            files: Path -> content. A path may be added once between two commits.
            is_marker: The files mark other files of this group as complete.

        Raises:
            OutputError: A file cannot be written.
        """
        for path, data in files.items():
            folder, name = os.path.split(os.path.abspath(path))
            part = os.path.join(folder, ".part-" + name)
            try:
                os.makedirs(folder, exist_ok=True)
                with open(part, "wb") as stream:
                    stream.write(data)
                os.chmod(part, 0o644)
            except OSError as error:
                _remove(part)
                raise _not_written(error, path) from None
            with self._lock:
                self._staged.append((part, path, is_marker))

    def discard(self) -> None:
        """Delete what was added and not committed."""
        with self._lock:
            staged, self._staged = self._staged, []
        for part, _, _ in staged:
            _remove(part)

    def commit(self) -> None:
        """Sync all added files to the disk and rename them to their final names.

        Raises:
            OutputError: A file cannot be synced or renamed.
        """
        with self._lock:
            staged, self._staged = self._staged, []
        _sync_files([part for part, _, _ in staged])
        for markers in (False, True):
            named = [(part, path) for part, path, marker in staged if marker == markers]
            for part, path in named:
                _rename(part, path)
            for folder in sorted({os.path.dirname(part) for part, _ in named}):
                _try_sync_folder(folder)


def _remove(part: str) -> None:
    with suppress(OSError):  # not there, or the next run deletes it
        os.unlink(part)


def _rename(part: str, path: str) -> None:
    try:
        os.replace(part, path)
    except OSError as error:
        raise _not_written(error, path) from None


# Local file systems whose syncfs(2) leaves everything on the disk, as fsync does for one file.
_SYNCED_WHOLE = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "overlay", "tmpfs")


def _sync_files(paths: List[str]) -> None:
    """Sync files: by one call for all of them where the file system allows it (Linux)."""
    synced = set()
    for path in paths:
        try:
            handle = os.open(path, os.O_RDWR)
            try:
                device = os.fstat(handle).st_dev
                if device in synced:
                    continue
                if _sync_file_system(handle, device):
                    synced.add(device)
                else:
                    os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise _not_written(error, path) from None


def _sync_file_system(handle: int, device: int) -> bool:
    """Sync the file system of an open file; False where that would not be enough."""
    if not _is_synced_whole(device):
        return False
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError, TypeError):  # another C library, or none
        return False
    if syncfs(handle) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return True


def _is_synced_whole(device: int) -> bool:
    """Whether /proc/self/mountinfo (proc(5)) gives a device one of the types above."""
    number = "{}:{}".format(os.major(device), os.minor(device))
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
            mounts = [line.split() for line in stream]
    except OSError:
        return False
    types = {mount[mount.index("-") + 1] for mount in mounts if mount[2] == number}
    return bool(types) and types <= set(_SYNCED_WHOLE)


def _not_written(error: OSError, path: str) -> OutputError:
    return OutputError("Cannot write file", found=error.strerror or str(error), where=path)


@contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Fill a folder under a temporary name, then swap it in for the existing one at `path`.

    Yields:
        The temporary folder. On an exception it is removed and `path` is left as it was.

    Raises:
        OutputError: The parent folder cannot be written.
    """
    path = os.path.abspath(str(path))
    parent = os.path.dirname(path)
    with os_errors_as(OutputError, "Cannot create folder", path):
        os.makedirs(parent, exist_ok=True)
        part = tempfile.mkdtemp(prefix=".part-", dir=parent)
        os.chmod(part, 0o755)
    try:
        yield part
        old = ""
        if os.path.isdir(path):
            old = part + ".old"
            os.rename(path, old)
        os.rename(part, path)
        _try_sync_folder(parent)
        if old:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            "Cannot replace folder", found=error.strerror or str(error), where=path
        ) from None
    finally:
        if os.path.isdir(part):
            shutil.rmtree(part, ignore_errors=True)
