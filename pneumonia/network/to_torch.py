"""A network as a plain torch module of standard layers, which needs this package no more.

The result is a `torch.fx.GraphModule`: save it with `torch.save`, as a state_dict, or exported with
`torch.export.save(torch.export.export(module, (example,)), path)`.
"""

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pneumonia.network.blocks import TORCH_PAD_MODES, transposed_weight
from pneumonia.network.module import Network, check_network
from pneumonia.network.torch_import.opaque import LaidOutModule
from pneumonia.network.torch_writer import MODULES, GraphWriter
from pneumonia.runtime.model import layers

Nodes = Sequence[fx.Node]


def to_torch(network: Network) -> fx.GraphModule:
    """The network as a module of `nn.Conv2d`, `nn.BatchNorm2d`, `nn.Linear` ...

    Layers have the names of the original module where the network came from one (`from_torch`), so
    that tensors that were not pruned have the same keys and shapes in its state_dict.

    Args:
        network: Any network; its weights are copied.

    Returns:
        A module that takes what the original took and returns what it returned; of other networks
        (N, C, H, W) to one tensor, or a tuple in the order of the description's outputs.

    Raises:
        ConfigError: The network is a plain torch module.
    """
    check_network(network)
    writer = GraphWriter(network)
    for layer in network.spec.layers:  # a repeated layer calls the modules of the first
        runs = network.spec.executed(layer)
        sources = [writer.values[name] for name in layer.inputs]
        writer.values[layer.name] = WRITE[type(runs)](writer, runs, sources)
    writer.finish()
    module = fx.GraphModule(writer.root, writer.graph, type(network).__name__)
    module.graph.lint()
    return module.train(network.training)


