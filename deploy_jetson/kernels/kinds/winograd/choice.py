"""Choices and variants of the Winograd kernel."""

from typing import NamedTuple


class WinogradChoice(NamedTuple):
    """Winograd F(out_tile, 3)."""

    out_tile: int  # output pixels of a tile's side
    # pixels, vectors: register tile of the products
    pixels: int
    vectors: int
    block_tiles: int  # tiles of one unit of work


class WinogradVariant(NamedTuple):
    """F(out_tile, 3) with one register tile for its products."""

    out_tile: int  # output pixels of a tile's side
    # pixels, vectors: register tile
    pixels: int
    vectors: int
    narrow: bool = True  # blocks also need register tiles of one pixel less
    # suffix of the arithmetic's types and functions in engine.h: real, or i8x2 for products of
    # whole numbers
    number: str = "real"
    formats: tuple[str, ...] = ("real",)  # of its output, see `ConvolutionStep`

    @property
    def family(self) -> str:
        """Name of its kernel family."""
        return "winograd"

    @property
    def name(self) -> str:
        """Name of the step function in C."""
        ends = "" if self.narrow else "_even"
        tile = f"{self.pixels}x{self.vectors}"
        return f"winograd_f{self.out_tile}_{tile}{ends}_{self.number}{self.suffix}"

    @property
    def suffix(self) -> str:
        """Of C names: the formats, unless they are `real` alone."""
        return "" if self.formats == ("real",) else "_to_" + "_".join(self.formats)

    @property
    def widths(self) -> tuple[int, ...]:
        """Pixels of its register tiles, the widest first."""
        return (self.pixels, self.pixels - 1) if self.narrow else (self.pixels,)
