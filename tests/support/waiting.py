"""Waiting for what another thread or process does: a count, a file, an answer."""

import time


def wait_for(ask, seconds=120):
    """What `ask` returns as soon as it is true; the limit only ends a test that hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = ask()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")
