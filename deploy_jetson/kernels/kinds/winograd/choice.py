"""Choices and variants of the Winograd kernel."""

from dataclasses import dataclass
from typing import NamedTuple

from deploy_jetson.kernels.kinds.register_tiles import TileVariant


class WinogradChoice(NamedTuple):
    """Winograd F(out_tile, 3)."""

    out_tile: int  # output pixels of a tile's side
    # pixels, vectors: register tile of the products
    pixels: int
    vectors: int
    block_tiles: int  # tiles of one unit of work


@dataclass(frozen=True, kw_only=True)
class WinogradVariant(TileVariant):
    """F(out_tile, 3) with one register tile for its products."""

    out_tile: int  # output pixels of a tile's side

    @property
    def family(self) -> str:
        """Name of its kernel family."""
        return "winograd"

    @property
    def name(self) -> str:
        """Name of the step function in C."""
        tile = f"f{self.out_tile}_{self.pixels}x{self.vectors}{self.ends}"
        return f"winograd_{tile}_{self.number}{self.suffix}"
