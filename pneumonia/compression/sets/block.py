"""Block-max weight masking (BMWM) and density-adaptive regular blocks (DARB).

A row of the GEMM matrix is cut into blocks of equal size 2**e and keeps the weight of largest
magnitude of each: regular enough to decode in constant time, and with a size of its own per row
nearly as accurate as irregular pruning.
"""

import heapq
import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits, darb_bits
from pneumonia.compression.sets.constraint import (
    WEIGHT_BITS,
    Projection,
    check_choice,
    check_finite,
    check_integer,
    check_n_keep,
    gemm_view,
    masked,
    top_k_mask,
)
from pneumonia.runtime.errors import PruneError

Selector = Literal["density", "energy"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def block_count(n: int, exponent: int) -> int:
    """Blocks of 2**exponent that a row of n weights makes; the last may be short."""
    return (n + (1 << exponent) - 1) >> exponent


def largest_exponent(n: int) -> int:
    """floor(log2 n): the largest block size of a row of n weights is 2**this."""
    return int(n).bit_length() - 1


def block_mask(matrix: Tensor, exponent: int) -> Tensor:
    """The largest magnitude of each block of each row (O, n): bool; the first of equals."""
    n_rows, n = matrix.shape
    size = 1 << exponent
    n_blocks = block_count(n, exponent)
    magnitude = matrix.abs()
    if n_blocks * size != n:  # a padded place must never win, not even among zeros
        magnitude = torch.nn.functional.pad(magnitude, (0, n_blocks * size - n), value=-1.0)
    blocks = magnitude.reshape(n_rows, n_blocks, size)
    winner = blocks.argmax(2, keepdim=True)
    mask = torch.zeros_like(blocks, dtype=torch.bool).scatter_(2, winner, True)
    return mask.reshape(n_rows, -1)[:, :n]


def rowwise_mask(matrix: Tensor, exponents: Ints) -> Tensor:
    """`block_mask` with an exponent per row."""
    mask = torch.zeros_like(matrix, dtype=torch.bool)
    for exponent in np.unique(exponents):
        rows = torch.from_numpy(np.flatnonzero(exponents == exponent))
        mask[rows] = block_mask(matrix[rows], int(exponent))
    return mask


def level_energies(matrix: Tensor) -> Floats:
    """Energy kept by BMWM at every block size: float64 (O, E), exponent e in column e.

    Maxima of blocks of 2**(e+1) are maxima of pairs of those of 2**e: all sizes cost O(n).
    """
    best = matrix.double().square().numpy()
    energies = [best.sum(1)]
    for _ in range(largest_exponent(matrix.shape[1])):
        if best.shape[1] % 2:
            best = np.pad(best, ((0, 0), (0, 1)))
        best = np.maximum(best[:, 0::2], best[:, 1::2])
        energies.append(best.sum(1))
    return np.stack(energies, axis=1)


def _counts(n: int) -> Ints:
    return np.array([block_count(n, e) for e in range(largest_exponent(n) + 1)], dtype=np.int64)


def exponents_by_energy(matrix: Tensor, budget: int) -> Ints:
    """Block exponent of each row that keeps most energy with at most `budget` weights.

    Maximises sum_i E_i(e_i) - lambda * ceil(n / 2**e_i), bisects lambda to the budget and spends
    what is left on the best energy per extra weight: the Euclidean projection onto the union of
    all row-adaptive sets, up to the Lagrangian gap.
    """
    energies = level_energies(matrix)
    counts = _counts(matrix.shape[1])

    def choose(price: float) -> Ints:
        value = energies - price * counts
        # Of equal values the largest block wins.
        chosen = value.shape[1] - 1 - np.argmax(value[:, ::-1], axis=1)
        return np.asarray(chosen, dtype=np.int64)

    low, high = 0.0, float(energies[:, 0].max()) + 1.0
    best = choose(low)
    if counts[best].sum() > budget:
        best = choose(high)
        for _ in range(64):
            middle = (low + high) / 2
            chosen = choose(middle)
            if counts[chosen].sum() <= budget:
                high, best = middle, chosen
            else:
                low = middle
    return _spend(energies, counts, best, budget)


def _spend(energies: Floats, counts: Ints, exponents: Ints, budget: int) -> Ints:
    """Give unused weights to the rows that gain most energy per weight."""
    exponents = exponents.copy()
    left = budget - int(counts[exponents].sum())

    def offer(row: int) -> tuple[float, int, int] | None:
        now = int(exponents[row])
        extra = counts[:now] - counts[now]
        fits = np.flatnonzero(extra <= left)
        if not len(fits):
            return None
        gain = (energies[row, fits] - energies[row, now]) / extra[fits]
        pick = len(fits) - 1 - int(np.argmax(gain[::-1]))
        if gain[pick] <= 0:
            return None
        return (-float(gain[pick]), row, int(fits[pick]))

    heap = [entry for row in range(len(exponents)) if (entry := offer(row)) is not None]
    heapq.heapify(heap)
    while heap and left > 0:
        _, row, exponent = heapq.heappop(heap)
        extra = int(counts[exponent] - counts[exponents[row]])
        if 0 < extra <= left:
            exponents[row] = exponent
            left -= extra
        entry = offer(row)
        if entry is not None:
            heapq.heappush(heap, entry)
    return exponents


def exponents_by_density(matrix: Tensor, budget: int) -> Ints:
    """Block exponents from the row densities of an irregular pruning at the same budget.

    e_i = clip(round(log2(kappa / d_i)), 0, floor(log2 n)) with one kappa for the layer, the
    smallest that keeps at most `budget` weights; a row without survivors gets the largest block.
    """
    n = matrix.shape[1]
    counts = _counts(n)
    chosen = top_k_mask(matrix.abs().reshape(-1), budget).reshape(matrix.shape) & (matrix != 0)
    density = chosen.sum(1).double().numpy() / n
    alive = density > 0
    shift = np.full(len(density), math.inf)
    shift[alive] = -np.log2(density[alive])

    def choose(log_kappa: float) -> Ints:
        rounded = np.floor(np.minimum(shift + log_kappa, len(counts)) + 0.5)
        return np.clip(rounded, 0, len(counts) - 1).astype(np.int64)

    low, high = -float(len(counts)) - 1, float(len(counts)) + 1
    if counts[choose(low)].sum() <= budget:
        return choose(low)
    for _ in range(60):
        middle = (low + high) / 2
        if counts[choose(middle)].sum() <= budget:
            high = middle
        else:
            low = middle
    return choose(high)


SELECTORS = {"density": exponents_by_density, "energy": exponents_by_energy}


class BlockMax:
    """One non-zero weight in each block of 2**exponent weights of a row. Exact."""

    def __init__(self, exponent: int) -> None:
        check_integer(exponent, "Block exponent", 0)
        self.exponent = exponent

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set; a block size beyond the row is the whole row."""
        check_finite(v)
        matrix = gemm_view(v)
        return masked(v, block_mask(matrix, self._exponent(matrix)).reshape(v.shape))

    def _exponent(self, matrix: Tensor) -> int:
        return min(self.exponent, largest_exponent(matrix.shape[1]))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """One value and its place in each block."""
        matrix = gemm_view(z)
        exponents = [self._exponent(matrix)] * matrix.shape[0]
        return _storage(matrix.shape[1], exponents)


class DensityAdaptiveBlocks:
    """Blocks of a size per row, at most `n_keep` weights in the layer (DARB).

    With given exponents the projection is exact and the sets of later rounds are nested
    (2**(e+1) within 2**e: block winners compete pairwise); otherwise they are chosen from `v`.

    Args:
        n_keep: Weights kept; a row keeps at least one or two (the largest block is
            2**floor(log2 n)), so a smaller budget is refused.
        selector: `energy` (nearest point up to a Lagrangian gap) or `density` (as published).
        exponents: Fixed block exponents, one per row; None = chosen at each projection.
    """

    def __init__(
        self, n_keep: int, selector: Selector = "energy", exponents: Ints | None = None
    ) -> None:
        check_n_keep(n_keep, "weights")
        check_choice(selector, Selector, "Selector of the block sizes")
        self.n_keep = n_keep
        self.selector: Selector = selector
        self.exponents = exponents

    def choose(self, v: Tensor) -> Ints:
        """The block exponent of each row: int64 (O,).

        Raises:
            PruneError: Not even the largest blocks meet the budget.
        """
        matrix = gemm_view(v)
        least = matrix.shape[0] * int(_counts(matrix.shape[1])[-1])
        if self.n_keep < least:
            raise PruneError(
                "Rate is beyond what row blocks can reach",
                expected=f"at least {least} weights kept",
                found=repr(self.n_keep),
                fix="Lower the rate of this layer or use another method",
            )
        if self.exponents is not None:
            return self._given(matrix)
        return SELECTORS[self.selector](matrix, self.n_keep)

    def _given(self, matrix: Tensor) -> Ints:
        exponents = np.asarray(self.exponents)
        largest = largest_exponent(matrix.shape[1])
        fits = exponents.shape == matrix.shape[:1] and np.issubdtype(exponents.dtype, np.integer)
        if not fits or not ((exponents >= 0) & (exponents <= largest)).all():
            raise PruneError(
                "Block exponents do not fit the weight",
                expected=f"{matrix.shape[0]} ints of 0 to {largest}, one per filter",
                found=f"{exponents.dtype} {exponents.shape}",
            )
        return exponents.astype(np.int64)

    def project(self, v: Tensor) -> Projection:
        """The largest magnitude of every block."""
        check_finite(v)
        matrix = gemm_view(v)
        return masked(v, rowwise_mask(matrix, self.choose(v)).reshape(v.shape))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Value and place per block, and the block size of each row."""
        exponents = self.choose(z)
        return _storage(gemm_view(z).shape[1], exponents.tolist())


def _storage(n: int, exponents: list[int]) -> StorageBits:
    weights, indices = darb_bits(n, exponents, WEIGHT_BITS)
    return StorageBits(weights, indices)
