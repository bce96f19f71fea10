"""Filter, column and combined pruning as one method with a dial between them."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt, PrivateAttr

from pneumonia.compression.compact.coupling import ChannelGraph, UnitGroup, prunable
from pneumonia.compression.prune.method import LadderStage, MethodSets, PruningMethod
from pneumonia.compression.sets.columns import Budget, ColumnRule
from pneumonia.compression.sets.combined import Combined, TiedFilters, TiedLayer
from pneumonia.compression.sets.constraint import (
    Constraint,
    JointConstraint,
    PerLayer,
    keep_count,
)
from pneumonia.compression.sets.kept_energy import NearestUnits
from pneumonia.compression.sets.network_set import NetworkSet
from pneumonia.compression.sets.units import Columns

WHOLE_COLUMNS = 0.999  # keeping more than this share of the columns is keeping them all


class StructuredMethod(PruningMethod):
    """Removes filters, and columns (the same weight of every filter of a group).

    A layer of rate R keeps about R**(-share / 2) of its filters; as its inputs shrink likewise
    this alone gives R**share. Columns of the channels that are left make up the rest of R.

    Attributes:
        kind: Names this method in a recipe.
        filter_share: Share of a layer's log rate that filters bear: 1 = filter pruning,
            0 = column pruning, between = combined. Layers whose filters are protected (heads) or
            tied to unselected layers lose columns only, whatever the share.
        group_size: Consecutive filters that share their columns; 0 = the whole layer. The
            generated kernels run panels of 8, 16 or 32 filters.
        budget: `group`: equal columns in every group; `layer`: wherever they are worth most.
        round_to: Kept filters are a multiple of this, after dead paths were removed and for tied
            layers jointly. Layers that keep all their filters, and outputs, are left alone.
        importance: What decides which filters stay, where they alone are removed (`filter_share`
            1). `network`: the energy of all weights that are left in the compacted network, also
            those of the layers that read a filter, and the gains of norms: the nearest such
            network. `filters`: the energy of the coupled filters alone. Ignored with columns:
            there the energy of the filters in the chosen columns decides.
        formulation: `joint`: one split, both at once. `two_split`: filters and columns each have
            their own Z and U. `sequential`: a stage of columns, then a stage of filters.
        random_starts: Of the combined projection.
    """

    kind: Literal["structured"] = "structured"
    filter_share: float = Field(default=0.5, ge=0, le=1)
    group_size: int = Field(default=16, ge=0)
    budget: Budget = "group"
    round_to: PositiveInt = 8
    importance: Literal["network", "filters"] = "network"
    formulation: Literal["joint", "two_split", "sequential"] = "joint"
    random_starts: int = Field(default=6, ge=0, le=64)

    _gains: dict[str, tuple[float, ...]] = PrivateAttr(default_factory=dict)

    def fitted(self, tensors: Mapping[str, torch.Tensor]) -> "StructuredMethod":
        """The method with the gains of the network's norms, for `importance: network`."""
        made = self.model_copy()
        made._gains = {
            name.rpartition(".")[0]: tuple(tensor.tolist())
            for name, tensor in tensors.items()
            if name.endswith((".bn_weight", ".norm_weight"))
        }
        return made

    def stages(self, rates: Sequence[float]) -> list[LadderStage]:
        """One stage per rate; `sequential` puts a stage of columns alone before each."""
        if self.formulation != "sequential" or self.filter_share in (0, 1):
            return [LadderStage(rate, self) for rate in rates]
        columns = self.model_copy(update={"filter_share": 0.0, "formulation": "joint"})
        both = self.model_copy(update={"formulation": "joint"})
        found, previous = [], 1.0
        for rate in rates:
            found.append(
                LadderStage(previous * (rate / previous) ** (1 - self.filter_share), columns)
            )
            found.append(LadderStage(rate, both))
            previous = rate
        return found

    def sets(self, graph: ChannelGraph, rates: Mapping[str, float]) -> MethodSets:
        """Budgets of filters per component, then of columns per layer, and the sets."""
        kept_units = {
            part.layers: self._filters(graph, part, rates)
            for part in graph.components()
            if set(part.layers) & set(rates)
        }
        share = _unit_shares(graph, kept_units)
        rules = {name: self._columns(graph, name, rate, share) for name, rate in rates.items()}
        parts = [
            self._tied(graph, part, kept_units[part.layers], rules)
            for part in graph.components()
            if part.layers in kept_units
        ]
        together = self.importance == "network" and self.filter_share == 1
        nearest = NearestUnits(graph, parts, self._gains) if together else None
        hard = NetworkSet(graph, parts, nearest)
        splits: tuple[JointConstraint, ...] = (hard,)
        if self.formulation == "two_split" and not together:
            splits = self._two_splits(graph, kept_units, rules) or splits
        grouped = {name: rule.group_size for name, rule in rules.items() if rule is not None}
        budgets = self._budgets(graph, kept_units, rules)
        return MethodSets(splits, hard, grouped, budgets, self.round_to)

    def alone(self, graph: ChannelGraph, layer: str, rate: float) -> Constraint:
        """Filters and columns of the one layer; heads lose columns only."""
        shape = _shape(graph, layer)
        protected = bool(graph.protected[graph.unit_out[layer]].any())
        share = 0.0 if protected else self.filter_share
        n_filters = keep_count(shape[0], rate**share)
        n_columns = keep_count(shape[1], rate * n_filters / shape[0])
        return Combined(n_filters, n_columns, self.group_size, self.budget, self.random_starts)

    def _filters(self, graph: ChannelGraph, part: UnitGroup, rates: Mapping[str, float]) -> int:
        """Units kept of a component."""
        n_units = part.units.numel()
        if self.filter_share == 0 or not prunable(part, graph, rates):
            return n_units
        logs = torch.tensor([rates[name] for name in part.layers], dtype=torch.float64).log()
        rate = float((logs.mean() * self.filter_share / 2).exp())
        kept = keep_count(n_units, rate, graph.unit_multiple(part, self.round_to))
        return max(kept, int(graph.protected[part.units].sum()))

    def _columns(
        self, graph: ChannelGraph, name: str, rate: float, share: torch.Tensor
    ) -> ColumnRule | None:
        """Columns that make up what the filters leave of the layer's rate; None keeps all."""
        n_filters, n_columns = _shape(graph, name)
        rows = float(share[graph.unit_out[name]].sum())
        live = float(share[graph.unit_in[name]].mean()) * n_columns
        wanted = n_filters * n_columns / rate / rows
        if self.filter_share == 1 or wanted >= WHOLE_COLUMNS * live:
            return None
        return ColumnRule(max(1, round(wanted)), self.group_size, self.budget)

    def _tied(
        self,
        graph: ChannelGraph,
        part: UnitGroup,
        n_keep: int,
        rules: Mapping[str, ColumnRule | None],
    ) -> TiedFilters:
        """The component's set; layers the recipe does not select are left out of it."""
        layers = [
            TiedLayer(name, torch.searchsorted(part.units, graph.unit_out[name]), rules[name])
            for name in part.layers
            if name in rules
        ]
        return TiedFilters(layers, n_keep, graph.protected[part.units], self.random_starts)

    def _two_splits(
        self,
        graph: ChannelGraph,
        kept_units: Mapping[tuple[str, ...], int],
        rules: Mapping[str, ColumnRule | None],
    ) -> tuple[JointConstraint, ...]:
        no_rules = dict.fromkeys(rules)
        fewer = [
            self._tied(graph, part, kept_units[part.layers], no_rules)
            for part in graph.components()
            if kept_units.get(part.layers, part.units.numel()) < part.units.numel()
        ]
        columns = {name: Columns(*rule) for name, rule in rules.items() if rule is not None}
        splits: list[JointConstraint] = [NetworkSet(graph, fewer)] if fewer else []
        return (*splits, *([PerLayer(columns)] if columns else []))

    def _budgets(
        self,
        graph: ChannelGraph,
        kept_units: Mapping[tuple[str, ...], int],
        rules: Mapping[str, ColumnRule | None],
    ) -> dict[str, dict[str, int | float | str]]:
        budgets: dict[str, dict[str, int | float | str]] = {}
        for part in graph.components():
            for name in part.layers:
                if name not in rules:
                    continue
                n_filters, n_columns = _shape(graph, name)
                whole = kept_units[part.layers] >= part.units.numel()
                rule = rules[name]
                budgets[name] = {
                    "filters": n_filters if whole else min(kept_units[part.layers], n_filters),
                    "columns": rule.n_keep if rule else n_columns,
                    "group_size": rule.group_size if rule else 0,
                }
        return budgets


def _shape(graph: ChannelGraph, name: str) -> tuple[int, int]:
    """Rows and columns of a layer's GEMM matrix."""
    n_filters, *others = graph.weight_shape(name)
    return n_filters, math.prod(others)


def _unit_shares(graph: ChannelGraph, kept_units: Mapping[tuple[str, ...], int]) -> torch.Tensor:
    """Share of each unit's component that is kept, float64 (n_units,): expected survival."""
    share = torch.ones(graph.n_units, dtype=torch.float64)
    for part in graph.components():
        if part.layers in kept_units:
            share[part.units] = kept_units[part.layers] / part.units.numel()
    return share
