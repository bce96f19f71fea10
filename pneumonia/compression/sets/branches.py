"""Whole residual branches: the set of block or depth removal. Exact."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits
from pneumonia.compression.compact.branches import Branch
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.sets.constraint import Projection, check_finite, masked
from pneumonia.compression.sets.network_set import remove_dead_paths


class Emptied:
    """The set of one point: a layer of zeros."""

    def project(self, v: Tensor) -> Projection:
        """A weight of zeros, of the shape of `v`."""
        check_finite(v)
        return masked(v, torch.zeros((), dtype=torch.bool))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Nothing is stored."""
        return StorageBits(0, 0)


class ResidualBranches:
    """At most `n_keep` weights lie in branches that are not zero as a whole.

    The projection keeps the branches whose weights have the most energy among all choices that fit
    (a knapsack, solved exactly).

    Args:
        branches: The branches, without layers in common.
        n_keep: Weights of the branches that stay.
    """

    def __init__(self, graph: ChannelGraph, branches: Sequence[Branch], n_keep: int) -> None:
        self.graph = graph
        self.branches = tuple(branches)
        self.n_keep = n_keep

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of all branches."""
        return tuple(name for branch in self.branches for name in branch.layers)

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """The nearest point; `near` is not needed."""
        for name in self.layers:
            check_finite(v[name], name)
        sizes = [sum(v[name].numel() for name in branch.layers) for branch in self.branches]
        energies = [
            sum(float(v[name].double().square().sum()) for name in branch.layers)
            for branch in self.branches
        ]
        kept = best_subset(sizes, energies, self.n_keep)
        return {
            name: masked(v[name], torch.tensor(number in kept))
            for number, branch in enumerate(self.branches)
            for name in branch.layers
        }

    def remove_dead_paths(
        self,
        v: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        others: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Masks without dead paths."""
        return remove_dead_paths(self.graph, masks, others)


def best_subset(sizes: Sequence[int], values: Sequence[float], limit: int) -> frozenset[int]:
    """Numbers of the items of most value whose sizes sum up to at most `limit`.

    Of equal values the smaller sum of sizes wins; items without value are left out.
    """
    front: list[tuple[int, float, frozenset[int]]] = [(0, 0.0, frozenset())]
    for number, (size, value) in enumerate(zip(sizes, values, strict=True)):
        taken = [(s + size, v + value, c | {number}) for s, v, c in front if s + size <= limit]
        merged = sorted([*front, *taken], key=lambda state: (state[0], -state[1]))
        front = []
        for state in merged:  # only states that no smaller one reaches
            if not front or state[1] > front[-1][1]:
                front.append(state)
    return front[-1][2]
