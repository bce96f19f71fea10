"""Choices and variants of the column kernel."""

from typing import NamedTuple

from deploy_jetson.kernels.kinds.register_tiles import register_tiles
from deploy_jetson.kernels.targets import Target


class ColumnsChoice(NamedTuple):
    """Column kernel."""

    # pixels, vectors: register tile
    pixels: int
    vectors: int
    rows_per_unit: int  # rows of one unit of work
    # a panel's list is cut into pieces whose weights and inputs fit this; each runs over all rows
    # before the next one, on sums kept in the output. 0: the list is whole
    piece_bytes: int = 0
    strip_pixels: int = 0  # pixels of a row that are done for all rows before the next ones; 0: all


class ColumnsVariant(NamedTuple):
    """The column kernel with one register tile."""

    # pixels, vectors: register tile
    pixels: int
    vectors: int
    stride: int  # of the convolution
    pixel: int | None  # 32-bit words from an input pixel to the next; None: LANES
    narrow: bool = True  # rows also need tiles of one pixel less
    # suffix of the arithmetic's types and functions in engine.h: real, or i8x2 and i8x4 for sums of
    # 2 or 4 products of whole numbers
    number: str = "real"
    formats: tuple[str, ...] = ("real",)  # of its output, see `ConvolutionStep`

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
        ends = "" if self.narrow else "_even"
        tile = f"{self.pixels}x{self.vectors}"
        return f"columns_{tile}_stride{self.stride}_{layout}{ends}_{self.number}{self.suffix}"

    @property
    def suffix(self) -> str:
        """Of C names: the formats, unless they are `real` alone."""
        return "" if self.formats == ("real",) else "_to_" + "_".join(self.formats)

    @property
    def widths(self) -> tuple[int, ...]:
        """Pixels of its tiles, the widest first."""
        return (self.pixels, self.pixels - 1) if self.narrow else (self.pixels,)

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
