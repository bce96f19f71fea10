"""One registry of the ops: JSON name, record, shape rule, tensors, number of inputs."""

from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, Type, Union

from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model import layers

Parts = Dict[str, Tuple[int, ...]]

# --- shapes -------------------------------------------------------------------------------------


def shape_error(layer: layers.Layer, what: str, expected: object, found: object) -> SpecError:
    """The error of a layer that does not fit its inputs."""
    return SpecError(
        what, expected=str(expected), found=str(found), where="layer {!r}".format(layer.name)
    )


def _window(layer: layers.Layer, size: int, kernel: int, stride: int, padding: int) -> int:
    out = (size + padding - kernel) // stride + 1
    if out < 1:
        raise shape_error(layer, "Input is smaller than the window", ">= {}".format(kernel), size)
    return out


def _need_channels(layer: layers.Layer, expected: int, found: int) -> None:
    if expected != found:
        raise shape_error(layer, "Input channels do not match", expected, found)


def _conv_shape(layer: layers.Conv, sources: Sequence[layers.Shape]) -> layers.Shape:
    channels, *sizes = sources[0]
    if layer.in_channels % layer.groups or layer.out_channels % layer.groups:
        found = (layer.in_channels, layer.out_channels)
        raise shape_error(layer, "Channels are not divisible by groups", layer.groups, found)
    _need_channels(layer, layer.in_channels, channels)
    settings = (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.output_padding)
    out = []
    for axis, size in enumerate(sizes):
        kernel, stride, padding, dilation, extra = (layers.pair(value)[axis] for value in settings)
        span = dilation * (kernel - 1) + 1
        if layer.transposed:
            out.append((size - 1) * stride - 2 * padding + span + extra)
            if out[-1] < 1:
                raise shape_error(layer, "Output is empty", ">= 1", out[-1])
        else:
            out.append(_window(layer, size, span, stride, 2 * padding))
    return (layer.out_channels, out[0], out[1])


def _linear_shape(layer: layers.Linear, sources: Sequence[layers.Shape]) -> layers.Shape:
    _need_channels(layer, layer.in_channels, sources[0][0])
    return (layer.out_channels,) + sources[0][1:]


def _norm_shape(layer: layers.Norm, sources: Sequence[layers.Shape]) -> layers.Shape:
    _need_channels(layer, layer.channels, sources[0][0])
    if layer.channels % layer.groups:
        raise shape_error(
            layer, "Channels are not divisible by groups", layer.groups, layer.channels
        )
    return sources[0]


def _declared_shape(
    layer: Union[layers.Constant, layers.Opaque], sources: Sequence[layers.Shape]
) -> layers.Shape:
    return (layer.channels, layer.height, layer.width)


def _same_shape(layer: layers.Layer, sources: Sequence[layers.Shape]) -> layers.Shape:
    return sources[0]


def _broadcast_shape(layer: layers.Layer, sources: Sequence[layers.Shape]) -> layers.Shape:
    found = []
    for extents in zip(*sources):
        largest = max(extents)
        if set(extents) - {1, largest}:
            raise shape_error(layer, "Inputs differ in shape", "equal shapes", list(sources))
        found.append(largest)
    return (found[0], found[1], found[2])


def _route_shape(layer: layers.Route, sources: Sequence[layers.Shape]) -> layers.Shape:
    axis = layers.AXES.index(layer.axis)
    if len({shape[:axis] + shape[axis + 1 :] for shape in sources}) != 1:
        raise shape_error(layer, "Joined inputs differ in size", "equal sizes", list(sources))
    out = list(sources[0])
    out[axis] = sum(shape[axis] for shape in sources)
    return (out[0], out[1], out[2])


def _select_shape(layer: layers.Select, sources: Sequence[layers.Shape]) -> layers.Shape:
    channels = sources[0][0]
    if not layer.channels or max(layer.channels) >= channels:
        expected = "numbers below {}".format(channels)
        raise shape_error(layer, "Selected channel does not exist", expected, layer.channels)
    return (len(layer.channels),) + sources[0][1:]


