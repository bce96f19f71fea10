"""Torch modules of the layers that have tensors, and torch functions of those that have none."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from pneumonia.runtime.model import layers

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "leaky_relu": lambda x: F.leaky_relu(x, layers.LEAKY_SLOPE),
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "elu": F.elu,
    "mish": F.mish,
}
TORCH_PAD_MODES = {"zeros": "constant"}  # the other modes have the same name


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply one of `spec.ACTIVATIONS` to a tensor that no other layer reads."""
    # In place: `x` is always a fresh tensor of the calling block, and neither convolution, batch
    # norm nor addition needs its own output to go backward.
    if activation == "leaky_relu":
        return F.leaky_relu(x, layers.LEAKY_SLOPE, inplace=True)
    if activation == "relu":
        return F.relu(x, inplace=True)
    return FUNCTIONS[activation](x)


def _conv_arguments(layer: layers.Conv) -> tuple[Any, ...]:
    """Arguments of `nn.Conv2d`, in its order."""
    return (
        layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding,
        layer.dilation, layer.groups, layer.bias,
    )  # fmt: skip


class TransposedConv(nn.Conv2d):
    """Transposed convolution whose weight is (O, I / groups, KH, KW): a row is a filter."""

    def __init__(self, layer: layers.Conv, device: str | None = None) -> None:
        super().__init__(*_conv_arguments(layer), device=device)  # type: ignore[misc]
        self.extra = layers.pair(layer.output_padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H', W')."""
        weight = transposed_weight(self.weight, self.groups)
        assert not isinstance(self.padding, str)
        return F.conv_transpose2d(
            x, weight, self.bias, self.stride, self.padding, self.extra, self.groups, self.dilation
        )


def transposed_weight(weight: Tensor, groups: int) -> Tensor:
    """(O, I / groups, KH, KW) <-> torch's (I, O / groups, KH, KW); its own inverse."""
    rows, columns, *kernel = weight.shape
    grouped = weight.reshape(groups, rows // groups, columns, *kernel).transpose(1, 2)
    return grouped.reshape(groups * columns, rows // groups, *kernel)


class ConvBlock(nn.Module):
    """Convolution, batch norm if the layer has one, activation."""

    def __init__(self, layer: layers.Conv) -> None:
        super().__init__()
        self.conv: nn.Conv2d = (
            skip_init(TransposedConv, layer)  # type: ignore[no-untyped-call]
            if layer.transposed
            else skip_init(nn.Conv2d, *_conv_arguments(layer))  # type: ignore[no-untyped-call]
        )
        self.norm = None
        if layer.batch_norm:
            self.norm = _batch_norm(layer.out_channels, layer.bn_eps, True)
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H', W')."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return activate(x, self.activation)

    def parts(self) -> dict[str, Tensor]:
        """The layer's tensors, by part: `weight`, `bias` and so on."""
        parts: dict[str, Tensor] = {"weight": self.conv.weight}
        if self.conv.bias is not None:
            parts["bias"] = self.conv.bias
        return parts if self.norm is None else parts | _norm_parts(self.norm, "bn")


def _batch_norm(channels: int, eps: float, affine: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=eps, affine=affine)
    # The count is only for cumulative averages; without it every buffer is a float tensor.
    norm.register_buffer("num_batches_tracked", None)
    return norm


def _norm_parts(norm: nn.Module, prefix: str) -> dict[str, Tensor]:
    found = (("weight", "weight"), ("bias", "bias"), ("running_mean", "mean"),
             ("running_var", "var"))  # fmt: skip
    parts = {f"{prefix}_{part}": getattr(norm, name, None) for name, part in found}
    return {name: tensor for name, tensor in parts.items() if tensor is not None}


class LinearBlock(nn.Module):
    """Fully connected layer at every position, and activation."""

    def __init__(self, layer: layers.Linear) -> None:
        super().__init__()
        self.linear: nn.Linear = skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, layer.in_channels, layer.out_channels, bias=layer.bias
        )
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H, W)."""
        if x.shape[2:] == (1, 1):
            return activate(self.linear(x.flatten(1)), self.activation)[:, :, None, None]
        return activate(self.linear(x.permute(0, 2, 3, 1)), self.activation).permute(0, 3, 1, 2)

    def parts(self) -> dict[str, Tensor]:
        """The layer's tensors, by part: `weight`, `bias` and so on."""
        parts: dict[str, Tensor] = {"weight": self.linear.weight}
        if self.linear.bias is not None:
            parts["bias"] = self.linear.bias
        return parts


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W), at every position."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised values, of the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelRootNorm(nn.RMSNorm):
    """RMS norm over the channels of (N, C, H, W), at every position."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised values, of the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormBlock(nn.Module):
    """Normalisation on its own, and activation."""

    def __init__(self, layer: layers.Norm) -> None:
        super().__init__()
        self.norm: nn.Module
        if layer.kind == "batch":
            self.norm = _batch_norm(layer.channels, layer.eps, layer.affine)
        elif layer.kind == "group":
            self.norm = nn.GroupNorm(layer.groups, layer.channels, layer.eps, layer.affine)
        elif layer.kind == "layer":
            self.norm = ChannelNorm(layer.channels, layer.eps, layer.affine)
        else:
            self.norm = ChannelRootNorm(layer.channels, layer.eps, layer.affine)
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        """Normalised values, of the same shape."""
        return activate(self.norm(x), self.activation)

    def parts(self) -> dict[str, Tensor]:
        """The layer's tensors, by part: `weight`, `bias` and so on."""
        return _norm_parts(self.norm, "norm")


