"""Register tiles: how many pixels and vectors of filters one inner loop computes."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy_jetson.kernels.targets import Target

MAX_PIXELS = 14
MAX_VECTORS = 8


@dataclass(frozen=True, kw_only=True)
class TileVariant:
    """A kernel with one register tile, which covers rows of pixels and writes some formats."""

    # pixels, vectors: register tile
    pixels: int
    vectors: int
    narrow: bool = True  # rows also need tiles of one pixel less
    # suffix of the arithmetic's types and functions in engine.h: real, or i8x2 and i8x4 for sums of
    # 2 or 4 products of whole numbers
    number: str = "real"
    formats: tuple[str, ...] = ("real",)  # of its output, see `ConvolutionStep`

    @property
    def ends(self) -> str:
        """Suffix of C names where no row needs a narrower tile."""
        return "" if self.narrow else "_even"

    @property
    def suffix(self) -> str:
        """Suffix of C names: the formats, unless they are `real` alone."""
        return "" if self.formats == ("real",) else "_to_" + "_".join(self.formats)

    @property
    def widths(self) -> tuple[int, ...]:
        """Pixels of its tiles, the widest first."""
        return (self.pixels, self.pixels - 1) if self.narrow else (self.pixels,)


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
