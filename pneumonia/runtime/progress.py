"""How work that takes long reports its progress."""

from typing import Callable, Optional

# Called with the steps done, the steps in all, and a short note on the current one.
Progress = Callable[[int, int, str], None]


def report_progress(progress: Optional[Progress], done: int, total: int, note: str = "") -> None:
    """Call `progress`, unless the caller wants no reports (None)."""
    if progress is not None:
        progress(done, total, note)
