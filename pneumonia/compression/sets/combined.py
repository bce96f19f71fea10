"""Filters and columns together, in one layer (`Combined`) or in tied layers (`TiedFilters`)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits
from pneumonia.compression.sets.alternation import (
    REFINED_ELEMENTS,
    TiedMatrix,
    UnitChoice,
    alternate,
    choice_masks,
    choose,
    column_masks,
    random_starts,
    refine_groups,
    unit_scores,
)
from pneumonia.compression.sets.columns import Budget, ColumnRule, check_rule, follows_rule
from pneumonia.compression.sets.constraint import (
    Projection,
    check_finite,
    check_integer,
    check_n_keep,
    gemm_view,
    masked,
    row_energies,
    top_k_mask,
)
from pneumonia.compression.sets.units import column_storage_bits

RANDOM_STARTS = 6
SEED = 0


class TiedLayer(NamedTuple):
    """One layer whose filters are tied to those of others."""

    name: str  # layer name
    unit_of_filter: Tensor  # unit of each filter, int64 (O,), values in 0..n_units-1
    columns: ColumnRule | None = None  # how many columns the layer keeps; None keeps all


class TiedFilters:
    """At most `n_keep` units of tied filters, each layer with its own columns.

    A unit's score is the sum over the layers of its filters' energies, so with every `columns` None
    the projection is exact; with columns it is the best of several alternating starts.

    Args:
        n_keep: Units kept; the protected ones count.
        protected: Units that must stay, bool (n_units,).
        n_random_starts: Random starts besides the two by full energy and the previous support.
    """

    def __init__(
        self,
        layers: Sequence[TiedLayer],
        n_keep: int,
        protected: Tensor,
        n_random_starts: int = RANDOM_STARTS,
    ) -> None:
        check_n_keep(n_keep, "filters")
        for layer in layers:
            if layer.columns is not None:
                check_rule(layer.columns)
        self.tied = tuple(layers)
        self.protected = protected
        self.n_units = protected.numel()
        # Room for the protected units and for one of every layer that shares only some units.
        partial = sum(1 for layer in layers if _n_distinct(layer.unit_of_filter) < self.n_units)
        floor = int(protected.sum()) + partial
        self.n_keep = min(max(n_keep, floor), self.n_units)
        self.n_random_starts = n_random_starts

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the tied layers."""
        return tuple(layer.name for layer in self.tied)

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """The best point found; `v` itself if it is in the set.

        Args:
            near: A point whose support is one of the starts, for example the previous Z.
        """
        for name in self.layers:
            check_finite(v[name], name)
        if all(layer.columns is None for layer in self.tied):
            return self._project_filters(v)
        feasible = self._feasible_units(v)
        if feasible is not None:
            # Chosen by support: the square of a tiny weight may vanish beside that of a huge one.
            matrices = self._matrices({name: (v[name] != 0).float() for name in self.layers})
            choice = choose(matrices, feasible)
        else:
            matrices = self._matrices(v)
            choice = self._drop_empty_units(v, matrices, self._best(v, matrices, near))
        masks = choice_masks(matrices, choice)
        return {
            name: masked(v[name], mask.reshape(v[name].shape))
            for name, mask in zip(self.layers, masks, strict=True)
        }

    def _project_filters(self, v: Mapping[str, Tensor]) -> dict[str, Projection]:
        scores = torch.zeros(self.n_units, dtype=torch.float64)
        for layer in self.tied:
            scores.index_add_(0, layer.unit_of_filter, row_energies(v[layer.name]))
        return self.restricted(v, self.best_units(v, scores))

    def best_units(self, v: Mapping[str, Tensor], scores: Tensor) -> Tensor:
        """The `n_keep` units of largest score and those that must stay: bool (n_units,).

        Args:
            scores: float64 (n_units,), finite.
        """
        scores = scores.masked_fill(self.protected | self._layer_floors(v), torch.inf)
        return top_k_mask(scores, self.n_keep)

    def restricted(self, v: Mapping[str, Tensor], units: Tensor) -> dict[str, Projection]:
        """The weights with the filters of the given units, bool (n_units,), and no others."""
        return {
            layer.name: masked(
                v[layer.name],
                units[layer.unit_of_filter].reshape(-1, *[1] * (v[layer.name].dim() - 1)),
            )
            for layer in self.tied
        }

    def _matrices(self, v: Mapping[str, Tensor]) -> list[TiedMatrix]:
        # One scale for all layers: their energies are added.
        scale = max(float(v[name].abs().max()) for name in self.layers) or 1.0
        return [
            TiedMatrix(
                (gemm_view(v[layer.name]).detach().float() / scale).square_(),
                layer.unit_of_filter,
                layer.columns,
            )
            for layer in self.tied
        ]

    def _feasible_units(self, v: Mapping[str, Tensor]) -> Tensor | None:
        """Units of a `v` that is in the set already, or None.

        A point of the set is its own projection; deciding so by its support, not by comparing
        energies, makes the projection idempotent to the last bit.
        """
        used = self._used_units(v)
        if int(used.sum()) > self.n_keep:
            return None
        filled = top_k_mask(used.float().masked_fill(self.protected, 2.0), self.n_keep)
        for units in (filled, used | self.protected):
            if all(_fits(layer, gemm_view(v[layer.name]), units) for layer in self.tied):
                return units
        return None

    def _used_units(self, v: Mapping[str, Tensor]) -> Tensor:
        used = torch.zeros(self.n_units, dtype=torch.bool)
        for layer in self.tied:
            used[layer.unit_of_filter[(gemm_view(v[layer.name]) != 0).any(1)]] = True
        return used

    def _best(
        self,
        v: Mapping[str, Tensor],
        matrices: list[TiedMatrix],
        near: Mapping[str, Tensor] | None,
    ) -> UnitChoice:
        if self.n_keep == self.n_units:
            return choose(matrices, torch.ones(self.n_units, dtype=torch.bool))
        protected = self.protected | self._layer_floors(v)
        starts = self._starts(matrices, protected, near)
        units, energies = alternate(matrices, starts, self.n_keep, protected)
        order = energies.sort(descending=True, stable=True).indices
        order = order[_first_occurrences(units[order])]
        if not any(matrix.rule and matrix.rule.group_size for matrix in matrices):
            return choose(matrices, units[order[0]])
        size = sum(matrix.squares.numel() for matrix in matrices)
        n_refined = max(1, REFINED_ELEMENTS // size)
        candidates = [units[i] for i in order[: n_refined + 1].tolist()]
        candidates += [self._best_ungrouped_units(matrices, protected), starts[0]]
        if near is not None:
            candidates.insert(0, starts[2])
        choices = [choose(matrices, start) for start in candidates]
        choices.sort(key=lambda choice: -choice.energy)  # stable: the first of equals
        return max(
            [refine_groups(matrices, c, self.n_keep, protected) for c in choices[:n_refined]],
            key=lambda choice: choice.energy,
        )

    def _starts(
        self, matrices: list[TiedMatrix], protected: Tensor, near: Mapping[str, Tensor] | None
    ) -> Tensor:
        """Bool (starts, n_units): best full rows, rows best in the best columns, near, random."""
        full = torch.zeros(1, self.n_units)
        for matrix in matrices:
            full += unit_scores(matrix, matrix.squares.sum(1).unsqueeze(0), self.n_units)
        everything = torch.ones(1, self.n_units, dtype=torch.bool)
        scores = [full[0], _scores_in_best_columns(matrices, everything)]
        if near is not None:
            scores.append(full[0] + self._used_units(near).float() * (1 + full.max()))
        random = random_starts(self.n_units, self.n_keep, self.n_random_starts, SEED)
        scores.extend(random.float())
        return torch.stack(
            [top_k_mask(score.masked_fill(protected, torch.inf), self.n_keep) for score in scores]
        )

    def _best_ungrouped_units(self, matrices: list[TiedMatrix], protected: Tensor) -> Tensor:
        """Units best if every filter had columns of its own: the optimum of group size 1."""
        scores = torch.zeros(self.n_units)
        for matrix in matrices:
            n_columns = matrix.squares.shape[1]
            n_keep = n_columns if matrix.rule is None else min(matrix.rule.n_keep, n_columns)
            rows = matrix.squares.topk(n_keep, dim=1, sorted=False).values.sum(1)
            scores += unit_scores(matrix, rows.unsqueeze(0), self.n_units)[0]
        return top_k_mask(scores.masked_fill(protected, torch.inf), self.n_keep)

    def _layer_floors(self, v: Mapping[str, Tensor]) -> Tensor:
        """The best unit of every layer that shares only some units: no layer may end up empty."""
        floors = torch.zeros(self.n_units, dtype=torch.bool)
        for layer in self.tied:
            own = torch.zeros(self.n_units, dtype=torch.bool)
            own[layer.unit_of_filter] = True
            if not bool(own.all()) and not bool((own & (self.protected | floors)).any()):
                scores = torch.full((self.n_units,), -1.0, dtype=torch.float64)
                scores[own] = 0.0
                scores.index_add_(0, layer.unit_of_filter, row_energies(v[layer.name]))
                floors |= top_k_mask(scores, 1)
        return floors

    def _drop_empty_units(
        self, v: Mapping[str, Tensor], matrices: list[TiedMatrix], choice: UnitChoice
    ) -> UnitChoice:
        """Drop units that keep no weight: they would shift the groups of the next projection."""
        while any(matrix.rule and matrix.rule.group_size for matrix in matrices):
            used = self.protected.clone()
            masks = choice_masks(matrices, choice)
            for layer, mask in zip(self.tied, masks, strict=True):
                rows = ((gemm_view(v[layer.name]) != 0) & mask).any(1)
                used[layer.unit_of_filter[rows]] = True
            if bool((used | ~choice.units).all()) or not bool(used.any()):
                break
            choice = choose(matrices, used)
        return choice


def _scores_in_best_columns(matrices: list[TiedMatrix], units: Tensor) -> Tensor:
    scores = torch.zeros(1, units.shape[1])
    for matrix in matrices:
        columns = column_masks(matrix, units)
        rows = matrix.squares.sum(1)[None] if columns is None else columns @ matrix.squares.T
        scores += unit_scores(matrix, rows, units.shape[1])
    return scores[0]


def _first_occurrences(rows: Tensor) -> Tensor:
    """Ascending indices of the rows that no earlier row equals: starts often end at one point."""
    seen: dict[bytes, int] = {}
    for number, row in enumerate(rows.numpy()):
        seen.setdefault(row.tobytes(), number)
    return torch.tensor(list(seen.values()))


def _n_distinct(units: Tensor) -> int:
    return len(set(units.tolist()))


def _fits(layer: TiedLayer, matrix: Tensor, units: Tensor) -> bool:
    rows = units[layer.unit_of_filter].nonzero().squeeze(1)
    if layer.columns is None:
        return True
    return rows.numel() > 0 and follows_rule(matrix != 0, rows, layer.columns)


class Combined:
    """At most `n_filters` filters and, in them, `n_columns` columns per group of one layer.

    Args:
        n_filters: Filters kept.
        n_columns: Columns kept in each group.
        group_size: Consecutive *kept* filters that share their columns; 0 = all.
        budget: `group`: n_columns in every group; `layer`: as many, wherever they are worth most.
        n_random_starts: Random starts of the search, besides those by energy.
    """

    def __init__(
        self,
        n_filters: int,
        n_columns: int,
        group_size: int = 0,
        budget: Budget = "group",
        n_random_starts: int = RANDOM_STARTS,
    ) -> None:
        check_n_keep(n_filters, "filters")
        self.n_filters = n_filters
        self.rule = ColumnRule(n_columns, group_size, budget)
        check_rule(self.rule)
        check_integer(n_random_starts, "Number of random starts", 0)
        self.n_random_starts = n_random_starts

    def project(self, v: Tensor) -> Projection:
        """The best point found; `v` itself if it is in the set."""
        n_filters = v.shape[0]
        layer = TiedLayer("weight", torch.arange(n_filters), self.rule)
        nothing = torch.zeros(n_filters, dtype=torch.bool)
        tied = TiedFilters([layer], self.n_filters, nothing, self.n_random_starts)
        return tied.project({"weight": v})["weight"]

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Kept filters densely packed over their groups' columns; filters need no index."""
        support = gemm_view(z) != 0
        rows = support.any(1).nonzero().squeeze(1)
        return column_storage_bits(support, rows, self.rule.group_size)
