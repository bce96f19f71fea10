"""Channels that have one value at every pixel of every image, found op by op."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pneumonia.network.blocks import FUNCTIONS
from pneumonia.network.module import NamedTensors
from pneumonia.runtime.model import layers
from pneumonia.runtime.model.spec import INPUT, NetworkSpec


class ConstantChannels(NamedTuple):
    """Channels of one layer that do not depend on the image."""

    known: Tensor  # bool (C,): the channel has the same value at every pixel of every image
    value: Tensor  # float64 (C,): that value, 0 where not known


class ConstantContext(NamedTuple):
    """What the rules need besides the layer."""

    sources: Sequence[ConstantChannels]  # the constant channels of the layer's inputs
    sizes: Sequence[layers.Shape]  # shapes of its inputs
    tensors: NamedTensors
    shape: layers.Shape  # of its output


def find_constants(spec: NetworkSpec, tensors: NamedTensors) -> dict[str, ConstantChannels]:
    """The constant channels of the input (none) and of every layer."""
    found = {INPUT: _unknown(spec.input.channels)}
    shapes = spec.shapes()
    for layer in spec.layers:
        sources = [found[name] for name in layer.inputs]
        sizes = [shapes[name] for name in layer.inputs]
        runs = spec.executed(layer)
        context = ConstantContext(sources, sizes, tensors, shapes[layer.name])
        found[layer.name] = RULES[type(runs)](runs, context)
    return found


def foldable(layer: layers.Conv | layers.Linear, source: ConstantChannels) -> Tensor:
    """Input channels whose constant the layer could take into its bias exactly: bool (I,)."""
    padded = isinstance(layer, layers.Conv) and (
        layer.transposed or max(layers.pair(layer.padding)) > 0
    )
    return source.known & (source.value == 0) if padded else source.known


def kernel_sums(weight: Tensor) -> Tensor:
    """Sum of each kernel, float64 (O, I): what a constant input channel is multiplied with."""
    return weight.double().reshape(weight.shape[0], weight.shape[1], -1).sum(2)


def _unknown(channels: int) -> ConstantChannels:
    return ConstantChannels(
        torch.zeros(channels, dtype=torch.bool), torch.zeros(channels, dtype=torch.float64)
    )


def _made(known: Tensor, value: Tensor, activation: str = "linear") -> ConstantChannels:
    return ConstantChannels(known, FUNCTIONS[activation](value) * known)


def _of_filters(layer: layers.Conv | layers.Linear, context: ConstantContext) -> ConstantChannels:
    weight, source = context.tensors[layer.name + ".weight"], context.sources[0]
    folded = foldable(layer, source)
    groups = layer.groups if isinstance(layer, layers.Conv) else 1
    width = layer.in_channels // groups
    first = torch.arange(groups).repeat_interleave(layer.out_channels // groups) * width
    inputs = first[:, None] + torch.arange(width)  # channels that each filter reads
    depends = (weight.reshape(len(weight), width, -1) != 0).any(2) & ~folded[inputs]
    value = (kernel_sums(weight) * (source.value * folded)[inputs]).sum(1)
    if layer.bias:
        value = value + context.tensors[layer.name + ".bias"].double()
    if isinstance(layer, layers.Conv) and layer.batch_norm:
        value = _batch_norm(value, layer.name + ".bn", layer.bn_eps, context.tensors)
    return _made(~depends.any(1), value, layer.activation)


def _batch_norm(value: Tensor, prefix: str, eps: float, tensors: NamedTensors) -> Tensor:
    def part(name: str) -> Tensor | None:
        tensor = tensors.get(f"{prefix}_{name}")
        return None if tensor is None else tensor.double()

    mean, variance = part("mean"), part("var")
    return F.batch_norm(
        value[None], mean, variance, part("weight"), part("bias"), training=False, eps=eps
    )[0]


def _norm(layer: layers.Norm, context: ConstantContext) -> ConstantChannels:
    source = context.sources[0]
    if layer.kind == "batch":
        value = _batch_norm(source.value, layer.name + ".norm", layer.eps, context.tensors)
        return _made(source.known, value, layer.activation)
    # A group of nothing but zeros stays zero, whatever the statistics of the others are.
    zero = (source.known & (source.value == 0)).reshape(layer.groups, -1)
    known = zero.all(1, keepdim=True).expand(zero.shape).reshape(-1)
    value = torch.zeros_like(source.value)
    if layer.name + ".norm_bias" in context.tensors:
        value = context.tensors[layer.name + ".norm_bias"].double()
    return _made(known, value, layer.activation)


def _constant(layer: layers.Constant, context: ConstantContext) -> ConstantChannels:
    values = context.tensors[layer.name + ".value"].double().flatten(1)
    return _made((values == values[:, :1]).all(1), values[:, 0])


def _activation(layer: layers.Activation, context: ConstantContext) -> ConstantChannels:
    known, value = context.sources[0]
    if layer.function == "leaky_relu":
        return _made(known, F.leaky_relu(value, layer.slope))
    return _made(known, value, layer.function)


def _sum(layer: layers.Shortcut, context: ConstantContext) -> ConstantChannels:
    known, value = _alike(context)
    return _made(known.all(0), value.sum(0), layer.activation)


def _product(layer: layers.Multiply, context: ConstantContext) -> ConstantChannels:
    known, value = _alike(context)
    zero = (known & (value == 0)).any(0)
    return _made(known.all(0) | zero, torch.where(zero, 0.0, value.prod(0)))


def _alike(context: ConstantContext) -> tuple[Tensor, Tensor]:
    """Known and value of all inputs, (inputs, C); one channel is repeated."""
    channels = context.shape[0]
    return (
        torch.stack([source.known.expand(channels) for source in context.sources]),
        torch.stack([source.value.expand(channels) for source in context.sources]),
    )


def _route(layer: layers.Route, context: ConstantContext) -> ConstantChannels:
    if layer.axis == "channels":
        return ConstantChannels(
            torch.cat([source.known for source in context.sources]),
            torch.cat([source.value for source in context.sources]),
        )
    known, value = _alike(context)
    return _made(known.all(0) & (value == value[0]).all(0), value[0])


def _pad(layer: layers.Pad, context: ConstantContext) -> ConstantChannels:
    known, value = context.sources[0]
    return _made(known & (value == layer.value), value) if layer.mode == "zeros" else _same(
        layer, context
    )  # fmt: skip


def _avg_pool(layer: layers.AvgPool, context: ConstantContext) -> ConstantChannels:
    known, value = context.sources[0]
    diluted = layer.count_padding and max(layers.pair(layer.padding)) > 0
    return _made(known & (value == 0), value) if diluted else _same(layer, context)


def _select(layer: layers.Select, context: ConstantContext) -> ConstantChannels:
    known, value = context.sources[0]
    return ConstantChannels(known[list(layer.channels)], value[list(layer.channels)])


def _flatten(layer: layers.Flatten, context: ConstantContext) -> ConstantChannels:
    _, height, width = context.sizes[0]
    known, value = context.sources[0]
    pixels = height * width
    return ConstantChannels(known.repeat_interleave(pixels), value.repeat_interleave(pixels))


def _pixel_shuffle(layer: layers.PixelShuffle, context: ConstantContext) -> ConstantChannels:
    known, value = (part.reshape(context.shape[0], -1) for part in context.sources[0])
    return _made(known.all(1) & (value == value[:, :1]).all(1), value[:, 0])


def _same(layer: layers.Layer, context: ConstantContext) -> ConstantChannels:
    return context.sources[0]


def _none(layer: layers.Layer, context: ConstantContext) -> ConstantChannels:
    return _unknown(context.shape[0])


RULES: dict[type, Callable[[Any, ConstantContext], ConstantChannels]] = {
    layers.Conv: _of_filters,
    layers.Linear: _of_filters,
    layers.Norm: _norm,
    layers.Constant: _constant,
    layers.Activation: _activation,
    layers.Softmax: _none,
    layers.Shortcut: _sum,
    layers.Multiply: _product,
    layers.Route: _route,
    layers.Select: _select,
    layers.Crop: _same,
    layers.Pad: _pad,
    layers.Reshape: _same,
    layers.Upsample: _same,
    layers.Resize: _same,
    layers.PixelShuffle: _pixel_shuffle,
    layers.MaxPool: _same,  # pads with -inf, so a constant passes through it
    layers.AvgPool: _avg_pool,
    layers.GlobalAvgPool: _same,
    layers.Flatten: _flatten,
    layers.Attention: lambda layer, context: context.sources[2],  # a mean of the values
    layers.Opaque: _none,
    layers.Detect: _same,
}
