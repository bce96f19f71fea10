"""Every op of a network description in NumPy: (layer, sources, tensors) -> value of one image.

Values are (C, H, W). Slow, and meant to be read: the reference of all other engines.
"""

import math
from typing import Callable, Dict, List, Mapping, Union

import numpy as np
from numpy.lib.stride_tricks import as_strided

from pneumonia.runtime.errors import DeviceError
from pneumonia.runtime.model import layers
from pneumonia.runtime.model.ops import op_of

Tensors = Mapping[str, np.ndarray]
Values = List[np.ndarray]

NUMPY_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def windows(
    value: np.ndarray, kernel: layers.Pair, stride: layers.Pair, dilation: layers.Pair = 1
) -> np.ndarray:
    """Every window of an image, without copying.

    Args:
        value: (C, H, W), already padded.
        kernel: Height and width of the window.
        stride: Step between windows.
        dilation: Step inside a window.

    Returns:
        View (C, kernel height, kernel width, out height, out width), read-only.
    """
    sizes, settings = (
        value.shape[1:],
        (layers.pair(kernel), layers.pair(stride), layers.pair(dilation)),
    )
    counts = [
        (size - dilate * (side - 1) - 1) // step + 1
        for size, side, step, dilate in zip(sizes, *settings)
    ]
    c, h, w = value.strides
    (side, step, dilate) = settings
    return as_strided(
        value,
        (value.shape[0], side[0], side[1], counts[0], counts[1]),
        (c, h * dilate[0], w * dilate[1], h * step[0], w * step[1]),
        writeable=False,
    )


# --- activations --------------------------------------------------------------------------------

_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))  # does not overflow


def _hardsigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(x / 6 + 0.5, 0, 1))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


FUNCTIONS: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "leaky_relu": lambda x: np.maximum(x, x * layers.LEAKY_SLOPE),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + _ERF(x / math.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "hardswish": lambda x: x * _hardsigmoid(x),
    "hardsigmoid": _hardsigmoid,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
}


def activate(value: np.ndarray, activation: str) -> np.ndarray:
    """Apply one of `spec.ACTIVATIONS`; float32 in, float32 out."""
    return np.asarray(FUNCTIONS[activation](value), dtype=value.dtype)


def _activation(layer: layers.Activation, sources: Values, tensors: Tensors) -> np.ndarray:
    if layer.function == "leaky_relu":
        x = sources[0]
        return np.where(x > 0, x, x * np.float32(layer.slope))
    return activate(sources[0], layer.function)


def _softmax(layer: layers.Softmax, sources: Values, tensors: Tensors) -> np.ndarray:
    return softmax(sources[0], 0)


