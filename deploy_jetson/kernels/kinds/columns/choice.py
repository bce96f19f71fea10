"""Choices and variants of the column kernel."""

from dataclasses import dataclass
from typing import NamedTuple

from deploy_jetson.kernels.kinds.register_tiles import TileVariant, register_tiles
from deploy_jetson.kernels.targets import Target


class ColumnsChoice(NamedTuple):
    """Parameters of a column kernel."""

    # pixels, vectors: register tile
    pixels: int
    vectors: int
    rows_per_unit: int  # rows of one unit of work
    # a panel's list is cut into pieces whose weights and inputs fit this; each runs over all rows
    # before the next one, on sums kept in the output. 0: the list is whole
    piece_bytes: int = 0
    strip_pixels: int = 0  # pixels of a row that are done for all rows before the next ones; 0: all


@dataclass(frozen=True, kw_only=True)
class ColumnsVariant(TileVariant):
    """The column kernel with one register tile."""

    stride: int  # of the convolution
    pixel: int | None  # 32-bit words from an input pixel to the next; None: LANES

    @property
    def family(self) -> str:
        """Name of its kernel family."""
        return "columns"

    @property
    def step(self) -> str:
        """C expression of the words between the inputs of neighbouring output pixels."""
        return f"{self.stride} * {'LANES' if self.pixel is None else self.pixel}"

    @property
    def step_name(self) -> str:
        """The same as part of a C name."""
        return f"{self.stride}x{'L' if self.pixel is None else self.pixel}"

    @property
    def name(self) -> str:
        """Name of the step function in C."""
        layout = {None: "blocked", 1: "planar"}.get(self.pixel, f"pixel{self.pixel}")
        tile = f"{self.pixels}x{self.vectors}_stride{self.stride}_{layout}{self.ends}"
        return f"columns_{tile}_{self.number}{self.suffix}"

    @property
    def rows(self) -> str:
        """Name of the C function that computes rows of one panel."""
        return self.name + "_rows"


def strip_tiles(choice: ColumnsChoice, width: int, pixels: int) -> int:
    """Tiles of a strip, for tiles of `pixels`: strips of nearly equal width."""
    tiles = -(-width // pixels)
    if not choice.strip_pixels:
        return tiles
    strips = -(-width // max(choice.strip_pixels, pixels))
    return -(-tiles // min(strips, tiles))


def tail_pixels(target: Target, width: int, vectors: int) -> int:
    """The widest legal tile for the vectors of filters that full panels leave over."""
    return max(pixels for pixels, nv in register_tiles(target, width, vectors) if nv == vectors)
