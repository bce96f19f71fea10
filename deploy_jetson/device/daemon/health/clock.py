"""Check of the wall clock: a board without a battery starts in 1970, or when its image was made."""

import time
from typing import Callable

DAY_S = 86400.0
WRITTEN_S = 1767225600.0  # 2026, when this program was written: a clock before it was never set


class ClockCheck:
    """Compares the wall clock with the monotonic one to find jumps.

    Attributes:
        jumps: Jumps of the wall clock by more than a day that `is_trusted` has seen.
        jump_s: Seconds of the last one.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ahead_s = time.time() - monotonic()
        self._trusted_from_s = 0.0  # monotonic
        self.jumps = 0
        self.jump_s = 0.0

    def is_set(self) -> bool:
        """Whether the wall clock was ever set."""
        return time.time() >= WRITTEN_S

    def is_trusted(self) -> bool:
        """Whether the wall clock is set and has not jumped for a day."""
        ahead_s = time.time() - self._monotonic()
        jump_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        if abs(jump_s) > DAY_S:
            self._trusted_from_s = self._monotonic() + DAY_S
            self.jumps += 1
            self.jump_s = jump_s
        return self.is_set() and self._monotonic() >= self._trusted_from_s
