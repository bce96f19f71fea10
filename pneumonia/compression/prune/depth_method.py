"""Removal of whole residual branches, as the pruning pipeline sees it."""

import math
from collections.abc import Mapping
from typing import Literal

from pneumonia.compression.compact.branches import residual_branches
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.method import MethodSets, PruningMethod
from pneumonia.compression.sets.branches import Emptied, ResidualBranches
from pneumonia.compression.sets.constraint import Constraint
from pneumonia.compression.sets.units import Irregular
from pneumonia.runtime.errors import PruneError


class DepthMethod(PruningMethod):
    """Removes whole residual branches (blocks): the network gets shallower, not narrower.

    The branches of least energy go, as many as the rate needs; the sum then passes its skip
    connection on, and compaction leaves the branch out. Only branches all of whose layers are
    selected can go, so that `layers.exclude` protects a block. Rates come in steps of a block.

    Attributes:
        kind: Names this method in a recipe.
    """

    kind: Literal["depth"] = "depth"

    def sets(self, graph: ChannelGraph, rates: Mapping[str, float]) -> MethodSets:
        """All branches of selected layers, and how many of their weights stay.

        Raises:
            PruneError: The network has no such branch.
        """
        branches = [b for b in residual_branches(graph) if set(b.layers) <= set(rates)]
        if not branches:
            raise PruneError(
                "No residual branch can be removed",
                expected="a sum of a skip connection and layers that are all selected",
                where=f"network {graph.spec.name!r}, {len(rates)} layers selected",
                fix="Select whole blocks, or use another constraint",
            )
        names = [name for branch in branches for name in branch.layers]
        sizes = {name: graph.weight_shape(name).numel() for name in names}
        n_keep = math.floor(sum(size / rates[name] for name, size in sizes.items()))
        hard = ResidualBranches(graph, branches, n_keep)
        budgets: dict[str, dict[str, int | float | str]] = {
            name: {"branch": branch.shortcut} for branch in branches for name in branch.layers
        }
        return MethodSets((hard,), hard, {}, budgets)

    def alone(self, graph: ChannelGraph, layer: str, rate: float) -> Constraint:
        """A layer of a branch goes as a whole at any rate; others stay."""
        inside = any(layer in branch.layers for branch in residual_branches(graph))
        return Emptied() if inside else Irregular(graph.weight_shape(layer).numel())
