"""Files that are still being written: a batch waits, up to a limit, until they stop changing."""

import time

from pneumonia.runtime.atomic import file_state

RECENT_SECONDS = 2.0  # since the last change: older files count as complete
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 30.0


def has_grown(path: str, n_bytes_read: int) -> bool:
    """Whether an unreadable file was still being written then, and no longer changes.

    Returns at once for a file that has not changed recently.

    Args:
        path: The file.
        n_bytes_read: Its size when it was read.
    """
    try:
        last = file_state(path)
        if abs(time.time() - last[1] / 1e9) > RECENT_SECONDS:
            return last[0] != n_bytes_read
        end = time.monotonic() + PATIENCE_SECONDS
        has_changed = last[0] != n_bytes_read
        while time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            now = file_state(path)
            if now == last:
                return has_changed
            last, has_changed = now, True
    except OSError:  # deleted: the result of the first reading stays
        pass
    return False
