"""Files without a name: members of archives, and the pixels of an answer."""

import os
import tempfile
from typing import IO

_MEMORY = "/dev/shm"
_KEPT_BYTES = 8 << 20  # pages of a usual image stay, since making them again takes longer


def memory_file(name: str) -> IO[bytes]:
    """A file without a path, in memory where possible, deleted when it is closed.

    Args:
        name: What lists of open files show.
    """
    create = getattr(os, "memfd_create", None)  # Python 3.8 on Linux
    if create is not None:
        return os.fdopen(create("pneumonia-" + name), "w+b")
    folder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    return tempfile.TemporaryFile(prefix="pneumonia-", dir=folder)


def put_bytes(handle: int, data: memoryview) -> None:
    """Write bytes at the start of a file.

    Raises:
        MemoryError: No space is left.
    """
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(handle, data[done:], done)
    except OSError as error:
        raise MemoryError(str(error)) from None


def take_bytes(handle: int, size: int) -> bytes:
    """Read bytes at the start of a file; one that became large is emptied.

    Raises:
        ValueError: There are fewer than `size`.
    """
    data = os.pread(handle, size, 0)
    if len(data) != size:
        raise ValueError("pixels are missing")
    if size > _KEPT_BYTES:
        os.ftruncate(handle, 0)
    return data