def softmax(value: np.ndarray, axis: int) -> np.ndarray:
    """Softmax over one axis."""
    raised = np.exp(value - value.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


# --- layers with weights ------------------------------------------------------------------------


def _conv(layer: layers.Conv, sources: Values, tensors: Tensors) -> np.ndarray:
    weight, value = tensors[layer.name + ".weight"], sources[0]
    if layer.transposed:
        # a convolution of the input with zeros between its values; kernel rotated by 180 degrees
        value, weight = _spread(layer, value), weight[:, :, ::-1, ::-1]
        stride = (1, 1)
    else:
        rows, columns = layers.pair(layer.padding)
        value = np.pad(value, ((0, 0), (rows, rows), (columns, columns)), mode="constant")
        stride = layers.pair(layer.stride)
    view = windows(value, layer.kernel, stride, layer.dilation)
    # im2col: column j = i * KH * KW + kh * KW + kw meets weight column j, group by group
    matrix = np.ascontiguousarray(view).reshape(layer.groups, -1, view.shape[3] * view.shape[4])
    grouped = weight.reshape(layer.groups, layer.out_channels // layer.groups, -1)
    out = (grouped @ matrix).reshape((layer.out_channels,) + view.shape[3:])
    if layer.bias:
        out = out + _per_channel(tensors[layer.name + ".bias"])
    if layer.batch_norm:
        out = _normalised(out, layer.name + ".bn", layer.bn_eps, tensors)
    return activate(out, layer.activation)


def _spread(layer: layers.Conv, value: np.ndarray) -> np.ndarray:
    """Input of a transposed convolution with zeros inserted, for an ordinary one of stride 1."""
    settings = (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.output_padding)
    slices, sizes = [], []
    for axis, size in enumerate(value.shape[1:]):
        kernel, stride, padding, dilation, extra = (
            layers.pair(number)[axis] for number in settings
        )
        before = dilation * (kernel - 1) - padding
        sizes.append((size - 1) * stride + 1 + 2 * before + extra)
        slices.append((before, size, stride))
    margin = max(0, -min(first for first, _, _ in slices))  # padding wider than the kernel
    whole = np.zeros((len(value), sizes[0] + 2 * margin, sizes[1] + 2 * margin), value.dtype)
    (top, height, step_y), (left, width, step_x) = slices
    rows = slice(top + margin, top + margin + (height - 1) * step_y + 1, step_y)
    columns = slice(left + margin, left + margin + (width - 1) * step_x + 1, step_x)
    whole[:, rows, columns] = value
    return whole[:, margin : margin + sizes[0], margin : margin + sizes[1]]


def _normalised(value: np.ndarray, parts: str, eps: float, tensors: Tensors) -> np.ndarray:
    """Batch norm with running statistics; `parts` is the tensors' prefix, `L.bn` or `L.norm`."""
    scale = 1 / np.sqrt(tensors[parts + "_var"] + np.float32(eps))
    if parts + "_weight" in tensors:
        scale = scale * tensors[parts + "_weight"]
    shift = -tensors[parts + "_mean"] * scale
    if parts + "_bias" in tensors:
        shift = shift + tensors[parts + "_bias"]
    return np.asarray(value * _per_channel(scale) + _per_channel(shift))


def _per_channel(vector: np.ndarray) -> np.ndarray:
    return vector[:, None, None]


def _linear(layer: layers.Linear, sources: Values, tensors: Tensors) -> np.ndarray:
    value = sources[0]
    out = tensors[layer.name + ".weight"] @ value.reshape(len(value), -1)
    if layer.bias:
        out = out + tensors[layer.name + ".bias"][:, None]
    return activate(np.asarray(out).reshape((-1,) + value.shape[1:]), layer.activation)


def _norm(layer: layers.Norm, sources: Values, tensors: Tensors) -> np.ndarray:
    value = sources[0]
    if layer.kind == "batch":
        return activate(
            _normalised(value, layer.name + ".norm", layer.eps, tensors), layer.activation
        )
    if layer.kind == "group":
        grouped, axis = value.reshape(layer.groups, -1), 1
    else:
        grouped, axis = value, 0
    if layer.kind != "rms":
        grouped = grouped - grouped.mean(axis=axis, keepdims=True)
    square = np.square(grouped).mean(axis=axis, keepdims=True)
    out = (grouped / np.sqrt(square + np.float32(layer.eps))).reshape(value.shape)
    if layer.affine:
        out = out * _per_channel(tensors[layer.name + ".norm_weight"])
    if layer.affine and layer.kind != "rms":
        out = out + _per_channel(tensors[layer.name + ".norm_bias"])
    return activate(out, layer.activation)


def _constant(layer: layers.Constant, sources: Values, tensors: Tensors) -> np.ndarray:
    return tensors[layer.name + ".value"]


# --- several inputs -----------------------------------------------------------------------------


def _shortcut(layer: layers.Shortcut, sources: Values, tensors: Tensors) -> np.ndarray:
    total = sources[0]
    for value in sources[1:]:
        total = total + value
    return activate(total, layer.activation)


def _multiply(layer: layers.Multiply, sources: Values, tensors: Tensors) -> np.ndarray:
    product = sources[0]
    for value in sources[1:]:
        product = product * value
    return product


def _route(layer: layers.Route, sources: Values, tensors: Tensors) -> np.ndarray:
    return np.asarray(np.concatenate(sources, axis=0 if layer.axis == "channels" else 1))


def _attention(layer: layers.Attention, sources: Values, tensors: Tensors) -> np.ndarray:
    queries, keys, values = (x.reshape(layer.heads, -1, x.shape[1]) for x in sources)
    scores = np.matmul(queries.transpose(0, 2, 1), keys) * np.float32(layer.scale)
    mixed = np.matmul(values, softmax(scores, 2).transpose(0, 2, 1))
    return np.asarray(mixed.reshape(-1, queries.shape[2], 1))


# --- places and sizes ---------------------------------------------------------------------------


def _select(layer: layers.Select, sources: Values, tensors: Tensors) -> np.ndarray:
    return sources[0][list(layer.channels)]


def _crop(layer: layers.Crop, sources: Values, tensors: Tensors) -> np.ndarray:
    return sources[0][:, slice(*layer.rows), slice(*layer.columns)]


def _pad(layer: layers.Pad, sources: Values, tensors: Tensors) -> np.ndarray:
    borders = ((0, 0), layer.rows, layer.columns)
    if layer.mode == "zeros":
        return np.pad(sources[0], borders, mode="constant", constant_values=layer.value)
    return np.pad(sources[0], borders, mode=NUMPY_PAD_MODES[layer.mode])  # type: ignore[call-overload,no-any-return]


def _reshape(layer: layers.Reshape, sources: Values, tensors: Tensors) -> np.ndarray:
    return sources[0].reshape(-1, layer.height, layer.width)


def _upsample(layer: layers.Upsample, sources: Values, tensors: Tensors) -> np.ndarray:
    value = sources[0]
    if layer.mode == "nearest":
        return np.repeat(np.repeat(value, layer.scale, axis=1), layer.scale, axis=2)
    rows, columns = (resize_matrix(n, n * layer.scale, layer.mode) for n in value.shape[1:])
    return np.asarray(rows @ value @ columns.T)


def _resize(layer: layers.Resize, sources: Values, tensors: Tensors) -> np.ndarray:
    _, height, width = sources[0].shape
    rows = resize_matrix(height, layer.height, layer.mode)
    columns = resize_matrix(width, layer.width, layer.mode)
    return np.asarray(rows @ sources[0] @ columns.T)


def resize_matrix(size: int, wanted: int, mode: str) -> np.ndarray:
    """Weights (wanted, size) of interpolation along one axis as torch computes it, float32."""
    places = np.arange(wanted)
    if mode == "nearest":  # torch rounds the step to float32 before it rounds the place down
        source = np.floor(places.astype(np.float32) * (np.float32(size) / np.float32(wanted)))
    elif mode == "bilinear_corners":
        source = places * ((size - 1) / max(wanted - 1, 1))
    else:
        source = np.maximum((places + 0.5) * (size / wanted) - 0.5, 0)
    low = np.minimum(source.astype(np.int64), size - 1)
    high, share = np.minimum(low + 1, size - 1), source - low
    matrix = np.zeros((wanted, size))
    np.add.at(matrix, (places, low), 1 - share)
    np.add.at(matrix, (places, high), share)
    return matrix.astype(np.float32)


def _pixel_shuffle(layer: layers.PixelShuffle, sources: Values, tensors: Tensors) -> np.ndarray:
    side = layer.scale
    channels, height, width = sources[0].shape
    value = sources[0].reshape(channels // side**2, side, side, height, width)
    return value.transpose(0, 3, 1, 4, 2).reshape(-1, height * side, width * side)


def _padded(
    layer: Union[layers.MaxPool, layers.AvgPool],
    value: np.ndarray,
    begin: layers.Pair,
    end: layers.Pair,
    fill: float,
) -> np.ndarray:
    borders = ((0, 0), *zip(layers.pair(begin), layers.pair(end)))
    filled = np.pad(value, borders, mode="constant", constant_values=fill)
    return windows(filled, layer.kernel, layer.stride)


def _maxpool(layer: layers.MaxPool, sources: Values, tensors: Tensors) -> np.ndarray:
    view = _padded(layer, sources[0], layer.pad_begin, layer.pad_end, -np.inf)
    return np.asarray(view.max(axis=(1, 2)))


def _avgpool(layer: layers.AvgPool, sources: Values, tensors: Tensors) -> np.ndarray:
    view = _padded(layer, sources[0], layer.padding, layer.padding, 0.0)
    if layer.count_padding:
        return np.asarray(view.mean(axis=(1, 2)))
    ones = np.ones((1,) + sources[0].shape[1:], np.float32)
    inside = _padded(layer, ones, layer.padding, layer.padding, 0.0)
    return np.asarray(view.sum(axis=(1, 2)) / inside.sum(axis=(1, 2)))


def _global_avg_pool(layer: layers.GlobalAvgPool, sources: Values, tensors: Tensors) -> np.ndarray:
    return np.asarray(sources[0].mean(axis=(1, 2), keepdims=True))


def _flatten(layer: layers.Flatten, sources: Values, tensors: Tensors) -> np.ndarray:
    return sources[0].reshape(-1, 1, 1)


def _detect(layer: layers.Layer, sources: Values, tensors: Tensors) -> np.ndarray:
    return sources[0]


def _opaque(layer: layers.Opaque, sources: Values, tensors: Tensors) -> np.ndarray:
    raise DeviceError(
        "Layer is a torch module that only torch can run",
        found=repr(layer.module),
        where="layer {!r}".format(layer.name),
    )


RUN: Dict[str, Callable[..., np.ndarray]] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "constant": _constant,
    "activation": _activation,
    "softmax": _softmax,
    "shortcut": _shortcut,
    "multiply": _multiply,
    "route": _route,
    "select": _select,
    "crop": _crop,
    "pad": _pad,
    "reshape": _reshape,
    "upsample": _upsample,
    "resize": _resize,
    "pixel_shuffle": _pixel_shuffle,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "global_avg_pool": _global_avg_pool,
    "flatten": _flatten,
    "attention": _attention,
    "opaque": _opaque,
    "detect": _detect,
}


def run_op(layer: layers.Layer, sources: Values, tensors: Tensors) -> np.ndarray:
    """The output of a layer for one image; for a `Reuse`, pass the layer that it repeats."""
    return RUN[op_of(layer)](layer, sources, tensors)