def _crop_shape(layer: layers.Crop, sources: Sequence[layers.Shape]) -> layers.Shape:
    out = []
    for limits, size in zip((layer.rows, layer.columns), sources[0][1:]):
        if len(limits) != 3 or not limits[2] or not 0 <= limits[0] < limits[1] <= size:
            raise shape_error(
                layer, "Crop does not fit", "(start, stop, step) in {}".format(size), limits
            )
        out.append(len(range(*limits)))
    return (sources[0][0], out[0], out[1])


def _pad_shape(layer: layers.Pad, sources: Sequence[layers.Shape]) -> layers.Shape:
    channels, height, width = sources[0]
    if len(layer.rows) != 2 or len(layer.columns) != 2:
        raise shape_error(layer, "Padding is not (before, after)", 2, (layer.rows, layer.columns))
    for size, border in ((height, layer.rows), (width, layer.columns)):
        most = {"reflect": size - 1, "circular": size}.get(layer.mode)
        if most is not None and max(border) > most:
            raise shape_error(layer, "Padding is too wide", "at most {}".format(most), border)
    return (channels, height + sum(layer.rows), width + sum(layer.columns))


def _reshape_shape(layer: layers.Reshape, sources: Sequence[layers.Shape]) -> layers.Shape:
    channels, height, width = sources[0]
    if layer.height * layer.width != height * width:
        raise shape_error(layer, "Positions do not match", height * width, layer[2:])
    return (channels, layer.height, layer.width)


def _upsample_shape(layer: layers.Upsample, sources: Sequence[layers.Shape]) -> layers.Shape:
    channels, height, width = sources[0]
    return (channels, height * layer.scale, width * layer.scale)


def _resize_shape(layer: layers.Resize, sources: Sequence[layers.Shape]) -> layers.Shape:
    return (sources[0][0], layer.height, layer.width)


