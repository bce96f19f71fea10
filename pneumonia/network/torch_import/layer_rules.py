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
    LayerView,
    NotUnderstoodError,
    all_of,
)
from pneumonia.runtime.model.layers import Activation, Conv, Linear, Norm, Pad, Pair, Softmax

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
    view = b.gather_channels(view, len(view.dims) - 1)
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
    view = b.gather_channels(view, place)
    parts = {"norm_weight": a.weight, "norm_bias": a.bias}
    if kind == "batch":
        parts |= {"norm_mean": a.running_mean, "norm_var": a.running_var}
    channels = b.shapes[view.layer][0]
    if kind != "rms" and (a.weight is None) != (a.bias is None):
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
    view = b.gather_channels(a.input, 1)
    return _norm(b, view, a, "group", b.shapes[view.layer][0])


def _layer_norm(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if len(a.normalized_shape) != 1:
        raise NotUnderstoodError("layer norm over several dimensions")
    return _norm(b, a.input, a, "layer", place=len(a.input.dims) - 1)


def _rms_norm(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if len(a.normalized_shape) != 1:
        raise NotUnderstoodError("RMS norm over several dimensions")
    a.eps = torch.finfo(torch.float32).eps if a.eps is None else a.eps
    a.bias = None
    return _norm(b, a.input, a, "rms", place=len(a.input.dims) - 1)


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
    view = b.gather_channels(view, place % len(view.dims))
    return LayerView(b.add(Softmax, [view.layer], own=True), view.dims)


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
    "rms_norm": _rms_norm,
    **{name: activation(name) for name in ("relu", "relu6", "silu", "sigmoid", "tanh", "hardswish",
                                           "hardsigmoid", "mish")},
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "elu": _elu,
    "clamp": _clamp,
    "clamp_min": lambda b, a: _clamp(b, SimpleNamespace(self=a.self, min=a.min, max=None)),
    "hardtanh": _clamp,
}  # fmt: skip
