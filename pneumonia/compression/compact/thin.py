"""The live part of a masked network: what retraining computes with, and the way back.

Masked filters and channels cost as much time as others. Without them the same function is trained
in a fraction of it; masks of single weights and of columns stay.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.compact.compaction import shrink
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.dead_paths import find_dead_paths
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.runtime.model.ops import parts_of
from pneumonia.runtime.model.spec import NetworkSpec


class ThinNetwork(NamedTuple):
    """A network without the filters and channels that its masks remove."""

    spec: NetworkSpec  # every layer stored densely
    tensors: dict[str, Tensor]  # its tensors
    masks: dict[str, Tensor]  # layer -> bool mask of its weight, of the layers that have one
    graph: ChannelGraph  # the whole network's units
    live: Tensor  # units of `graph` that are left, bool (n_units,)
    whole: dict[str, Tensor]  # the whole network's masked tensors

    def widen(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the whole network that compute what the thin network does with these.

        Weights of removed filters and channels are zero; statistics of removed filters are those
        of `whole`.
        """
        found = dict(self.whole)
        for layer in self.graph.spec.layers:
            rows = self.live[self.graph.unit_out[layer.name]].nonzero()[:, 0]
            for part in parts_of(layer):
                name = f"{layer.name}.{part}"
                full = self.whole[name].clone()
                if part == "weight":
                    columns = self.graph.live_channels(self.live, layer.name).nonzero()[:, 0]
                    full.zero_()
                    full[rows[:, None], columns] = tensors[name]
                else:
                    full[rows] = tensors[name]
                found[name] = full
        return found


def thin(
    spec: NetworkSpec, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> ThinNetwork:
    """The part of a masked network that reaches an output.

    Nothing is removed where a removed filter emits a constant other than zero: its readers' biases
    would have to take it in, and could not give it back.

    Args:
        spec: Every layer stored densely.
        masks: Layer -> bool mask of its weight.
    """
    graph = ChannelGraph(spec)
    whole = masked_tensors(graph, tensors, masks)
    paths = find_dead_paths(graph, whole)
    if paths.offsets:
        paths = paths._replace(live=torch.ones_like(paths.live), offsets={})
    small, kept = shrink(graph, paths, whole)
    kept_masks = {
        name: mask[paths.live[graph.unit_out[name]]][:, graph.live_channels(paths.live, name)]
        for name, mask in masks.items()
    }
    return ThinNetwork(small, kept, kept_masks, graph, paths.live, whole)
