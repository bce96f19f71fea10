"""Choices and variants of the Winograd kernel."""

from typing import NamedTuple


class WinogradChoice(NamedTuple):
    """Winograd F(out_tile, 3).

    Attributes:
        out_tile: Output pixels of a tile's side.
        pixels, vectors: Register tile of the products.
        block_tiles: Tiles of one unit of work.
    """

    out_tile: int
    pixels: int
    vectors: int
    block_tiles: int


class WinogradVariant(NamedTuple):
    """F(out_tile, 3) with one register tile for its products.

    Attributes:
        out_tile: Output pixels of a tile's side.
        pixels, vectors: Register tile.
        narrow: Blocks also need register tiles of one pixel less.
        number: Suffix of the arithmetic's types and functions in engine.h: real, or i8x2 for
            products of whole numbers.
        formats: Of its output, see `ConvolutionStep`.
    """

    out_tile: int
    pixels: int
    vectors: int
    narrow: bool = True
    number: str = "real"
    formats: tuple[str, ...] = ("real",)

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
