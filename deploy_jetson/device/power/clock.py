"""The machine's monotonic clock, and a virtual clock for predictions and tests.

The second lets predictions and exact tests run the very protocol that measures.
"""

import time
from typing import Callable, Optional


class MonotonicClock:
    """The machine's monotonic clock; wall time never decides how long something took."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        if seconds > 0:
            time.sleep(seconds)


class VirtualClock(MonotonicClock):
    """A clock that moves only by `sleep`, and calls back at regular moments on the way."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._interval = 0.0
        self._next = start
        self._call: Optional[Callable[[], object]] = None

    def now(self) -> float:
        """The simulated time, seconds."""
        return self._now

    def every(self, interval_s: float, call: Callable[[], object]) -> None:
        """Call `call` immediately and again every `interval_s` seconds."""
        self._interval = interval_s
        self._call = call
        self._next = self._now
        self.sleep(0.0)

    def stop(self) -> None:
        """Cancel the periodic callback."""
        self._call = None

    def sleep(self, seconds: float) -> None:
        """Advance the clock, calling back whenever that falls due on the way."""
        end = self._now + max(0.0, seconds)
        while self._call is not None and self._next <= end:
            self._now = max(self._now, self._next)
            self._next += self._interval
            self._call()
        self._now = end
