"""Memristor crossbars: sets aligned with the arrays, and levels a device can be programmed to.

The GEMM matrix (O, P) is cut into groups of `bit_lines` filters; each group spans
ceil(P / word_lines) arrays of word_lines x bit_lines cells. Area falls only when a whole array
disappears, so that budgets are whole arrays. Word lines shared by a group are the columns of
`compression.sets.units.Columns` with group_size = bit_lines; bit lines are `Filters`.
"""

import math

import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits, index_bits
from pneumonia.compression.sets.constraint import (
    WEIGHT_BITS,
    Projection,
    check_finite,
    check_integer,
    check_n_keep,
    gemm_view,
    masked,
    top_k_mask,
)
from pneumonia.compression.sets.levels import Levels, table
from pneumonia.runtime.errors import PruneError


def whole_arrays(n_keep: int, n: int, lines: int) -> int:
    """Columns (or filters) kept, rounded to whole arrays of `lines`: at least one, at most n."""
    return min(max(round(n_keep / lines), 1) * lines, n)


def tile_energies(v: Tensor, word_lines: int, bit_lines: int) -> Tensor:
    """Sum of squares of each array's weights: float64 (ceil(O/bit_lines), ceil(P/word_lines))."""
    squares = gemm_view(v).double().square()
    n_rows, n_columns = squares.shape
    padded = torch.nn.functional.pad(squares, (0, -n_columns % word_lines, 0, -n_rows % bit_lines))
    tiles = padded.reshape(
        padded.shape[0] // bit_lines, bit_lines, padded.shape[1] // word_lines, word_lines
    )
    return tiles.sum((1, 3))


class Blocks:
    """At most `n_keep` non-zero tiles of bit_lines filters x word_lines columns. Exact.

    Args:
        n_keep: Tiles kept, one array each.
        word_lines: Inputs of an array.
        bit_lines: Outputs of an array.
    """

    def __init__(self, n_keep: int, word_lines: int, bit_lines: int) -> None:
        check_n_keep(n_keep, "crossbar blocks")
        if word_lines < 1 or bit_lines < 1:
            raise PruneError(
                "Crossbar has no lines", expected=">= 1", found=f"{word_lines} x {bit_lines}"
            )
        self.n_keep = n_keep
        self.word_lines = word_lines
        self.bit_lines = bit_lines

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set: the tiles of largest energy."""
        check_finite(v)
        energy = tile_energies(v, self.word_lines, self.bit_lines)
        alive = top_k_mask(energy.reshape(-1), self.n_keep).reshape(energy.shape)
        matrix = gemm_view(v)
        mask = alive.repeat_interleave(self.bit_lines, 0).repeat_interleave(self.word_lines, 1)
        return masked(v, mask[: matrix.shape[0], : matrix.shape[1]].reshape(v.shape))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Dense tiles and, per group of filters, the numbers of its tiles."""
        energy = tile_energies(z, self.word_lines, self.bit_lines) > 0
        n_rows, n_columns = gemm_view(z).shape
        height = torch.full((energy.shape[0],), self.bit_lines)
        height[-1] = n_rows - self.bit_lines * (energy.shape[0] - 1)
        width = torch.full((energy.shape[1],), self.word_lines)
        width[-1] = n_columns - self.word_lines * (energy.shape[1] - 1)
        weights = int((energy * height.unsqueeze(1) * width).sum())
        return StorageBits(weights * WEIGHT_BITS, int(energy.sum()) * index_bits(energy.shape[1]))


def linear_device(bits: int) -> Levels:
    """Zero-symmetric levels of an ideal device: m * step, m = 1 .. 2**(bits-1) per polarity.

    The layer's scale maps weight units to conductance, so the step counts as 1 here;
    `conductance_step` is its physical size. There is no level for zero.

    Args:
        bits: Of the signed weight, 2 .. 9.

    Raises:
        PruneError: Another number of bits.
    """
    if not 2 <= bits <= 9:
        raise PruneError("Crossbar weight has no levels", expected="2 to 9 bits", found=repr(bits))
    return table(tuple(float(m) for m in range(1, (1 << (bits - 1)) + 1)))


def conductance_step(bits: int, r_min_ohm: float = 1e6, r_max_ohm: float = 1e7) -> float:
    """Conductance between neighbouring levels in siemens: (1/R_min - 1/R_max) / 2**(bits-1).

    Raises:
        PruneError: Resistances no device has, or no bits.
    """
    check_integer(bits, "Number of bits", 1)
    if not 0 < r_min_ohm < r_max_ohm:
        raise PruneError(
            "Crossbar device is not possible",
            expected="0 < r_min_ohm < r_max_ohm",
            found=f"{r_min_ohm:g} and {r_max_ohm:g} ohm",
        )
    return (1 / r_min_ohm - 1 / r_max_ohm) / (1 << (bits - 1))


def conductances(
    z: Tensor, scale: float, step_s: float, lowest_s: float = 1e-7
) -> tuple[Tensor, Tensor]:
    """Programming targets of the positive and the negative array, siemens, float64 like `z`.

    A weight scale * m is (g_plus - g_minus) / step * scale; one of the two stays at the lowest
    conductance the device has.

    Raises:
        PruneError: A weight is not finite, or scale, step or lowest conductance is not above 0.
    """
    check_finite(z)
    for name, value in (("Scale", scale), ("Step", step_s), ("Lowest conductance", lowest_s)):
        if not 0 < value < math.inf:
            raise PruneError(f"{name} is not valid", expected="a number > 0", found=repr(value))
    units = z.double() / scale * step_s
    return units.clamp(min=0) + lowest_s, (-units).clamp(min=0) + lowest_s


def program(
    z: Tensor, levels: Levels, scale: float, sigma: float, generator: torch.Generator
) -> Tensor:
    """Weights as one chip holds them: levels are the means of the device's states.

    Each non-zero weight differs from its level by N(0, (sigma * step)**2), step the scale times
    the smallest gap of the levels; the expected error is zero because levels are means.

    Args:
        z: Weights on levels.
        levels: The device's table.
        scale: alpha of the layer.
        sigma: Standard deviation in steps.
    """
    gaps = [b - a for a, b in zip((0.0, *levels.magnitudes), levels.magnitudes, strict=False)]
    noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
    return torch.where(z != 0, z + noise * (sigma * scale * min(gaps)), z)
