"""Every op of a network description as ONNX nodes: (graph, layer, inputs, output) -> tensor name.

Inside, every value is (N, C, H, W); a fully connected layer is a 1 x 1 convolution. Opset 13 has no
layer norm, GELU, SiLU and hard swish: they are written in simpler ops.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pneumonia.exporting.onnx_nodes import Array, GatheredInput, OnnxNodes
from pneumonia.runtime.engines.numpy_ops import resize_matrix
from pneumonia.runtime.errors import ExportError
from pneumonia.runtime.model import layers

Inputs = list[str]

# --- activations --------------------------------------------------------------------------------


def _gated(g: OnnxNodes, gate: str, x: str, out: str, **attributes: float) -> str:
    """X times a gate of x."""
    return g.node("Mul", [x, g.node(gate, [x], out + "/gate", **attributes)], out)


def _relu6(g: OnnxNodes, x: str, out: str) -> str:
    return g.node("Clip", [x, g.numbers(out + ".low", 0), g.numbers(out + ".high", 6)], out)


def _half_gate(g: OnnxNodes, x: str, gate: str, out: str) -> str:
    """0.5 x (1 + gate)."""
    raised = g.node("Add", [gate, g.numbers(out + ".one", 1)], out + "/raised")
    half = g.node("Mul", [x, g.numbers(out + ".half", 0.5)], out + "/half")
    return g.node("Mul", [half, raised], out)


def _gelu(g: OnnxNodes, x: str, out: str) -> str:
    scale = g.numbers(out + ".scale", 1 / math.sqrt(2))
    gate = g.node("Erf", [g.node("Mul", [x, scale], out + "/scaled")], out + "/erf")
    return _half_gate(g, x, gate, out)


def _gelu_tanh(g: OnnxNodes, x: str, out: str) -> str:
    cube = g.node("Mul", [g.node("Mul", [x, x], out + "/square"), x], out + "/cube")
    small = g.node("Mul", [cube, g.numbers(out + ".cubic", 0.044715)], out + "/small")
    scale = g.numbers(out + ".scale", math.sqrt(2 / math.pi))
    inner = g.node("Mul", [g.node("Add", [x, small], out + "/sum"), scale], out + "/inner")
    return _half_gate(g, x, g.node("Tanh", [inner], out + "/tanh"), out)


def _mish(g: OnnxNodes, x: str, out: str) -> str:
    gate = g.node("Tanh", [g.node("Softplus", [x], out + "/softplus")], out + "/tanh")
    return g.node("Mul", [x, gate], out)


SIXTH = 1 / 6
ACTIVATIONS: dict[str, Callable[[OnnxNodes, str, str], str]] = {
    "leaky_relu": lambda g, x, out: g.node("LeakyRelu", [x], out, alpha=layers.LEAKY_SLOPE),
    "relu": lambda g, x, out: g.node("Relu", [x], out),
    "relu6": _relu6,
    "silu": lambda g, x, out: _gated(g, "Sigmoid", x, out),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "sigmoid": lambda g, x, out: g.node("Sigmoid", [x], out),
    "tanh": lambda g, x, out: g.node("Tanh", [x], out),
    "hardswish": lambda g, x, out: _gated(g, "HardSigmoid", x, out, alpha=SIXTH, beta=0.5),
    "hardsigmoid": lambda g, x, out: g.node("HardSigmoid", [x], out, alpha=SIXTH, beta=0.5),
    "elu": lambda g, x, out: g.node("Elu", [x], out),
    "mish": _mish,
}


def _then(
    g: OnnxNodes, activation: str, out: str, make: Callable[[str], str]
) -> str:  # the value first, its activation after it
    if activation == "linear":
        return make(out)
    return ACTIVATIONS[activation](g, make(out + "/linear"), out)


def _activation(g: OnnxNodes, layer: layers.Activation, inputs: Inputs, out: str) -> str:
    if layer.function == "linear":
        return inputs[0]
    if layer.function == "leaky_relu":
        return g.node("LeakyRelu", inputs, out, alpha=layer.slope)
    return ACTIVATIONS[layer.function](g, inputs[0], out)


# --- layers with tensors ------------------------------------------------------------------------


def _weighted(g: OnnxNodes, layer: layers.Conv | layers.Linear, inputs: Inputs, out: str) -> str:
    if isinstance(layer, layers.Conv) and layer.batch_norm:
        raise ExportError("Batch norm is not folded", where=f"layer {layer.name!r}")
    weight = g.tensors[layer.name + ".weight"]
    op = "Conv"
    attributes: dict[str, Any] = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4}
    if isinstance(layer, layers.Conv):
        attributes = _conv_attributes(layer)
        op = "ConvTranspose" if layer.transposed else "Conv"
    weight = weight.reshape(*weight.shape[:2], *attributes["kernel_shape"])
    x, weight = _gather(g, layer, inputs[0], weight)
    if op == "ConvTranspose":
        weight = _columns_first(weight, attributes["group"])
        values = [x, g.constant(layer.name + ".weight", weight)]
    else:
        values = [x, g.filters(layer.name, weight)]
    if layer.bias:
        values.append(g.constant(layer.name + ".bias", g.tensors[layer.name + ".bias"]))
    return _then(g, layer.activation, out, lambda to: g.node(op, values, to, **attributes))


def _conv_attributes(layer: layers.Conv) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "kernel_shape": list(layers.pair(layer.kernel)),
        "strides": list(layers.pair(layer.stride)),
        "pads": list(layers.pair(layer.padding)) * 2,
    }
    if layer.groups > 1 or layer.transposed:
        attributes["group"] = layer.groups
    if layer.dilation != 1:
        attributes["dilations"] = list(layers.pair(layer.dilation))
    if layer.transposed:
        attributes["output_padding"] = list(layers.pair(layer.output_padding))
    return attributes


def _columns_first(weight: Array, groups: int) -> Array:
    """(O, I / groups, KH, KW) -> (I, O / groups, KH, KW), as ConvTranspose has it."""
    rows, columns, *kernel = weight.shape
    grouped = weight.reshape(groups, rows // groups, columns, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(grouped).reshape(groups * columns, rows // groups, *kernel)


def _gather(
    g: OnnxNodes, layer: layers.Conv | layers.Linear, x: str, weight: Array
) -> tuple[str, Array]:
    """Read only the channels with a kept column, when they are at most half.

    Then at least half of the multiply-accumulates go, for one copy of the channels kept.
    """
    if layer.storage.format != "columns" or weight.shape[1] != layer.in_channels:
        return x, weight
    alive = np.flatnonzero((weight != 0).any(axis=(0, 2, 3)))
    if 2 * len(alive) > layer.in_channels or layer.in_channels == 1:
        return x, weight
    if not len(alive):
        alive = np.zeros(1, dtype=np.int64)  # an empty convolution is not valid ONNX
    indices = g.constant(layer.name + ".channels", alive.astype(np.int32))
    g.gathered.append(GatheredInput(layer.name, layer.in_channels, len(alive)))
    return g.node("Gather", [x, indices], layer.name + "/gather", axis=1), weight[:, alive]


def _affine(g: OnnxNodes, name: str, x: str, scale: Array, shift: Array, out: str) -> str:
    scales = g.constant(name + ".scale", scale.reshape(1, -1, 1, 1))
    shifts = g.constant(name + ".shift", shift.reshape(1, -1, 1, 1))
    return g.node("Add", [g.node("Mul", [x, scales], out + "/scaled"), shifts], out)


def _norm(g: OnnxNodes, layer: layers.Norm, inputs: Inputs, out: str) -> str:
    def part(name: str, otherwise: float) -> Array:
        default = np.full(layer.channels, otherwise, np.float32)
        return g.tensors.get(f"{layer.name}.norm_{name}", default)

    gain, offset, x = part("weight", 1), part("bias", 0), inputs[0]
    if layer.kind == "batch":
        gain = gain / np.sqrt(part("var", 1) + np.float32(layer.eps))
        offset = offset - part("mean", 0) * gain
    elif layer.kind == "group":
        x = _group_norm(g, layer, x, out)
    else:
        x = _layer_norm(g, layer, x, out)
    return _then(g, layer.activation, out, lambda to: _affine(g, layer.name, x, gain, offset, to))


def _group_norm(g: OnnxNodes, layer: layers.Norm, x: str, out: str) -> str:
    rows = g.reshape(x, out + "/groups", layer.groups, -1)
    ones = g.constant(out + ".ones", np.ones(layer.groups, np.float32))
    zeros = g.constant(out + ".zeros", np.zeros(layer.groups, np.float32))
    even = g.node("InstanceNormalization", [rows, ones, zeros], out + "/even", epsilon=layer.eps)
    return g.reshape(even, out + "/ungrouped", *g.shapes[layer.inputs[0]])


def _layer_norm(g: OnnxNodes, layer: layers.Norm, x: str, out: str) -> str:
    centred = x
    if layer.kind == "layer":
        mean = g.node("ReduceMean", [x], out + "/mean", axes=[1], keepdims=1)
        centred = g.node("Sub", [x, mean], out + "/centred")
    square = g.node("Mul", [centred, centred], out + "/square")
    variance = g.node("ReduceMean", [square], out + "/variance", axes=[1], keepdims=1)
    raised = g.node("Add", [variance, g.numbers(out + ".eps", layer.eps)], out + "/raised")
    return g.node("Div", [centred, g.node("Sqrt", [raised], out + "/deviation")], out + "/even")


def _constant(g: OnnxNodes, layer: layers.Constant, inputs: Inputs, out: str) -> str:
    value = g.tensors[layer.name + ".value"]
    return g.constant(layer.name + ".value", np.repeat(value[None], g.batch, axis=0))


# --- several inputs -----------------------------------------------------------------------------


def _chain(g: OnnxNodes, op: str, inputs: Inputs, out: str) -> str:
    value = inputs[0]
    for i, source in enumerate(inputs[1:], start=1):
        value = g.node(op, [value, source], out if i == len(inputs) - 1 else f"{out}/{i}")
    return value


def _shortcut(g: OnnxNodes, layer: layers.Shortcut, inputs: Inputs, out: str) -> str:
    return _then(g, layer.activation, out, lambda to: _chain(g, "Add", inputs, to))


def _route(g: OnnxNodes, layer: layers.Route, inputs: Inputs, out: str) -> str:
    if len(inputs) == 1:
        return inputs[0]
    return g.node("Concat", inputs, out, axis=1 if layer.axis == "channels" else 2)


def _attention(g: OnnxNodes, layer: layers.Attention, inputs: Inputs, out: str) -> str:
    names = [out + "/" + name for name in ("queries", "keys", "values")]
    heads = []
    for x, name, source in zip(inputs, names, layer.inputs, strict=True):
        channels, tokens, _ = g.shapes[source]
        heads.append(g.reshape(x, name, layer.heads, channels // layer.heads, tokens))
    turned = g.node("Transpose", [heads[0]], out + "/turned", perm=[0, 1, 3, 2])
    scores = g.node("MatMul", [turned, heads[1]], out + "/scores")
    scaled = g.node("Mul", [scores, g.numbers(out + ".scale", layer.scale)], out + "/scaled")
    share = g.node("Softmax", [scaled], out + "/share", axis=3)
    back = g.node("Transpose", [share], out + "/back", perm=[0, 1, 3, 2])
    mixed = g.node("MatMul", [heads[2], back], out + "/mixed")
    value, tokens = g.shapes[layer.inputs[2]][0], g.shapes[layer.inputs[0]][1]
    return g.reshape(mixed, out, value, tokens, 1)


# --- places and sizes ---------------------------------------------------------------------------


def _slice(g: OnnxNodes, x: str, out: str, axis: int, limits: tuple[int, ...]) -> str:
    start, stop, step = limits
    ends = [g.integers(f"{out}.{key}", number) for key, number in
            (("start", start), ("stop", stop), ("axis", axis), ("step", step))]  # fmt: skip
    return g.node("Slice", [x, *ends], out)


def _select(g: OnnxNodes, layer: layers.Select, inputs: Inputs, out: str) -> str:
    first, count = layer.channels[0], len(layer.channels)
    if layer.channels == tuple(range(first, first + count)):
        return _slice(g, inputs[0], out, 1, (first, first + count, 1))
    indices = g.constant(out + ".channels", np.array(layer.channels, dtype=np.int32))
    return g.node("Gather", [inputs[0], indices], out, axis=1)


def _crop(g: OnnxNodes, layer: layers.Crop, inputs: Inputs, out: str) -> str:
    rows = _slice(g, inputs[0], out + "/rows", 2, layer.rows)
    return _slice(g, rows, out, 3, layer.columns)


def _pad(g: OnnxNodes, layer: layers.Pad, inputs: Inputs, out: str) -> str:
    if layer.mode == "circular":
        wrapped = _wrapped(g, inputs[0], out + "/rows", 2, layer.rows, g.shapes[layer.inputs[0]])
        return _wrapped(g, wrapped, out, 3, layer.columns, g.shapes[layer.inputs[0]])
    (top, bottom), (left, right) = layer.rows, layer.columns
    values = [inputs[0], g.integers(out + ".pads", 0, 0, top, left, 0, 0, bottom, right)]
    if layer.mode == "zeros":
        return g.node("Pad", [*values, g.numbers(out + ".value", layer.value)], out)
    mode = {"reflect": "reflect", "replicate": "edge"}[layer.mode]
    return g.node("Pad", values, out, mode=mode)


def _wrapped(
    g: OnnxNodes, x: str, out: str, axis: int, border: tuple[int, ...], shape: tuple[int, ...]
) -> str:
    """Circular padding of one axis: the other end before, the beginning behind."""
    size, parts = shape[axis - 1], [x]
    if border[0]:
        parts.insert(0, _slice(g, x, out + "/before", axis, (size - border[0], size, 1)))
    if border[1]:
        parts.append(_slice(g, x, out + "/behind", axis, (0, border[1], 1)))
    return g.node("Concat", parts, out, axis=axis)


def _reshape(g: OnnxNodes, layer: layers.Reshape | layers.Flatten, inputs: Inputs, out: str) -> str:
    channels, *size = g.shapes[layer.inputs[0]]
    if isinstance(layer, layers.Flatten):
        return g.reshape(inputs[0], out, channels * math.prod(size), 1, 1)
    return g.reshape(inputs[0], out, channels, layer.height, layer.width)


COORDINATES = {
    "nearest": "asymmetric", "bilinear": "half_pixel", "bilinear_corners": "align_corners",
}  # fmt: skip


def _upsample(g: OnnxNodes, layer: layers.Upsample, inputs: Inputs, out: str) -> str:
    scales = g.numbers(out + ".scales", 1, 1, layer.scale, layer.scale)
    nearest = layer.mode == "nearest"
    return g.node(
        "Resize",
        [inputs[0], "", scales],
        out,
        mode="nearest" if nearest else "linear",
        coordinate_transformation_mode=COORDINATES[layer.mode],
        **({"nearest_mode": "floor"} if nearest else {}),
    )


def _resize(g: OnnxNodes, layer: layers.Resize, inputs: Inputs, out: str) -> str:
    """Two matrix products: ONNX's Resize rounds sizes and places in its own way."""
    _, height, width = g.shapes[layer.inputs[0]]
    rows = g.constant(out + ".rows", resize_matrix(height, layer.height, layer.mode))
    columns = g.constant(out + ".columns", resize_matrix(width, layer.width, layer.mode).T)
    return g.node("MatMul", [rows, g.node("MatMul", [inputs[0], columns], out + "/wide")], out)


