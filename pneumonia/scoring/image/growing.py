"""Files that somebody is still writing: a batch waits for them to become quiet, for a while."""

import os
import time

RECENT_SECONDS = 2.0  # since the last change: older files are what they are
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 30.0


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def has_grown(path: str, n_bytes_read: int) -> bool:
    """Whether a file that could not be read was being written then, and is quiet now.

    Returns at once for a file that nobody has touched for a while.

    Args:
        path: The file.
        n_bytes_read: Its size when it was read.
    """
    try:
        last = _state(path)
        if abs(time.time() - last[1] / 1e9) > RECENT_SECONDS:
            return last[0] != n_bytes_read
        end = time.monotonic() + PATIENCE_SECONDS
        has_changed = last[0] != n_bytes_read
        while time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            now = _state(path)
            if now == last:
                return has_changed
            last, has_changed = now, True
    except OSError:  # gone: the first reading has to do
        pass
    return False
