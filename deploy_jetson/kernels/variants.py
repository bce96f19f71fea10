"""The one table of kernel variants: generator, tuner, tests and benchmark all read it."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from deploy_jetson.kernels.targets import Target

MAX_PIXELS = 14
MAX_VECTORS = 8
WINOGRAD_TILES = (2, 4, 6)  # output pixels of a tile's side: F(2,3), F(4,3), F(6,3)


class ColumnsVariant(NamedTuple):
    """The column kernel with one register tile.

    Attributes:
        pixels, vectors: Register tile.
        stride: Of the convolution.
        planar: The input has one channel per plane (the network's input) instead of LANES.
        narrow: Rows also need tiles of one pixel less.
    """

    pixels: int
    vectors: int
    stride: int
    planar: bool
    narrow: bool = True

    @property
    def step(self) -> str:
        """C expression of the floats between the inputs of neighbouring output pixels."""
        return str(self.stride) if self.planar else f"{self.stride} * LANES"

    @property
    def name(self) -> str:
        """Name of the step function in C."""
        layout = "planar" if self.planar else "blocked"
        ends = "" if self.narrow else "_even"
        return f"columns_{self.pixels}x{self.vectors}_stride{self.stride}_{layout}{ends}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Pixels of its tiles, the widest first."""
        return (self.pixels, self.pixels - 1) if self.narrow else (self.pixels,)

    @property
    def rows(self) -> str:
        """Name of the C function that computes rows of one panel."""
        return self.name + "_rows"


class WinogradVariant(NamedTuple):
    """Winograd convolution F(out_tile, 3) with one register tile for its products."""

    out_tile: int
    pixels: int
    vectors: int

    @property
    def name(self) -> str:
        """Name of the step function in C."""
        return f"winograd_f{self.out_tile}_{self.pixels}x{self.vectors}"


class PatternVariant(NamedTuple):
    """Lists of kernels or taps per filter: pixels across lanes.

    Attributes:
        rows, vectors, filters: Register tile.
        frames: 1: one set of sums, inputs are loaded where each column of the kernel needs them.
            3: a set of sums for each column, so that every load is aligned and serves all three;
            the sets are shifted against each other when they are added up.
        pitch: Floats from one row of the planar input to the next.
        side: Of the kernel.
        patterns: Taps kh * side + kw of every pattern.
    """

    rows: int
    vectors: int
    filters: int
    frames: int
    pitch: int
    side: int
    patterns: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """Name of the step function in C; the patterns as a short digest."""
        digest = hashlib.sha256(repr(self.patterns).encode()).hexdigest()[:6]
        tile = f"{self.rows}x{self.vectors}x{self.filters}"
        kind = "taps" if max(map(len, self.patterns), default=0) == 1 else "pattern"
        return f"{kind}{self.side}_{tile}_frames{self.frames}_pitch{self.pitch}_{digest}"


Variant = ColumnsVariant | WinogradVariant | PatternVariant


def register_tiles(target: Target, width: int, blocks: int) -> Iterator[tuple[int, int]]:
    """Legal register tiles (pixels, vectors) for rows of `width` pixels and `blocks` vectors.

    The number of pixels is the smallest that needs as many tiles per row as the widest legal one,
    so that a row is covered by tiles of `pixels` and of `pixels - 1` and nothing is wasted.
    """
    seen = set()
    for vectors in range(1, min(MAX_VECTORS, blocks) + 1):
        for widest in range(min(MAX_PIXELS, width), 0, -1):
            pixels = -(-width // -(-width // widest))
            if target.legal_tile(pixels, vectors) and (pixels, vectors) not in seen:
                seen.add((pixels, vectors))
                yield pixels, vectors


def split_row(width: int, pixels: int) -> tuple[int, int]:
    """Numbers of tiles of `pixels` and of `pixels - 1` that cover `width` exactly.

    Raises:
        ValueError: No such split exists (never for tiles of `register_tiles`).
    """
    tiles = -(-width // pixels)
    narrow = tiles * pixels - width
    if narrow > tiles:
        raise ValueError(f"{width} pixels cannot be split into tiles of {pixels} and {pixels - 1}")
    return tiles - narrow, narrow
