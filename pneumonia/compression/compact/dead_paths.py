"""Removable parts of a network: constant channels, and units that reach no output.

A filter whose weights are all zero emits a constant c = act(bias or batch-norm shift). A reader
can take the constant into its own bias if c = 0, if it is fully connected, or if it does not pad
(with padding the border sees zeros instead of c, so the fold would not be exact, and is not done).
A channel that every reader can fold or ignores is not needed; neither is a filter nobody needs.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph, close_units
from pneumonia.runtime.model.spec import (
    BN_EPS,
    INPUT,
    LEAKY_SLOPE,
    Conv,
    Flatten,
    Layer,
    Linear,
    NetworkSpec,
    Shortcut,
)


class ConstantChannels(NamedTuple):
    """Channels of one layer that do not depend on the image.

    Attributes:
        known: Bool (C,): the channel has the same value at every pixel of every image.
        value: float64 (C,): that value, 0 where not known.
    """

    known: Tensor
    value: Tensor


class DeadPaths(NamedTuple):
    """Units and channels that can be removed without changing any output.

    Attributes:
        live: Units that stay, bool (n_units,).
        offsets: Layer -> what its removed constant inputs add to its filters, float64 (O,).
    """

    live: Tensor
    offsets: dict[str, Tensor]


def find_dead_paths(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> DeadPaths:
    """Units that no path of non-zero weights connects to an output.

    Args:
        graph: The network's units.
        tensors: Dense tensors, named as `runtime.model.spec.tensor_shapes`.

    Returns:
        Live units, at least one filter per layer, and the constants to fold.
    """
    constants = find_constants(graph.spec, tensors)
    read, folded = {}, {}
    for layer in graph.spec.weighted():
        folded[layer.name] = _foldable(layer, constants[layer.inputs[0]])
        weight = tensors[layer.name + ".weight"]
        used = (weight.reshape(layer.out_channels, layer.in_channels, -1) != 0).any(2)
        read[layer.name] = used & ~folded[layer.name]
    live = close_units(graph, read, torch.ones(graph.n_units, dtype=torch.bool))
    offsets = {}
    for layer in graph.spec.weighted():
        gone = folded[layer.name] & ~graph.live_channels(live, layer.name)
        values = constants[layer.inputs[0]].value * gone
        if bool(values.any()):
            offsets[layer.name] = _kernel_sums(tensors[layer.name + ".weight"]) @ values
    return DeadPaths(live, offsets)


def find_constants(spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> dict[str, ConstantChannels]:
    """The constant channels of the input (none) and of every layer."""
    found = {
        INPUT: ConstantChannels(
            torch.zeros(spec.input.channels, dtype=torch.bool),
            torch.zeros(spec.input.channels, dtype=torch.float64),
        )
    }
    shapes = spec.shapes()
    for layer in spec.layers:
        sources = [found[name] for name in layer.inputs]
        if isinstance(layer, (Conv, Linear)):
            found[layer.name] = _of_filters(layer, sources[0], tensors)
        elif isinstance(layer, Shortcut):
            known = torch.stack([source.known for source in sources]).all(0)
            value = torch.stack([source.value for source in sources]).sum(0)
            found[layer.name] = ConstantChannels(known, _activate(value, layer.activation) * known)
        elif isinstance(layer, Flatten):
            _, height, width = shapes[layer.inputs[0]]
            found[layer.name] = ConstantChannels(
                *(part.repeat_interleave(height * width) for part in sources[0])
            )
        else:  # pooling pads with -inf, so a constant passes through it, too
            found[layer.name] = ConstantChannels(
                torch.cat([source.known for source in sources]),
                torch.cat([source.value for source in sources]),
            )
    return found


def _of_filters(
    layer: Conv | Linear, source: ConstantChannels, tensors: Mapping[str, Tensor]
) -> ConstantChannels:
    weight = tensors[layer.name + ".weight"]
    folded = _foldable(layer, source)
    depends = weight.reshape(layer.out_channels, layer.in_channels, -1)[:, ~folded] != 0
    known = ~depends.any(2).any(1)
    value = _kernel_sums(weight) @ (source.value * folded)
    if layer.bias:
        value = value + tensors[layer.name + ".bias"].double()
    if isinstance(layer, Conv) and layer.batch_norm:
        gain, shift, mean, var = (
            tensors[f"{layer.name}.bn_{part}"].double()
            for part in ("weight", "bias", "mean", "var")
        )
        value = (value - mean) / (var + BN_EPS).sqrt() * gain + shift
    return ConstantChannels(known, _activate(value, layer.activation) * known)


def _foldable(layer: Layer, source: ConstantChannels) -> Tensor:
    """Input channels whose constant the layer could take into its bias exactly."""
    padded = isinstance(layer, Conv) and layer.padding > 0
    return source.known & (source.value == 0) if padded else source.known


def _kernel_sums(weight: Tensor) -> Tensor:
    """Sum of each kernel, float64 (O, I): what a constant input channel is multiplied with."""
    return weight.double().reshape(weight.shape[0], weight.shape[1], -1).sum(2)


def _activate(value: Tensor, activation: str) -> Tensor:
    slope = {"linear": 1.0, "leaky_relu": LEAKY_SLOPE, "relu": 0.0}[activation]
    return torch.where(value > 0, value, value * slope)
