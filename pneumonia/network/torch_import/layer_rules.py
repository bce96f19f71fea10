"""Torch's ops that compute, as layers: one entry per op of ATen.

A rule takes the builder and the op's arguments by the names of its schema; it returns the view of
the new layer, or raises `NotUnderstoodError`.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pneumonia.network.blocks import transposed_weight
from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.layouts import (
    AxisFactor,
    Dim,
    LayerView,
    NotUnderstoodError,
    all_of,
    merged,
)
from pneumonia.runtime.model.spec import (
    Activation,
    AvgPool,
    Conv,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Norm,
    Pad,
    Pair,
    PixelShuffle,
    Softmax,
    Upsample,
)

PAD_MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate",
             "circular": "circular"}  # fmt: skip


def plain(numbers: int | Sequence[int], n_dims: int, default: int = 1) -> Pair:
    """A setting of one or two dimensions as a description has it; of one, the width is neutral."""
    values = [numbers] if isinstance(numbers, int) else list(numbers)
    if n_dims == 1:
        values = [values[0], default]
    first, second = values[0], values[-1]
    return first if first == second else (first, second)


# --- convolutions and fully connected layers ----------------------------------------------------


def _convolution(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = a.weight.dim() - 2
    if n_dims > 2:
        raise NotUnderstoodError(f"{n_dims} spatial dimensions")
    source, padding = b.as_map(a.input), a.padding
    if isinstance(padding, str):
        source, padding = _same_padding(b, a, source, n_dims)
    weight = a.weight if n_dims == 2 else a.weight[..., None]
    shape = _as_parameter(a.weight, weight)
    layer = b.add_with(
        Conv,
        [source],
        {"weight": shape, "bias": a.bias},
        weight.shape[1] * a.groups,
        weight.shape[0],
        plain(weight.shape[2:], 2),
        plain(a.stride, n_dims),
        plain(padding, n_dims, 0),
        bias=a.bias is not None,
        groups=a.groups,
        dilation=plain(a.dilation, n_dims),
    )
    return b.map_of(layer, n_dims + 2)


def _as_parameter(parameter: Tensor, view: Tensor) -> Tensor:
    """The view to store; the parameter itself where nothing changed, so that sharing is seen."""
    return parameter if view.shape == parameter.shape else view


def _same_padding(
    b: SpecBuilder, a: SimpleNamespace, source: str, n_dims: int
) -> tuple[str, list[int]]:
    """Padding 'valid' or 'same'; what is not symmetric becomes a layer."""
    if a.padding == "valid":
        return source, [0] * n_dims
    dilation = [*a.dilation] * n_dims  # torch allows one for all
    total = [d * (k - 1) for d, k in zip(dilation, a.weight.shape[2:], strict=False)]
    if all(border % 2 == 0 for border in total):
        return source, [border // 2 for border in total]
    borders = [(border // 2, border - border // 2) for border in total] + [(0, 0)]
    return b.add(Pad, [source], borders[0], borders[1]), [0] * n_dims


def _transposed(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = a.weight.dim() - 2
    if n_dims > 2:
        raise NotUnderstoodError(f"{n_dims} spatial dimensions")
    weight = a.weight if n_dims == 2 else a.weight[..., None]
    rows = transposed_weight(weight, a.groups)
    layer = b.add_with(
        Conv,
        [b.as_map(a.input)],
        {"weight": rows, "bias": a.bias},
        weight.shape[0],
        rows.shape[0],
        plain(weight.shape[2:], 2),
        plain(a.stride, n_dims),
        plain(a.padding, n_dims, 0),
        bias=a.bias is not None,
        groups=a.groups,
        dilation=plain(a.dilation, n_dims),
        transposed=True,
        output_padding=plain(a.output_padding, n_dims, 0),
    )
    return b.map_of(layer, n_dims + 2)


def linear(b: SpecBuilder, view: LayerView, weight: Tensor, bias: Tensor | None) -> LayerView:
    """A fully connected layer over the last dimension."""
    view = b.with_channels(view, len(view.dims) - 1)
    parts = {"weight": weight, "bias": bias}
    n_outputs, n_inputs = weight.shape
    layer = b.add_with(Linear, [view.layer], parts, n_inputs, n_outputs, bias=bias is not None)
    return LayerView(layer, (*view.dims[:-1], all_of("c", n_outputs)))


def _linear(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return linear(b, a.input, a.weight, a.bias)


def _addmm(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if isinstance(a.mat2, LayerView) or a.alpha != 1 or a.beta != 1:
        raise NotUnderstoodError("a product of two values")
    return linear(b, a.mat1, a.mat2.T, a.self)


# --- norms --------------------------------------------------------------------------------------


def _norm(b: SpecBuilder, view: LayerView, a: SimpleNamespace, kind: str, groups: int = 1,
          place: int = 1) -> LayerView:  # fmt: skip
    view = b.with_channels(view, place)
    parts = {"norm_weight": a.weight, "norm_bias": a.bias}
    if kind == "batch":
        parts |= {"norm_mean": a.running_mean, "norm_var": a.running_var}
    channels = b.shapes[view.layer][0]
    if (a.weight is None) != (a.bias is None):
        default = torch.ones if a.weight is None else torch.zeros
        missing = "norm_weight" if a.weight is None else "norm_bias"
        parts[missing] = default(channels)
    affine = a.weight is not None or a.bias is not None
    layer = b.add_with(
        Norm, [view.layer], parts, channels, kind, groups, eps=a.eps, affine=affine
    )  # fmt: skip
    return LayerView(layer, view.dims)


def _batch_norm(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if a.running_mean is None:
        raise NotUnderstoodError("batch norm without running statistics")
    return _norm(b, a.input, a, "batch")


def _group_norm(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return _norm(b, a.input, a, "group", a.num_groups)


def _instance_norm(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if not a.use_input_stats:
        return _norm(b, a.input, a, "batch")
    view = b.with_channels(a.input, 1)
    return _norm(b, view, a, "group", b.shapes[view.layer][0])


def _layer_norm(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if len(a.normalized_shape) != 1:
        raise NotUnderstoodError("layer norm over several dimensions")
    return _norm(b, a.input, a, "layer", place=len(a.input.dims) - 1)


# --- activations --------------------------------------------------------------------------------


def activation(function: str) -> Callable[[SpecBuilder, SimpleNamespace], LayerView]:
    """The rule of an activation without settings."""

    def rule(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
        view = a.self if hasattr(a, "self") else a.input
        own = b.path not in b.shapes
        layer = b.add(Activation, [view.layer], function, own=own)
        return LayerView(layer, view.dims)

    return rule


def _leaky_relu(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    slope = float(a.negative_slope)
    layer = b.add(Activation, [a.self.layer], "leaky_relu", slope, own=True)
    return LayerView(layer, a.self.dims)


def _gelu(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return activation("gelu" if a.approximate == "none" else "gelu_tanh")(b, a)


def _clamp(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    low = a.min_val if hasattr(a, "min_val") else a.min
    high = a.max_val if hasattr(a, "max_val") else a.max
    if (low, high) == (0, None):
        return activation("relu")(b, a)
    if (low, high) == (0, 6):
        return activation("relu6")(b, a)
    raise NotUnderstoodError(f"clamp to {low} ... {high}")


def _elu(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if (a.alpha, a.scale, a.input_scale) != (1, 1, 1):
        raise NotUnderstoodError("elu with another alpha or scale than 1")
    return activation("elu")(b, a)


def softmax_channels(b: SpecBuilder, view: LayerView, place: int) -> LayerView:
    """Softmax over the dimension of the channels."""
    view = b.with_channels(view, place % len(view.dims))
    return LayerView(b.add(Softmax, [view.layer], own=True), view.dims)


# --- pooling and sizes --------------------------------------------------------------------------


def _pool_sizes(b: SpecBuilder, a: SimpleNamespace, source: str, n_dims: int) -> dict[str, Any]:
    """Kernel, stride, padding and the rows and columns that `ceil_mode` adds behind."""
    kernel = plain(a.kernel_size, n_dims)
    found: dict[str, Any] = {
        "kernel": kernel,
        "stride": plain(a.stride, n_dims) if len(a.stride) else kernel,
        "padding": plain(a.padding, n_dims, 0),
    }
    sides, steps, pads = (_two(found[key]) for key in ("kernel", "stride", "padding"))
    extra = []
    for size, side, step, pad in zip(b.shapes[source][1:], sides, steps, pads, strict=True):
        more = 0
        if a.ceil_mode:
            out = -(-(size + 2 * pad - side) // step) + 1
            if (out - 1) * step >= size + pad:  # a window must begin inside
                out -= 1
            more = max(0, (out - 1) * step + side - size - 2 * pad)
        extra.append(more)
    found["extra"] = tuple(extra)
    return found


def _two(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _max_pool(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = len(a.self.dims) - 2
    source = b.as_map(a.self)
    if any(number != 1 for number in a.dilation):
        raise NotUnderstoodError("max pooling with dilation")
    sizes = _pool_sizes(b, a, source, n_dims)
    end = [pad + more for pad, more in zip(_two(sizes["padding"]), sizes["extra"], strict=True)]
    layer = b.add(
        MaxPool, [source], sizes["kernel"], sizes["stride"], sizes["padding"], plain(end, 2),
        own=True,
    )  # fmt: skip
    return b.map_of(layer, n_dims + 2)


def _avg_pool(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = len(a.self.dims) - 2
    source = b.as_map(a.self)
    sizes = _pool_sizes(b, a, source, n_dims)
    if any(sizes["extra"]) or getattr(a, "divisor_override", None):
        raise NotUnderstoodError("average pooling with ceil_mode or a divisor")
    layer = b.add(
        AvgPool, [source], sizes["kernel"], sizes["stride"], sizes["padding"],
        a.count_include_pad, own=True,
    )  # fmt: skip
    return b.map_of(layer, n_dims + 2)


def _adaptive(record: type) -> Callable[[SpecBuilder, SimpleNamespace], Any]:
    def rule(b: SpecBuilder, a: SimpleNamespace) -> Any:
        n_dims = len(a.self.dims) - 2
        source = b.as_map(a.self)
        sizes = b.shapes[source][1:]
        wanted = [*([a.output_size] if isinstance(a.output_size, int) else a.output_size), 1][:2]
        view = b.map_of(_reduced(b, record, source, sizes, wanted), n_dims + 2)
        return (view, None) if record is MaxPool else view  # torch gives the places as well

    return rule


def _reduced(
    b: SpecBuilder, record: type, source: str, sizes: Sequence[int], wanted: Sequence[int]
) -> str:
    """Pooling to equal windows."""
    if list(wanted) == list(sizes):
        return source
    if any(size % count for size, count in zip(sizes, wanted, strict=True)):
        raise NotUnderstoodError(f"adaptive pooling of {list(sizes)} to {list(wanted)}")
    if record is AvgPool and list(wanted) == [1, 1]:
        return b.add(GlobalAvgPool, [source], own=True)
    kernel = plain([size // count for size, count in zip(sizes, wanted, strict=True)], 2)
    return b.add(record, [source], kernel, kernel, own=True)


def _mean(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return _over_positions(b, a, AvgPool)


def _over_positions(b: SpecBuilder, a: SimpleNamespace, record: type) -> LayerView:
    """Mean or maximum over height, width or both."""
    view, n_dims = a.self, len(a.self.dims)
    over = sorted(place % n_dims for place in (getattr(a, "dim", None) or range(n_dims)))
    gone = merged([factor for place in over for factor in view.dims[place]])
    _, height, width = b.shapes[view.layer]
    rows, columns = AxisFactor("s", width, height), AxisFactor("s", 1, width)
    wanted: dict[Dim, tuple[int, int]] = {
        all_of("s", height * width): (1, 1),
        merged([rows]): (1, width),
        merged([columns]): (height, 1),
    }
    if gone not in wanted:
        raise NotUnderstoodError("a statistic over something else than positions")
    layer = _reduced(b, record, view.layer, (height, width), wanted[gone])
    # without its width, a map's height has other strides
    scaled = {rows: AxisFactor("s", 1, height)} if wanted[gone] == (height, 1) else {}
    dims = [
        () if place in over else tuple(scaled.get(factor, factor) for factor in dim)
        for place, dim in enumerate(view.dims)
    ]
    return LayerView(layer, tuple(d for i, d in enumerate(dims) if i not in over or a.keepdim))


def _pad(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = len(a.self.dims) - 2
    borders = list(a.pad)
    if min(borders) < 0 or len(borders) > 2 * n_dims or a.mode not in PAD_MODES:
        raise NotUnderstoodError(f"padding {borders} {a.mode}")
    pairs = [tuple(borders[i : i + 2]) for i in range(0, len(borders), 2)]  # last dimension first
    pairs += [(0, 0)] * (n_dims - len(pairs))
    rows, columns = (pairs[0], (0, 0)) if n_dims == 1 else (pairs[1], pairs[0])
    source = b.as_map(a.self)
    layer = b.add(Pad, [source], rows, columns, PAD_MODES[a.mode], float(a.value or 0), own=True)
    return b.map_of(layer, n_dims + 2)


def _upsample(mode: str) -> Callable[[SpecBuilder, SimpleNamespace], LayerView]:
    def rule(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
        source = b.as_map(a.input)
        _, height, width = b.shapes[source]
        factors = a.scale_factors or [a.output_size[0] / height, a.output_size[1] / width]
        if len(set(factors)) != 1 or factors[0] != int(factors[0]) or factors[0] < 1:
            raise NotUnderstoodError(f"upsampling by {list(factors)}")
        corners = "_corners" if getattr(a, "align_corners", False) else ""
        scale = int(factors[0])
        layer = b.add(Upsample, [source], scale, mode + corners, own=True) if scale > 1 else source
        return b.map_of(layer, 4)

    return rule


def _pixel_shuffle(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return b.map_of(b.add(PixelShuffle, [b.as_map(a.self)], a.upscale_factor, own=True), 4)


LAYER_RULES: dict[str, Callable[[SpecBuilder, SimpleNamespace], Any]] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv_transpose1d": _transposed,
    "conv_transpose2d": _transposed,
    "linear": _linear,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    **{name: activation(name) for name in ("relu", "relu6", "silu", "sigmoid", "tanh", "hardswish",
                                           "hardsigmoid", "mish")},
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "elu": _elu,
    "clamp": _clamp,
    "clamp_min": lambda b, a: _clamp(b, SimpleNamespace(self=a.self, min=a.min, max=None)),
    "hardtanh": _clamp,
    "max_pool1d": _max_pool,
    "max_pool2d": _max_pool,
    "avg_pool1d": _avg_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool1d": _adaptive(AvgPool),
    "adaptive_avg_pool2d": _adaptive(AvgPool),
    "adaptive_max_pool1d": _adaptive(MaxPool),
    "adaptive_max_pool2d": _adaptive(MaxPool),
    "mean": _mean,
    "amax": lambda b, a: _over_positions(b, a, MaxPool),
    "pad": _pad,
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "pixel_shuffle": _pixel_shuffle,
}  # fmt: skip
