"""Structured set of a whole network, counting only weights that compaction can remove.

The filters of each group of tied layers are chosen by their own energy, or those of all groups
together by the energy that the compacted network keeps (`kept_energy`); then no layer spends
columns on channels whose filters are gone. So the kept weights of the set are the stored weights of
the compacted network, up to filters that no layer reads any more.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph, close_units, kept_rows
from pneumonia.compression.sets.columns import (
    ColumnRule,
    choose_columns,
    dense_mask,
    group_energies,
)
from pneumonia.compression.sets.combined import TiedFilters
from pneumonia.compression.sets.constraint import Projection, check_finite, gemm_view, masked
from pneumonia.compression.sets.kept_energy import NearestUnits
from pneumonia.runtime.model.ops import weight_shape


class NetworkSet:
    """Tied filters of the whole network with columns only on channels that are still there.

    Args:
        components: The constrained groups of layers; no layer in two of them.
        nearest: Chooses the filters of all groups together; only where no layer loses columns.
            None = every group by the energy of its filters.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        components: Sequence[TiedFilters],
        nearest: NearestUnits | None = None,
    ) -> None:
        self.graph = graph
        self.components = tuple(components)
        self.nearest = nearest
        self.rules: dict[str, ColumnRule | None] = {
            layer.name: layer.columns for part in components for layer in part.tied
        }

    @property
    def layers(self) -> tuple[str, ...]:
        """The constrained layers."""
        return tuple(self.rules)

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """Project every component, then choose columns again among live channels."""
        masks: dict[str, Tensor] = {}
        if self.nearest is not None:
            for name in self.layers:
                check_finite(v[name], name)
            for component, units in zip(self.components, self.nearest.choose(v), strict=True):
                masks.update({n: p.mask for n, p in component.restricted(v, units).items()})
        else:
            for component in self.components:  # only masks are kept: a copy of all weights less
                masks.update({n: p.mask for n, p in component.project(v, near).items()})
        live = self.graph.live_units_of(masks)
        return {
            name: masked(v[name], self._restrict(name, v[name], mask, live))
            for name, mask in masks.items()
        }

    def remove_dead_paths(
        self,
        v: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        others: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Masks without dead paths: filters that reach no output go, columns move to live channels.

        Used for the hard mask, so that groups of filters are those of the compacted layer and the
        budget is spent on weights that count.

        Args:
            others: Masks that earlier runs left in layers out of the set: their dead paths count.

        Returns:
            Masks of the set's layers; every layer keeps at least one filter and one column.
        """
        masks, others = dict(masks), others or {}
        live = self.graph.live_units_of({**others, **masks})
        while True:
            closed = close_units(self.graph, read_channels({**others, **masks}), live)
            masks = {
                name: self._restrict(name, v[name], mask, closed) for name, mask in masks.items()
            }
            if torch.equal(closed, live):
                return masks
            live = closed

    def _restrict(self, name: str, v: Tensor, mask: Tensor, live: Tensor) -> Tensor:
        """The mask without dead units' rows and channels; columns chosen again among the rest."""
        channels = self.graph.live_channels(live, name)
        rows = self.graph.live_rows(live, name) & kept_rows(mask)
        if not bool(rows.any()) or (bool(channels.all()) and torch.equal(rows, kept_rows(mask))):
            return mask  # nothing changes, or the layer would be emptied
        columns = channels.repeat_interleave(v[0, 0].numel())
        rule = self.rules[name]
        if rule is None:
            return mask & (rows.unsqueeze(1) & columns).reshape(v.shape)
        kept = rows.nonzero().squeeze(1)
        squares = gemm_view(v.detach()).double().square()
        # A dead column is worth less than any live one, also less than a live one of zeros.
        energies = group_energies(squares, kept, rule.group_size).masked_fill(~columns, -1.0)
        chosen = choose_columns(energies, rule) & columns
        return dense_mask(chosen, kept, v.shape[0], rule.group_size).reshape(v.shape)


def read_channels(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which input channels each filter may read: layer -> bool (O, I)."""
    return {
        name: mask.reshape(mask.shape[0], mask.shape[1], -1).any(2) for name, mask in masks.items()
    }


def live_units(graph: ChannelGraph, masks: Mapping[str, Tensor]) -> Tensor:
    """Units that compaction keeps: bool (n_units,).

    Args:
        masks: Layer -> bool mask of its weight; a layer not given keeps all its weights.
    """
    return close_units(graph, read_channels(masks), graph.live_units_of(masks))


def remove_dead_paths(
    graph: ChannelGraph, masks: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Masks without the rows and channels of units that compaction removes.

    Args:
        masks: Layer -> bool mask of its weight.
        others: Masks of further layers, whose dead paths count.
    """
    return graph.live_part(masks, live_units(graph, {**(others or {}), **masks}))


def realised_weights(graph: ChannelGraph, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Weights that each layer still stores once dead paths are gone, whatever made the masks.

    Args:
        masks: Layer -> bool mask of its weight; a layer not given keeps all its weights.
    """
    live = live_units(graph, masks)
    counts = {}
    for layer in graph.spec.weighted():
        rows, channels = graph.live_rows(live, layer.name), graph.live_channels(live, layer.name)
        if layer.name in masks:
            counts[layer.name] = int(masks[layer.name][rows][:, channels].sum())
        else:
            kernel_size = math.prod(weight_shape(layer)[2:])
            counts[layer.name] = int(rows.sum()) * int(channels.sum()) * kernel_size
    return counts