def _shuffle_shape(layer: layers.PixelShuffle, sources: Sequence[layers.Shape]) -> layers.Shape:
    channels, height, width = sources[0]
    square = layer.scale * layer.scale
    if channels % square:
        raise shape_error(
            layer, "Channels do not match", "a multiple of {}".format(square), channels
        )
    return (channels // square, height * layer.scale, width * layer.scale)


def _pool_shape(
    layer: Union[layers.MaxPool, layers.AvgPool], sources: Sequence[layers.Shape]
) -> layers.Shape:
    channels, *sizes = sources[0]
    begin, end = (
        (layer.pad_begin, layer.pad_end)
        if isinstance(layer, layers.MaxPool)
        else (layer.padding, layer.padding)
    )
    settings = (layer.kernel, layer.stride, begin, end)
    out = []
    for axis, size in enumerate(sizes):
        kernel, stride, before, after = (layers.pair(value)[axis] for value in settings)
        out.append(_window(layer, size, kernel, stride, before + after))
    return (channels, out[0], out[1])


def _pooled_shape(layer: layers.GlobalAvgPool, sources: Sequence[layers.Shape]) -> layers.Shape:
    return (sources[0][0], 1, 1)


def _flat_shape(layer: layers.Flatten, sources: Sequence[layers.Shape]) -> layers.Shape:
    channels, height, width = sources[0]
    return (channels * height * width, 1, 1)


def _attention_shape(layer: layers.Attention, sources: Sequence[layers.Shape]) -> layers.Shape:
    queries, keys, values = sources
    fits = queries[0] == keys[0] and keys[1:] == values[1:] and queries[2] == keys[2] == 1
    if not fits or queries[0] % layer.heads or values[0] % layer.heads:
        expected = "q (D, T, 1), k (D, S, 1), v (E, S, 1), {} heads".format(layer.heads)
        raise shape_error(layer, "Attention does not fit its inputs", expected, list(sources))
    return (values[0],) + queries[1:]


def _detect_shape(layer: layers.Detect, sources: Sequence[layers.Shape]) -> layers.Shape:
    expected = len(layer.anchors) * (5 + layer.n_classes)
    if sources[0][0] != expected:
        found = sources[0][0]
        raise shape_error(layer, "Head channels do not match the anchors", expected, found)
    return sources[0]


# --- tensors ------------------------------------------------------------------------------------


def weight_shape(layer: layers.Weighted) -> Tuple[int, ...]:
    """Shape of a dense weight: (O, I / groups, KH, KW) of a convolution, (O, I) of a linear."""
    if isinstance(layer, layers.Conv):
        return (layer.out_channels, layer.in_channels // layer.groups) + layers.pair(layer.kernel)
    return (layer.out_channels, layer.in_channels)


def _weighted_parts(layer: layers.Weighted) -> Parts:
    parts: Parts = {}
    parts["weight"] = weight_shape(layer)
    if layer.bias:
        parts["bias"] = (layer.out_channels,)
    if isinstance(layer, layers.Conv) and layer.batch_norm:
        for part in ("bn_weight", "bn_bias", "bn_mean", "bn_var"):
            parts[part] = (layer.out_channels,)
    return parts


def _norm_parts(layer: layers.Norm) -> Parts:
    names = ["norm_weight"] if layer.affine else []
    names += ["norm_bias"] if layer.affine and layer.kind != "rms" else []
    names += ["norm_mean", "norm_var"] if layer.kind == "batch" else []
    return dict.fromkeys(names, (layer.channels,))


def _constant_parts(layer: layers.Constant) -> Parts:
    return {"value": (layer.channels, layer.height, layer.width)}


def _no_parts(layer: layers.Layer) -> Parts:
    return {}


# --- registry -----------------------------------------------------------------------------------


class Op(NamedTuple):
    """Properties of an op."""

    record: Type[Any]  # its class
    # (layer, shapes of its inputs) -> shape of its output; raises SpecError
    shape: Callable[[Any, Sequence[layers.Shape]], layers.Shape]
    # layer -> shapes of its tensors by part, as in `spec.tensor_shapes`
    parts: Callable[[Any], Parts] = _no_parts
    n_inputs: int = 1  # inputs it needs; -1 = one or more


OPS: Dict[str, Op] = {
    "conv": Op(layers.Conv, _conv_shape, _weighted_parts),
    "linear": Op(layers.Linear, _linear_shape, _weighted_parts),
    "norm": Op(layers.Norm, _norm_shape, _norm_parts),
    "constant": Op(layers.Constant, _declared_shape, _constant_parts, 0),
    "activation": Op(layers.Activation, _same_shape),
    "softmax": Op(layers.Softmax, _same_shape),
    "shortcut": Op(layers.Shortcut, _broadcast_shape, _no_parts, -1),
    "multiply": Op(layers.Multiply, _broadcast_shape, _no_parts, -1),
    "route": Op(layers.Route, _route_shape, _no_parts, -1),
    "select": Op(layers.Select, _select_shape),
    "crop": Op(layers.Crop, _crop_shape),
    "pad": Op(layers.Pad, _pad_shape),
    "reshape": Op(layers.Reshape, _reshape_shape),
    "upsample": Op(layers.Upsample, _upsample_shape),
    "resize": Op(layers.Resize, _resize_shape),
    "pixel_shuffle": Op(layers.PixelShuffle, _shuffle_shape),
    "maxpool": Op(layers.MaxPool, _pool_shape),
    "avgpool": Op(layers.AvgPool, _pool_shape),
    "global_avg_pool": Op(layers.GlobalAvgPool, _pooled_shape),
    "flatten": Op(layers.Flatten, _flat_shape),
    "attention": Op(layers.Attention, _attention_shape, _no_parts, 3),
    "reuse": Op(layers.Reuse, _same_shape),
    "opaque": Op(layers.Opaque, _declared_shape, _no_parts, -1),
    "detect": Op(layers.Detect, _detect_shape),
}
_NAME_OF = {op.record: name for name, op in OPS.items()}


def op_of(layer: layers.Layer) -> str:
    """The op's name in JSON, for example `conv`."""
    return _NAME_OF[type(layer)]


def parts_of(layer: layers.Layer) -> Parts:
    """Part -> shape of the layer's tensors, for example `weight`; empty for most ops."""
    return OPS[op_of(layer)].parts(layer)


def layer_shape(layer: layers.Layer, sources: List[layers.Shape]) -> layers.Shape:
    """Shape of a layer's output; raises SpecError."""
    op = OPS[op_of(layer)]
    fits = len(sources) == op.n_inputs if op.n_inputs >= 0 else bool(sources)
    if not fits:
        expected = "one or more" if op.n_inputs < 0 else op.n_inputs
        raise shape_error(layer, "Wrong number of inputs", expected, len(sources))
    return op.shape(layer, sources)