def _max_pool(g: OnnxNodes, layer: layers.MaxPool, inputs: Inputs, out: str) -> str:
    pads = [*layers.pair(layer.pad_begin), *layers.pair(layer.pad_end)]
    kernel, strides = list(layers.pair(layer.kernel)), list(layers.pair(layer.stride))
    return g.node("MaxPool", inputs, out, kernel_shape=kernel, strides=strides, pads=pads)


def _avg_pool(g: OnnxNodes, layer: layers.AvgPool, inputs: Inputs, out: str) -> str:
    return g.node(
        "AveragePool",
        inputs,
        out,
        kernel_shape=list(layers.pair(layer.kernel)),
        strides=list(layers.pair(layer.stride)),
        pads=list(layers.pair(layer.padding)) * 2,
        count_include_pad=int(layer.count_padding),
    )


def _pixel_shuffle(g: OnnxNodes, layer: layers.PixelShuffle, inputs: Inputs, out: str) -> str:
    return g.node("DepthToSpace", inputs, out, blocksize=layer.scale, mode="CRD")


EMIT: dict[type, Callable[[OnnxNodes, Any, Inputs, str], str]] = {
    layers.Conv: _weighted,
    layers.Linear: _weighted,
    layers.Norm: _norm,
    layers.Constant: _constant,
    layers.Activation: _activation,
    layers.Softmax: lambda g, layer, inputs, out: g.node("Softmax", inputs, out, axis=1),
    layers.Shortcut: _shortcut,
    layers.Multiply: lambda g, layer, inputs, out: _chain(g, "Mul", inputs, out),
    layers.Route: _route,
    layers.Select: _select,
    layers.Crop: _crop,
    layers.Pad: _pad,
    layers.Reshape: _reshape,
    layers.Flatten: _reshape,
    layers.Upsample: _upsample,
    layers.Resize: _resize,
    layers.PixelShuffle: _pixel_shuffle,
    layers.MaxPool: _max_pool,
    layers.AvgPool: _avg_pool,
    layers.GlobalAvgPool: lambda g, layer, inputs, out: g.node("GlobalAveragePool", inputs, out),
    layers.Attention: _attention,
    layers.Detect: lambda g, layer, inputs, out: inputs[0],
}


def emit_layer(g: OnnxNodes, layer: layers.Layer) -> None:
    """Add a layer's nodes to the graph.

    Raises:
        ExportError: The layer has no ONNX form.
    """
    runs = g.spec.executed(layer)
    if type(runs) not in EMIT:
        raise ExportError(
            "Layer has no ONNX form", found=type(runs).__name__, where=f"layer {layer.name!r}"
        )
    inputs = [g.value[name] for name in layer.inputs]
    g.value[layer.name] = EMIT[type(runs)](g, runs, inputs, layer.name)