def _loaded(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    module.load_state_dict(dict(tensors), strict=False)
    return module


def _conv(w: GraphWriter, layer: layers.Conv, sources: Nodes) -> fx.Node:
    def make() -> nn.Module:
        settings: dict[str, Any] = {
            "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation,
            "groups": layer.groups, "bias": layer.bias,
        }  # fmt: skip
        held = w.tensors(layer.name, weight="weight", bias="bias")
        kind: type[nn.Module] = nn.Conv2d
        if layer.transposed:
            kind, settings["output_padding"] = nn.ConvTranspose2d, layer.output_padding
            held["weight"] = transposed_weight(held["weight"], layer.groups)
        return _loaded(
            kind(layer.in_channels, layer.out_channels, layer.kernel, **settings), held
        )  # fmt: skip

    def make_norm() -> nn.Module:
        parts = {"weight": "bn_weight", "bias": "bn_bias", "running_mean": "bn_mean",
                 "running_var": "bn_var"}  # fmt: skip
        return _loaded(
            nn.BatchNorm2d(layer.out_channels, layer.bn_eps), w.tensors(layer.name, **parts)
        )

    node = w.module(layer.name, "layer", make, *sources)
    if layer.batch_norm:
        node = w.module(layer.name, "norm", make_norm, node)
    return w.activated(layer.name, layer.activation, node)


def _linear(w: GraphWriter, layer: layers.Linear, sources: Nodes) -> fx.Node:
    def make() -> nn.Module:
        held = w.tensors(layer.name, weight="weight", bias="bias")
        return _loaded(nn.Linear(layer.in_channels, layer.out_channels, layer.bias), held)

    last = w.method("permute", sources[0], 0, 2, 3, 1)
    made = w.module(layer.name, "layer", make, last)
    return w.method("permute", w.activated(layer.name, layer.activation, made), 0, 3, 1, 2)


def _norm(w: GraphWriter, layer: layers.Norm, sources: Nodes) -> fx.Node:
    def make() -> nn.Module:
        parts = {"weight": "norm_weight", "bias": "norm_bias", "running_mean": "norm_mean",
                 "running_var": "norm_var"}  # fmt: skip
        channels, eps, affine = layer.channels, layer.eps, layer.affine
        norm: nn.Module
        if layer.kind == "batch":
            norm = nn.BatchNorm2d(channels, eps, affine=affine)
        elif layer.kind == "group":
            norm = nn.GroupNorm(layer.groups, channels, eps, affine)
        elif layer.kind == "layer":
            norm = nn.LayerNorm(channels, eps, affine)
        else:
            norm = nn.RMSNorm(channels, eps, affine)
        return _loaded(norm, w.tensors(layer.name, **parts))

    if layer.kind not in ("layer", "rms"):
        node = w.module(layer.name, "layer", make, *sources)
        return w.activated(layer.name, layer.activation, node)
    last = w.method("permute", sources[0], 0, 2, 3, 1)
    node = w.method("permute", w.module(layer.name, "layer", make, last), 0, 3, 1, 2)
    return w.activated(layer.name, layer.activation, node)


def _constant(w: GraphWriter, layer: layers.Constant, sources: Nodes) -> fx.Node:
    name = layer.name.replace(".", "_")
    if any(other.startswith(f"{layer.name}.") for other in w.shapes):
        name += "_value"  # the module of that name holds other layers
    value = w.tensors(layer.name, value="value")["value"][None]
    w.root.register_parameter(name, nn.Parameter(value))
    return w.graph.get_attr(name)


def _activation(w: GraphWriter, layer: layers.Activation, sources: Nodes) -> fx.Node:
    if layer.function == "leaky_relu":
        return w.module(layer.name, "layer", lambda: nn.LeakyReLU(layer.slope), *sources)
    if layer.function == "linear":
        return sources[0]
    return w.module(layer.name, "layer", MODULES[layer.function], *sources)


def _chain(w: GraphWriter, function: Callable[..., Any], sources: Nodes) -> fx.Node:
    total = sources[0]
    for other in sources[1:]:
        total = w.call(function, total, other)
    return total


def _shortcut(w: GraphWriter, layer: layers.Shortcut, sources: Nodes) -> fx.Node:
    return w.activated(layer.name, layer.activation, _chain(w, operator.add, sources))


def _route(w: GraphWriter, layer: layers.Route, sources: Nodes) -> fx.Node:
    nodes = list(sources)
    constants = {other.name for other in w.spec.layers if isinstance(other, layers.Constant)}
    constant = [name in constants for name in layer.inputs]
    if any(constant):
        moving = constant.index(False)
        batch = w.method("size", nodes[moving], 0)
        nodes = [
            w.method("expand", node, batch, -1, -1, -1) if fixed else node
            for node, fixed in zip(nodes, constant, strict=True)
        ]
    if len(nodes) == 1:
        return nodes[0]
    return w.call(torch.cat, nodes, dim=1 if layer.axis == "channels" else 2)


def _select(w: GraphWriter, layer: layers.Select, sources: Nodes) -> fx.Node:
    first, count = layer.channels[0], len(layer.channels)
    index: Any = list(layer.channels)
    if layer.channels == tuple(range(first, first + count)):
        index = slice(first, first + count)
    return w.call(operator.getitem, sources[0], (slice(None), index))


def _crop(w: GraphWriter, layer: layers.Crop, sources: Nodes) -> fx.Node:
    whole = slice(None)
    place = (whole, whole, slice(*layer.rows), slice(*layer.columns))
    return w.call(operator.getitem, sources[0], place)


def _pad(w: GraphWriter, layer: layers.Pad, sources: Nodes) -> fx.Node:
    mode = TORCH_PAD_MODES.get(layer.mode, layer.mode)
    value = {"value": layer.value} if layer.mode == "zeros" else {}
    return w.call(F.pad, sources[0], (*layer.columns, *layer.rows), mode=mode, **value)


def _upsample(w: GraphWriter, layer: layers.Upsample, sources: Nodes) -> fx.Node:
    return _interpolated(w, layer, sources, scale_factor=layer.scale)


def _resize(w: GraphWriter, layer: layers.Resize, sources: Nodes) -> fx.Node:
    return _interpolated(w, layer, sources, size=(layer.height, layer.width))


def _interpolated(
    w: GraphWriter, layer: layers.Upsample | layers.Resize, sources: Nodes, **sizes: Any
) -> fx.Node:
    corners = None if layer.mode == "nearest" else layer.mode == "bilinear_corners"
    mode = layer.mode.removesuffix("_corners")
    return w.module(
        layer.name, "layer",
        lambda: nn.Upsample(**sizes, mode=mode, align_corners=corners), *sources,
    )  # fmt: skip


def _max_pool(w: GraphWriter, layer: layers.MaxPool, sources: Nodes) -> fx.Node:
    (top, left), (bottom, right) = layers.pair(layer.pad_begin), layers.pair(layer.pad_end)
    kernel = layers.pair(layer.kernel)
    plain = (top, left) == (bottom, right) and 2 * top <= kernel[0] and 2 * left <= kernel[1]
    node = sources[0]
    if not plain:
        node = w.call(F.pad, node, (left, right, top, bottom), value=-math.inf)
    padding = (top, left) if plain else 0
    return w.module(
        layer.name, "layer", lambda: nn.MaxPool2d(layer.kernel, layer.stride, padding), node
    )  # fmt: skip


def _avg_pool(w: GraphWriter, layer: layers.AvgPool, sources: Nodes) -> fx.Node:
    return w.module(
        layer.name, "layer",
        lambda: nn.AvgPool2d(
            layer.kernel, layer.stride, layer.padding, count_include_pad=layer.count_padding
        ),
        *sources,
    )  # fmt: skip


def _attention(w: GraphWriter, layer: layers.Attention, sources: Nodes) -> fx.Node:
    heads = []
    for node, name in zip(sources, layer.inputs, strict=True):
        channels, tokens, _ = w.shapes[name]
        split = w.method("reshape", node, -1, layer.heads, channels // layer.heads, tokens)
        heads.append(w.method("transpose", split, 2, 3))
    mixed = w.call(F.scaled_dot_product_attention, *heads, scale=layer.scale)
    back = w.method("transpose", mixed, 2, 3)
    value, tokens = w.shapes[layer.inputs[2]][0], w.shapes[layer.inputs[0]][1]
    return w.method("reshape", back, -1, value, tokens, 1)


def _flatten(w: GraphWriter, layer: layers.Flatten, sources: Nodes) -> fx.Node:
    return w.method("reshape", sources[0], -1, math.prod(w.shapes[layer.inputs[0]]), 1, 1)


def _opaque(w: GraphWriter, layer: layers.Opaque, sources: Nodes) -> fx.Node:
    whole = w.network.opaque_module(layer.name)
    assert isinstance(whole, LaidOutModule)
    inputs = [
        w.to_layout(node, dims, w.shapes[name])
        for node, dims, name in zip(sources, whole.inputs, layer.inputs, strict=True)
    ]
    made = w.module(layer.name, "layer", lambda: copy.deepcopy(whole.module), *inputs)
    first = w.call(operator.getitem, made, 0) if whole.several else made
    return w.from_layout(first, whole.output, w.shapes[layer.name])


WRITE: dict[type, Callable[[GraphWriter, Any, Nodes], fx.Node]] = {
    layers.Conv: _conv,
    layers.Linear: _linear,
    layers.Norm: _norm,
    layers.Constant: _constant,
    layers.Activation: _activation,
    layers.Softmax: lambda w, layer, sources: w.module(
        layer.name, "layer", lambda: nn.Softmax(1), *sources
    ),
    layers.Shortcut: _shortcut,
    layers.Multiply: lambda w, layer, sources: _chain(w, operator.mul, sources),
    layers.Route: _route,
    layers.Select: _select,
    layers.Crop: _crop,
    layers.Pad: _pad,
    layers.Reshape: lambda w, layer, sources: w.method(
        "reshape", sources[0], -1, *w.shapes[layer.name]
    ),
    layers.Upsample: _upsample,
    layers.Resize: _resize,
    layers.PixelShuffle: lambda w, layer, sources: w.module(
        layer.name, "layer", lambda: nn.PixelShuffle(layer.scale), *sources
    ),
    layers.MaxPool: _max_pool,
    layers.AvgPool: _avg_pool,
    layers.GlobalAvgPool: lambda w, layer, sources: w.module(
        layer.name, "layer", lambda: nn.AdaptiveAvgPool2d(1), *sources
    ),
    layers.Flatten: _flatten,
    layers.Attention: _attention,
    layers.Opaque: _opaque,
    layers.Detect: lambda w, layer, sources: sources[0],
}  # fmt: skip
