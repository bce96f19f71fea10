"""Removable parts of a network: constant channels, and units that reach no output.

A filter whose weights are all zero emits a constant c = act(bias or batch-norm shift). A reader
can take the constant into its own bias if c = 0, if it is fully connected, or if it does not pad
(with padding the border sees zeros instead of c, so the fold would not be exact, and is not done).
A channel that every reader can fold or ignores is not needed; neither is a filter
without a reader that needs it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.compact.constants import (
    ConstantChannels,
    find_constants,
    foldable,
    kernel_sums,
)
from pneumonia.compression.compact.coupling import ChannelGraph, close_units, is_grouped
from pneumonia.network.module import NamedTensors
from pneumonia.runtime.model.layers import Reuse, Weighted
from pneumonia.runtime.model.spec import NetworkSpec


class DeadPaths(NamedTuple):
    """Units and channels that can be removed without changing any output."""

    live: Tensor  # units that stay, bool (n_units,)
    # layer -> what its removed constant inputs add to its filters, float64 (O,)
    offsets: dict[str, Tensor]


def find_dead_paths(graph: ChannelGraph, tensors: NamedTensors) -> DeadPaths:
    """Units that no path of non-zero weights connects to an output.

    Returns:
        Live units, at least one filter per layer, and the constants to fold.
    """
    constants = find_constants(graph.spec, tensors)
    read, folded = {}, {}
    layers = [layer for layer in graph.spec.weighted() if not is_grouped(layer)]
    for layer in layers:
        folded[layer.name] = _foldable(graph.spec, layer, constants)
        weight = tensors[layer.name + ".weight"]
        used = (weight.reshape(layer.out_channels, layer.in_channels, -1) != 0).any(2)
        read[layer.name] = used & ~folded[layer.name]
    live = close_units(graph, read, torch.ones(graph.n_units, dtype=torch.bool))
    offsets = {}
    for layer in layers:
        gone = folded[layer.name] & ~live[graph.unit_in[layer.name]]
        values = constants[layer.inputs[0]].value * gone
        if bool(values.any()):
            offsets[layer.name] = kernel_sums(tensors[layer.name + ".weight"]) @ values
    return DeadPaths(live, offsets)


def _foldable(
    spec: NetworkSpec, layer: Weighted, constants: Mapping[str, ConstantChannels]
) -> Tensor:
    """Input channels whose constant can go into the layer's bias, wherever the layer is used."""
    inputs = [layer.inputs[0]]
    inputs += [x.inputs[0] for x in spec.layers if isinstance(x, Reuse) and x.layer == layer.name]
    found = torch.stack([foldable(layer, constants[name]) for name in inputs])
    values = torch.stack([constants[name].value for name in inputs])
    return found.all(0) & (values == values[0]).all(0)
