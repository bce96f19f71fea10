"""Choices and variants of the pattern kernel, which single taps use too."""

import hashlib
from typing import NamedTuple


class PatternChoice(NamedTuple):
    """Free-pattern kernel."""

    # rows, vectors, filters: register tile; vectors of pixels
    rows: int
    vectors: int
    filters: int
    frames: int  # see `PatternVariant`
    # inputs of a block of channels that a tile touches; 0: the target's default
    cache_floats: int = 0


class PatternVariant(NamedTuple):
    """Lists of kernels or taps per filter: pixels across lanes."""

    # rows, vectors, filters: register tile
    rows: int
    vectors: int
    filters: int
    # 1: one set of sums, inputs are loaded where each column of the kernel needs them. 3: a set of
    # sums for each column, so that every load is aligned and serves all three; the sets are shifted
    # against each other when they are added up
    frames: int
    pitch: int  # floats from one row of the planar input to the next
    side: int  # of the kernel
    patterns: tuple[tuple[int, ...], ...]  # taps kh * side + kw of every pattern

    @property
    def family(self) -> str:
        """Name of its kernel family."""
        return "patterns"

    @property
    def name(self) -> str:
        """Name of the step function in C; the patterns as a short digest."""
        digest = hashlib.sha256(repr(self.patterns).encode()).hexdigest()[:6]
        tile = f"{self.rows}x{self.vectors}x{self.filters}"
        kind = "taps" if max(map(len, self.patterns), default=0) == 1 else "pattern"
        return f"{kind}{self.side}_{tile}_frames{self.frames}_pitch{self.pitch}_{digest}"

    @property
    def heights(self) -> list[int]:
        """Rows of its tiles: bands of equal height, and of one row less."""
        return [rows for rows in (self.rows, self.rows - 1) if rows]
