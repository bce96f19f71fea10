"""What the generator must decide for a convolution, and what it may decide."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia.runtime.spec import Conv, Linear

Weights = npt.NDArray[np.float32]


class Problem(NamedTuple):
    """One weighted layer with everything a choice depends on.

    Attributes:
        layer: The layer.
        weight: (O, I, K, K) float32; a fully connected layer has K = 1.
        in_height, in_width, out_height, out_width: Pixels.
        planar: It reads the network's planar input.
        storage: How its weights are stored.
    """

    layer: Conv | Linear
    weight: Weights
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    planar: bool
    storage: str = "fp32"

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[2])

    @property
    def stride(self) -> int:
        """Stride; 1 for a fully connected layer."""
        return self.layer.stride if isinstance(self.layer, Conv) else 1

    @property
    def padding(self) -> int:
        """Padding; 0 for a fully connected layer."""
        return self.layer.padding if isinstance(self.layer, Conv) else 0

    @property
    def winograd(self) -> bool:
        """Whether Winograd applies: 3x3, stride 1, blocked input, float32.

        Transformed weights are up to seven times as many and spread over far more magnitudes:
        neither small nor exact in fewer bits.
        """
        return self.stride_one_3x3 and self.storage == "fp32"

    @property
    def stride_one_3x3(self) -> bool:
        """3x3, stride 1, blocked input: what patterns and Winograd have in common."""
        return self.kernel == 3 and self.stride == 1 and not self.planar


class ColumnsChoice(NamedTuple):
    """Column kernel.

    Attributes:
        pixels, vectors: Register tile.
        rows_per_unit: Rows of one unit of work.
        piece_bytes: A panel's list is cut into pieces whose weights and inputs fit this; each runs
            over all rows before the next one, on sums kept in the output. 0: the list is whole.
        strip_pixels: Pixels of a row that are done for all rows before the next ones; 0: all.
    """

    pixels: int
    vectors: int
    rows_per_unit: int
    piece_bytes: int = 0
    strip_pixels: int = 0


class WinogradChoice(NamedTuple):
    """Winograd F(out_tile, 3): register tile of the products, tiles of one unit of work."""

    out_tile: int
    pixels: int
    vectors: int
    block_tiles: int


class PatternChoice(NamedTuple):
    """Free-pattern kernel.

    Attributes:
        rows, vectors, filters: Register tile; vectors of pixels.
        frames: See `PatternVariant`.
        cache_floats: Inputs of a block of channels that a tile touches; 0: the target's.
    """

    rows: int
    vectors: int
    filters: int
    frames: int
    cache_floats: int = 0


class TapsChoice(NamedTuple):
    """The same kernel over single taps, for weights without patterns: irregular, DARB."""

    rows: int
    vectors: int
    frames: int


class RowsChoice(NamedTuple):
    """Fully connected rows (DARB): filters across lanes, every lane its own list of inputs."""

    vectors: int


Choice = ColumnsChoice | WinogradChoice | PatternChoice | TapsChoice | RowsChoice
