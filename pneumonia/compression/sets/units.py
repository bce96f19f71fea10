"""The sets that keep the units of most energy: weights, filters, channels, columns. All exact."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits, best_irregular_index_bits
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


class _LargestUnits:
    """At most `n_keep` units of one layer: those of largest score."""

    unit = ""  # what a message calls them

    def __init__(self, n_keep: int) -> None:
        check_n_keep(n_keep, self.unit)
        self.n_keep = n_keep

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set; exact."""
        check_finite(v)
        scores = self._scores(v)
        return masked(v, top_k_mask(scores.reshape(-1), self.n_keep).reshape(scores.shape))

    def _scores(self, v: Tensor) -> Tensor:
        """One score per unit, in a shape that broadcasts to that of `v`."""
        raise NotImplementedError


class Irregular(_LargestUnits):
    """At most `n_keep` non-zero weights in the layer: keeps the largest magnitudes. Exact.

    Most weights are removed, at the price of one index each.
    """

    unit = "weights"

    def _scores(self, v: Tensor) -> Tensor:
        return v.abs()

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Values, and the cheapest of a bitmap, CSR and relative indices of 1..16 bits."""
        support = (gemm_view(z) != 0).numpy()
        return StorageBits(
            int(support.sum()) * WEIGHT_BITS, best_irregular_index_bits(support, WEIGHT_BITS)
        )


class GlobalIrregular:
    """At most `n_keep` non-zero weights in all layers together, at least `floor` in each. Exact.

    Taking the best `floor` of every layer first and the best of all others next is the optimum
    (the supports form a matroid).

    Args:
        layers: The layers tied together, in the order that breaks ties.
        n_keep: Weights kept in all of them.
        floor: Weights every layer keeps (all of it when it has fewer).
    """

    def __init__(self, layers: tuple[str, ...], n_keep: int, floor: int = 1) -> None:
        check_n_keep(n_keep, "weights")
        check_n_keep(n_keep - floor * len(layers) + 1, "weights beyond the floor of each layer")
        self._layers = layers
        self.n_keep = n_keep
        self.floor = floor

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers the budget ties together."""
        return self._layers

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """The allowed point nearest to `v`, layer by layer; `near` is not needed."""
        scores = []
        for name in self._layers:
            check_finite(v[name], name)
            score = v[name].abs().reshape(-1)
            score[top_k_mask(score, min(self.floor, score.numel()))] = torch.inf
            scores.append(score)
        chosen = top_k_mask(torch.cat(scores), self.n_keep)
        masks = torch.split(chosen, [score.numel() for score in scores])
        return {
            name: masked(v[name], mask.reshape(v[name].shape))
            for name, mask in zip(self._layers, masks, strict=True)
        }


class Filters(_LargestUnits):
    """At most `n_keep` non-zero filters (rows of M): keeps those of largest energy."""

    unit = "filters"

    def _scores(self, v: Tensor) -> Tensor:
        return row_energies(v).reshape(-1, *[1] * (v.dim() - 1))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Dense rows; compaction removes the others, so no index is needed."""
        matrix = gemm_view(z)
        n_rows = int((matrix != 0).any(1).sum())
        return StorageBits(n_rows * matrix.shape[1] * WEIGHT_BITS, 0)


class Channels(_LargestUnits):
    """At most `n_keep` input channels with a non-zero weight: those of largest energy."""

    unit = "channels"

    def _scores(self, v: Tensor) -> Tensor:
        energies = v.double().square().reshape(v.shape[0], v.shape[1], -1).sum((0, 2))
        return energies.reshape(1, -1, *[1] * (v.dim() - 2))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Dense weights of the kept channels; compaction removes the others."""
        used = (z.reshape(z.shape[0], z.shape[1], -1) != 0).any(2).any(0)
        return StorageBits(int(used.sum()) * (z.numel() // z.shape[1]) * WEIGHT_BITS, 0)


class Columns:
    """At most `n_keep` non-zero columns in every group of consecutive filters.

    Args:
        n_keep: Columns kept per group.
        group_size: Filters that share their columns; 0 = the whole layer.
        budget: `group`: n_keep in every group; `layer`: as many, wherever they are worth most.
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
