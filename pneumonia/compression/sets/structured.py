"""The sets of structured pruning of one layer: filters, channels, columns. All exact."""

import math

import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits
from pneumonia.compression.sets.columns import (
    Budget,
    ColumnRule,
    check_rule,
    choose_columns,
    dense_mask,
    group_energies,
    group_of_row,
)
from pneumonia.compression.sets.constraint import (
    WEIGHT_BITS,
    Projection,
    check_finite,
    check_n_keep,
    gemm_view,
    masked,
    row_energies,
    top_k_mask,
)


class Filters:
    """At most `n_keep` non-zero filters (rows of M): keeps those of largest energy."""

    def __init__(self, n_keep: int) -> None:
        check_n_keep(n_keep, "filters")
        self.n_keep = n_keep

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set; exact."""
        check_finite(v)
        keep = top_k_mask(row_energies(v), self.n_keep)
        return masked(v, keep.reshape(-1, *[1] * (v.dim() - 1)))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Dense rows; compaction removes the others, so no index is needed."""
        matrix = gemm_view(z)
        n_rows = int((matrix != 0).any(1).sum())
        return StorageBits(n_rows * matrix.shape[1] * WEIGHT_BITS, 0)


class Channels:
    """At most `n_keep` input channels with a non-zero weight: those of largest energy."""

    def __init__(self, n_keep: int) -> None:
        check_n_keep(n_keep, "channels")
        self.n_keep = n_keep

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set; exact."""
        check_finite(v)
        energies = v.double().square().reshape(v.shape[0], v.shape[1], -1).sum((0, 2))
        keep = top_k_mask(energies, self.n_keep)
        return masked(v, keep.reshape(1, -1, *[1] * (v.dim() - 2)))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Dense weights of the kept channels; compaction removes the others."""
        used = (z.reshape(z.shape[0], z.shape[1], -1) != 0).any(2).any(0)
        return StorageBits(int(used.sum()) * (z.numel() // z.shape[1]) * WEIGHT_BITS, 0)


class Columns:
    """At most `n_keep` non-zero columns in every group of consecutive filters.

    Args:
        n_keep: Columns kept per group.
        group_size: Filters that share their columns; 0 = the whole layer.
        budget: See `ColumnRule`.
    """

    def __init__(self, n_keep: int, group_size: int = 0, budget: Budget = "group") -> None:
        self.rule = ColumnRule(n_keep, group_size, budget)
        check_rule(self.rule)

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set; exact."""
        check_finite(v)
        matrix = gemm_view(v)
        rows = torch.arange(matrix.shape[0])
        energies = group_energies(matrix.double().square(), rows, self.rule.group_size)
        columns = choose_columns(energies, self.rule)
        mask = dense_mask(columns, rows, matrix.shape[0], self.rule.group_size)
        return masked(v, mask.reshape(v.shape))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Kept columns, and per group the cheaper of a bitmap and a list of column numbers."""
        rows = torch.arange(z.shape[0])
        return column_storage_bits(gemm_view(z) != 0, rows, self.rule.group_size)


def column_storage_bits(support: Tensor, rows: Tensor, group_size: int) -> StorageBits:
    """Bits of a column-pruned matrix.

    Each group stores its filters' weights at the group's used columns, and the cheaper of a
    bitmap of P bits and ceil(log2 P) bits per used column.

    Args:
        support: Non-zero places of the GEMM matrix, bool (O, P).
        rows: Ascending indices of the kept filters.
        group_size: Filters per group; 0 = all kept filters.
    """
    n_columns = support.shape[1]
    used = (group_energies(support.float(), rows, group_size) > 0).sum(1)
    group_rows = torch.bincount(group_of_row(rows.numel(), group_size), minlength=used.numel())
    bits_per_column = math.ceil(math.log2(max(n_columns, 2)))
    return StorageBits(
        int((used * group_rows).sum()) * WEIGHT_BITS,
        int((used * bits_per_column).clamp(max=n_columns).sum()),
    )
