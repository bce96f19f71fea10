"""Which units a compacted network keeps so that it is nearest to the dense one.

Compaction deletes with a unit the filters that make it and the kernels that read it. The weights
that are left are those W_l[o, i] whose filter o and input channel i both belong to kept units, so
the nearest compacted network keeps the units K of most energy

    E(K) = sum over layers l, filters o in K, channels i in K of ||W_l[o, i]||^2
           + sum over norms, channels o in K of gain[o]^2

with a given number of units in every group of coupled layers: the gains of norms are deleted with
their channels as well. Given the other groups, E is linear in the units of one: each unit counts
what its filters have in live channels, what live filters read of it, and its gains. So the groups
choose in turn, in execution order, until no choice changes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph, is_grouped
from pneumonia.compression.sets.combined import TiedFilters
from pneumonia.runtime.model.layers import Conv

SWEEPS = 8  # over all groups, at most; two or three suffice nearly always
LEAST_RISE = 1e-12  # of the energy, relative, that changes a choice again


class _KernelEnergies(NamedTuple):
    """Squared norms of one layer's kernels."""

    # float64 (O, I); of a grouped convolution (O,), since its filters read their own
    kernels: Tensor
    made: Tensor  # unit of each filter, int64 (O,)
    read: Tensor | None  # unit of each input channel, int64 (I,); None for a grouped convolution

    def energy_by_filter(self, live: Tensor) -> Tensor:
        """Energy of each filter in live channels: float64 (O,)."""
        return self.kernels if self.read is None else self.kernels @ live[self.read].double()

    def kept(self, live: Tensor) -> float:
        """Energy between live units."""
        return float(self.energy_by_filter(live)[live[self.made]].sum())


class NearestUnits:
    """Chooses the kept units of all groups of a network together.

    Args:
        groups: Groups of tied filters, none of which loses columns.
        gains: Layer -> gains of its norm, one per output channel; layers not given have none.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        groups: Sequence[TiedFilters],
        gains: Mapping[str, Sequence[float]],
    ) -> None:
        self.graph = graph
        self.groups = tuple(groups)
        units = {name: part.units for part in graph.components() for name in part.layers}
        self.units = tuple(units[group.layers[0]] for group in groups)
        self.own = torch.zeros(graph.n_units, dtype=torch.float64)
        for name, values in gains.items():
            squares = torch.tensor(values, dtype=torch.float64).square()
            self.own.index_add_(0, graph.unit_out[name], squares)

    def choose(self, v: Mapping[str, Tensor]) -> list[Tensor]:
        """The kept units of each group: bool (n_units of the group,).

        Args:
            v: Weight of every layer of the groups; layers that are not given do not count.
        """
        energies = {name: self._energies(name, v[name]) for g in self.groups for name in g.layers}
        live = torch.ones(self.graph.n_units, dtype=torch.bool)
        touching = [self._touching(energies, units) for units in self.units]
        for sweep in range(SWEEPS):
            changed = False
            for group, units, layers in zip(self.groups, self.units, touching, strict=True):
                if group.n_keep == group.n_units:
                    continue
                trial = live.clone()
                trial[units] = group.best_units(v, self._scores(layers, live)[units])
                if torch.equal(trial, live):
                    continue
                if sweep == 0 or self._energy(layers, trial) > self._energy(layers, live) * (
                    1 + LEAST_RISE
                ):
                    live, changed = trial, True
            if not changed:
                break
        return [live[units] for units in self.units]

    def _energies(self, name: str, v: Tensor) -> _KernelEnergies:
        kernels = v.detach().reshape(v.shape[0], v.shape[1], -1).double().square().sum(2)
        made, layer = self.graph.unit_out[name], self.graph.spec.layer(name)
        if isinstance(layer, Conv) and is_grouped(layer):
            return _KernelEnergies(kernels.sum(1), made, None)
        return _KernelEnergies(kernels, made, self.graph.unit_in[name])

    def _touching(
        self, energies: Mapping[str, _KernelEnergies], units: Tensor
    ) -> list[_KernelEnergies]:
        """Layers that make or read some of the units."""
        inside = torch.zeros(self.graph.n_units, dtype=torch.bool)
        inside[units] = True
        return [
            layer
            for layer in energies.values()
            if bool(inside[layer.made].any())
            or (layer.read is not None and bool(inside[layer.read].any()))
        ]

    def _scores(self, layers: Sequence[_KernelEnergies], live: Tensor) -> Tensor:
        """Energy that each unit would keep beside the live ones: float64 (n_units,)."""
        scores = self.own.clone()
        for layer in layers:
            scores.index_add_(0, layer.made, layer.energy_by_filter(live))
            if layer.read is not None:
                read = live[layer.made].double() @ layer.kernels
                scores.index_add_(0, layer.read, read)
        return scores

    def _energy(self, layers: Sequence[_KernelEnergies], live: Tensor) -> float:
        """What live units keep of these layers, and of all gains."""
        return float(self.own[live].sum()) + sum(layer.kept(live) for layer in layers)
