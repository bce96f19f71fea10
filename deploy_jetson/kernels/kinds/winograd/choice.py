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
    """F(out_tile, 3) with one register tile for its products."""

    out_tile: int
    pixels: int
    vectors: int

    @property
    def family(self) -> str:
        """Name of its kernel family."""
        return "winograd"

    @property
    def name(self) -> str:
        """Name of the step function in C."""
        return f"winograd_f{self.out_tile}_{self.pixels}x{self.vectors}"