class ConstantBlock(nn.Module):
    """A trained value; the same for every image."""

    def __init__(self, layer: layers.Constant) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(layer.channels, layer.height, layer.width))

    def forward(self) -> Tensor:
        """(1, C, H, W), a copy: a view of a parameter asks for gradients even without any."""
        return self.value[None].clone()

    def parts(self) -> dict[str, Tensor]:
        """The layer's tensors, by part: `weight`, `bias` and so on."""
        return {"value": self.value}


Block = ConvBlock | LinearBlock | NormBlock | ConstantBlock
BLOCKS: dict[type, Callable[[Any], Block]] = {
    layers.Conv: ConvBlock,
    layers.Linear: LinearBlock,
    layers.Norm: NormBlock,
    layers.Constant: ConstantBlock,
}


# --- layers without tensors: (layer, sources) -> value ------------------------------------------


def _shortcut(layer: layers.Shortcut, sources: Sequence[Tensor]) -> Tensor:
    if len(sources) == 1:
        return activate(sources[0].clone(), layer.activation)
    total = sources[0]
    for other in sources[1:]:
        total = total + other
    return activate(total, layer.activation)


def _multiply(layer: layers.Multiply, sources: Sequence[Tensor]) -> Tensor:
    return math.prod(sources[1:], start=sources[0])


def _activation(layer: layers.Activation, sources: Sequence[Tensor]) -> Tensor:
    if layer.function == "leaky_relu":
        return F.leaky_relu(sources[0], layer.slope)
    return FUNCTIONS[layer.function](sources[0])


def _route(layer: layers.Route, sources: Sequence[Tensor]) -> Tensor:
    if len(sources) == 1:
        return sources[0]
    batch = max(source.shape[0] for source in sources)  # constants have one image
    whole = [source.expand(batch, -1, -1, -1) for source in sources]
    return torch.cat(whole, dim=1 if layer.axis == "channels" else 2)


def _select(layer: layers.Select, sources: Sequence[Tensor]) -> Tensor:
    channels = layer.channels
    if channels == tuple(range(channels[0], channels[0] + len(channels))):
        return sources[0][:, channels[0] : channels[-1] + 1]
    return sources[0][:, list(channels)]


def _crop(layer: layers.Crop, sources: Sequence[Tensor]) -> Tensor:
    return sources[0][:, :, slice(*layer.rows), slice(*layer.columns)]


def _pad(layer: layers.Pad, sources: Sequence[Tensor]) -> Tensor:
    borders = (*layer.columns, *layer.rows)
    if layer.mode == "zeros":
        return F.pad(sources[0], borders, value=layer.value)
    return F.pad(sources[0], borders, mode=TORCH_PAD_MODES.get(layer.mode, layer.mode))


def _reshape(layer: layers.Reshape, sources: Sequence[Tensor]) -> Tensor:
    return sources[0].reshape(*sources[0].shape[:2], layer.height, layer.width)


def _upsample(layer: layers.Upsample, sources: Sequence[Tensor]) -> Tensor:
    height, width = (layer.scale * size for size in sources[0].shape[2:])
    return _resize(layers.Resize(layer.name, layer.inputs, height, width, layer.mode), sources)


def _resize(layer: layers.Resize, sources: Sequence[Tensor]) -> Tensor:
    corners = None if layer.mode == "nearest" else layer.mode == "bilinear_corners"
    mode, size = layer.mode.removesuffix("_corners"), (layer.height, layer.width)
    return F.interpolate(sources[0], size=size, mode=mode, align_corners=corners)


def _max_pool(layer: layers.MaxPool, sources: Sequence[Tensor]) -> Tensor:
    x = sources[0]
    if layer.pad_begin or layer.pad_end:
        (top, left), (bottom, right) = layers.pair(layer.pad_begin), layers.pair(layer.pad_end)
        x = F.pad(x, (left, right, top, bottom), value=-math.inf)
    return F.max_pool2d(x, layer.kernel, layer.stride)


def _avg_pool(layer: layers.AvgPool, sources: Sequence[Tensor]) -> Tensor:
    return F.avg_pool2d(
        sources[0], layer.kernel, layer.stride, layer.padding,
        count_include_pad=layer.count_padding,
    )  # fmt: skip


def _attention(layer: layers.Attention, sources: Sequence[Tensor]) -> Tensor:
    # (N, D, T, 1) -> (N, heads, T, D / heads)
    queries, keys, values = (
        x.reshape(x.shape[0], layer.heads, -1, x.shape[2]).transpose(2, 3) for x in sources
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values, scale=layer.scale)
    return mixed.transpose(2, 3).flatten(1, 2)[..., None]


RUN: dict[type, Callable[[Any, Sequence[Tensor]], Tensor]] = {
    layers.Activation: _activation,
    layers.Softmax: lambda layer, sources: sources[0].softmax(1),
    layers.Shortcut: _shortcut,
    layers.Multiply: _multiply,
    layers.Route: _route,
    layers.Select: _select,
    layers.Crop: _crop,
    layers.Pad: _pad,
    layers.Reshape: _reshape,
    layers.Upsample: _upsample,
    layers.Resize: _resize,
    layers.PixelShuffle: lambda layer, sources: F.pixel_shuffle(sources[0], layer.scale),
    layers.MaxPool: _max_pool,
    layers.AvgPool: _avg_pool,
    layers.GlobalAvgPool: lambda layer, sources: sources[0].mean((2, 3), keepdim=True),
    # NCHW order whatever the memory format is.
    layers.Flatten: lambda layer, sources: sources[0].contiguous().flatten(1)[:, :, None, None],
    layers.Attention: _attention,
    layers.Detect: lambda layer, sources: sources[0],
}


def run_layer(layer: layers.Layer, sources: Sequence[Tensor]) -> Tensor:
    """The value of a layer without tensors; values are (N, C, H, W)."""
    return RUN[type(layer)](layer, sources)
