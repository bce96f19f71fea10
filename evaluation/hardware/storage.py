"""Storage of a pruned weight matrix in bits, values and indices separately.

The matrix has O rows (filters) and P columns; b is the bits of one stored value. The functions
evaluate the formula of each format; `pneumonia.runtime.storage.formats` writes the same formats in
whole bytes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia.runtime.storage.sparse_layouts import MAX_RUN_BITS, shortest_run_bits

Mask = npt.NDArray[np.bool_]


class StorageBits(NamedTuple):
    """Bits of the stored values and of their indices."""

    weights: int
    indices: int

    @property
    def total(self) -> int:
        """Values and indices together."""
        return self.weights + self.indices


def index_bits(n: int) -> int:
    """Bits of an index of n values: ceil(log2 n), 0 for one value."""
    return max(n - 1, 0).bit_length()


def csr_bits(shape: tuple[int, int], n_kept: int, bits: int) -> StorageBits:
    """Compressed rows: a column number per value, and where each row starts."""
    rows, columns = shape
    return StorageBits(
        n_kept * bits, n_kept * index_bits(columns) + (rows + 1) * index_bits(n_kept + 1)
    )


def bitmap_bits(shape: tuple[int, int], n_kept: int, bits: int) -> StorageBits:
    """A bitmap of the stored values, one bit per weight."""
    return StorageBits(n_kept * bits, shape[0] * shape[1])


def relative_entries(support: Mask, run_bits: int) -> int:
    """Entries of relative indexing: survivors, and one filler per run of 2**run_bits zeros.

    Runs cross row ends; zeros after the last survivor need no entry.
    """
    places = np.flatnonzero(support)
    runs = np.diff(places, prepend=-1) - 1
    return int(len(places) + (runs >> run_bits).sum())


def relative_bits(support: Mask, run_bits: int, bits: int) -> StorageBits:
    """Relative indexing: entries of a value and the run of zeros (< 2**run_bits) before it."""
    n_kept = int(np.count_nonzero(support))
    total = relative_entries(support, run_bits) * (bits + run_bits)
    return StorageBits(n_kept * bits, total - n_kept * bits)


def best_run_bits(support: Mask, bits: int) -> int:
    """Bits of the run-length field (1 .. 16) that minimise the size of relative indexing."""
    return shortest_run_bits(np.diff(np.flatnonzero(support), prepend=-1) - 1, bits)


def best_irregular_index_bits(support: Mask, bits: int) -> int:
    """Index bits of the cheapest of bitmap, CSR and relative indexing of an (O, P) support."""
    shape = (support.shape[0], support.shape[1])
    n_kept = int(np.count_nonzero(support))
    return min(
        bitmap_bits(shape, n_kept, bits).indices,
        csr_bits(shape, n_kept, bits).indices,
        relative_bits(support, best_run_bits(support, bits), bits).indices,
    )


def fkw_bits(
    *, n_rows: int, n_channels: int, n_kernels: int, n_patterns: int, reordered: bool = True
) -> int:
    """Index bits of filter-kernel-weight storage.

    One channel number per kernel, where each row of kernels starts, where each pattern's run
    starts inside it, and the original number of each reordered filter.

    Args:
        n_rows: Filters, or groups of filters that share their lists.
        n_channels: Input channels I.
        n_kernels: Non-empty kernels (of a group: counted once).
        n_patterns: Patterns k.
        reordered: Filters were reordered; their numbers are stored.
    """
    bits = n_kernels * index_bits(n_channels)
    bits += (n_rows + 1) * index_bits(n_kernels + 1)
    bits += n_rows * (n_patterns + 1) * index_bits(n_channels + 1)
    return bits + (n_rows * index_bits(n_rows) if reordered else 0)


def darb_bits(n: int, exponents: Sequence[int], bits: int) -> tuple[int, int]:
    """Density-adaptive blocks: (value bits, index bits) of rows of n weights.

    A row of blocks of 2**e stores ceil(n / 2**e) values with e bits of place each, and its e.
    """
    levels = n.bit_length()  # exponents 0 .. floor(log2 n)
    counts = [(n + (1 << e) - 1) >> e for e in exponents]
    places = sum(count * e for count, e in zip(counts, exponents, strict=True))
    return sum(counts) * bits, places + len(exponents) * index_bits(levels)


def expected_relative_entries(n_kept: int, density: float, run_bits: int) -> float:
    """Expected entries of relative indexing when weights are kept independently at one density.

    nnz * (1 + q**M / (1 - q**M)) with q = 1 - d and M = 2**run_bits.
    """
    survive = math.pow(1.0 - density, 1 << run_bits)
    return n_kept * (1.0 + survive / (1.0 - survive))


def break_even_ratio(density: float, bits: int) -> float:
    """Factor by which an irregular rate must exceed a structured one to store less.

    (b + k_eff) / b with the best relative index at that density.
    """
    per_survivor = min(
        expected_relative_entries(1, density, k) * (bits + k) for k in range(1, MAX_RUN_BITS + 1)
    )
    return per_survivor / bits
