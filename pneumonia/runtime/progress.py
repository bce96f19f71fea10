"""How work that takes long reports its progress."""

from typing import Callable

# Called with the steps done, the steps in all, and a short note on the current one.
Progress = Callable[[int, int, str], None]
