"""The torch module of a `NetworkSpec`.

Every value inside is `(N, C, H, W)`; flat values are `(N, n, 1, 1)` until they leave the network.
Parameters keep float32; autocast (bf16) and `channels_last` are the caller's choice.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from pneumonia.runtime.engines import output_shape
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.spec import (
    BN_EPS,
    INPUT,
    LEAKY_SLOPE,
    Conv,
    Detect,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    NetworkSpec,
    Route,
    Shortcut,
    Upsample,
    tensor_shapes,
)

OBJECT_PRIOR = 0.01  # share of anchors that hold an object, before anything is learnt


def _activate(x: Tensor, activation: str) -> Tensor:
    # In place: `x` is always a fresh tensor of the calling block, and neither convolution, batch
    # norm nor addition needs its own output to go backward.
    if activation == "leaky_relu":
        return F.leaky_relu(x, LEAKY_SLOPE, inplace=True)
    if activation == "relu":
        return F.relu(x, inplace=True)
    return x


class ConvBlock(nn.Module):
    """Convolution, batch norm if the layer has one, activation."""

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        self.conv: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
            nn.Conv2d,
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            bias=layer.bias,
        )
        self.norm = None
        if layer.batch_norm:
            self.norm = nn.BatchNorm2d(layer.out_channels, eps=BN_EPS)
            # The count is only for cumulative averages; without it every buffer is a float tensor.
            self.norm.register_buffer("num_batches_tracked", None)
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H', W')."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return _activate(x, self.activation)

    def parts(self) -> dict[str, Tensor]:
        """The layer's tensors, named as in `runtime.model.spec.tensor_shapes`."""
        parts: dict[str, Tensor] = {"weight": self.conv.weight}
        if self.conv.bias is not None:
            parts["bias"] = self.conv.bias
        if self.norm is not None:
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            parts["bn_weight"] = self.norm.weight
            parts["bn_bias"] = self.norm.bias
            parts["bn_mean"] = self.norm.running_mean
            parts["bn_var"] = self.norm.running_var
        return parts


class LinearBlock(nn.Module):
    """Fully connected layer and activation."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        self.linear: nn.Linear = skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, layer.in_channels, layer.out_channels, bias=layer.bias
        )
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, 1, 1) -> (N, O, 1, 1)."""
        return _activate(self.linear(x.flatten(1)), self.activation)[:, :, None, None]

    def parts(self) -> dict[str, Tensor]:
        """The layer's tensors, named as in `runtime.model.spec.tensor_shapes`."""
        parts: dict[str, Tensor] = {"weight": self.linear.weight}
        if self.linear.bias is not None:
            parts["bias"] = self.linear.bias
        return parts


def _pool(layer: MaxPool, x: Tensor) -> Tensor:
    if layer.pad_begin or layer.pad_end:
        pads = (layer.pad_begin, layer.pad_end) * 2
        x = F.pad(x, pads, value=-math.inf)
    return F.max_pool2d(x, layer.kernel, layer.stride)


def _without_weights(layer: Layer, sources: Sequence[Tensor]) -> Tensor:
    x = sources[0]
    if isinstance(layer, Shortcut):
        if len(sources) == 1:
            return _activate(x.clone(), layer.activation)
        for other in sources[1:]:
            x = x + other
        return _activate(x, layer.activation)
    if isinstance(layer, Route):
        return x if len(sources) == 1 else torch.cat(list(sources), dim=1)
    if isinstance(layer, Upsample):
        return F.interpolate(x, scale_factor=layer.scale, mode="nearest")
    if isinstance(layer, MaxPool):
        return _pool(layer, x)
    if isinstance(layer, GlobalAvgPool):
        return x.mean((2, 3), keepdim=True)
    if isinstance(layer, Flatten):
        # NCHW order whatever the memory format is.
        return x.contiguous().flatten(1)[:, :, None, None]
    assert isinstance(layer, Detect)
    return x


def _last_uses(spec: NetworkSpec) -> list[tuple[str, ...]]:
    """For every layer, the values that no later layer reads."""
    position = {layer.name: i for i, layer in enumerate(spec.layers)}
    dead: list[list[str]] = [[] for _ in spec.layers]
    for name, readers in spec.consumers().items():
        if name in spec.outputs:
            continue
        last = max((position[reader] for reader in readers), default=position.get(name, 0))
        dead[last].append(name)
    return [tuple(names) for names in dead]


class Network(nn.Module):
    """The network a spec describes.

    Args:
        spec: The description.
        tensors: Its dense tensors, copied in; None makes fresh weights with torch's global
            generator.

    Attributes:
        spec: The description the module was built from.
    """

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        spec.shapes()  # raises SpecError on a broken graph before memory is taken
        self.spec = spec
        self._flat = {name for name in spec.outputs if len(output_shape(spec, name)) == 1}
        self._dead = _last_uses(spec)
        # A list, not a dict by name: any name is allowed in a spec, not in a ModuleDict.
        self.blocks = nn.ModuleList(
            ConvBlock(layer) if isinstance(layer, Conv) else LinearBlock(layer)
            for layer in spec.weighted()
        )
        self._index = {layer.name: i for i, layer in enumerate(spec.weighted())}
        if tensors is None:
            initialise(self, None)
        else:
            self.load_tensors(tensors)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            x: (N, C, H, W), values as `InputSpec` says; H and W may differ from the spec's as
                long as the layers fit.

        Returns:
            Output name -> float32 tensor: head maps (N, A*(5+classes), h, w), logits (N, n).
        """
        values = {INPUT: x}
        for layer, dead in zip(self.spec.layers, self._dead, strict=True):
            sources = [values[name] for name in layer.inputs]
            if isinstance(layer, (Conv, Linear)):
                values[layer.name] = self.blocks[self._index[layer.name]](sources[0])
            else:
                values[layer.name] = _without_weights(layer, sources)
            del sources
            for name in dead:
                del values[name]
        return {
            name: (values[name].flatten(1) if name in self._flat else values[name]).float()
            for name in self.spec.outputs
        }

    def block(self, name: str) -> ConvBlock | LinearBlock:
        """The module of a convolution or fully connected layer."""
        block = self.blocks[self._index[self.spec.layer(name).name]]
        assert isinstance(block, (ConvBlock, LinearBlock))
        return block

    def weights(self) -> dict[str, nn.Parameter]:
        """Layer name -> weight parameter, OIHW or (O, I), in execution order."""
        found: dict[str, nn.Parameter] = {}
        for name in self._index:
            weight = self.block(name).parts()["weight"]
            assert isinstance(weight, nn.Parameter)
            found[name] = weight
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by their names in `runtime.model.spec.tensor_shapes`, detached, memory shared."""
        return {
            f"{name}.{part}": tensor.detach()
            for name in self._index
            for part, tensor in self.block(name).parts().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors in; every tensor of the network must be there, and no other.

        Raises:
            ArtefactError: A tensor is missing, unknown or has another shape.
        """
        check_tensors(self.spec, tensors)
        with torch.no_grad():
            for name, target in self.tensors().items():
                target.copy_(tensors[name])


def check_tensors(spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> None:
    """Names and shapes of dense tensors against the spec.

    Raises:
        ArtefactError: The first tensor that is missing, unknown or of another shape.
    """
    shapes = tensor_shapes(spec)
    for name, shape in shapes.items():
        if name not in tensors:
            raise ArtefactError("Tensor is missing", expected=repr(name), where=spec.name)
        if tuple(tensors[name].shape) != shape:
            raise ArtefactError(
                "Tensor has another shape",
                expected=str(shape),
                found=str(tuple(tensors[name].shape)),
                where=f"tensor {name!r}",
            )
    unknown = sorted(set(tensors) - set(shapes))
    if unknown:
        raise ArtefactError("Tensor belongs to no layer", found=repr(unknown[0]), where=spec.name)


def initialise(network: Network, generator: torch.Generator | None) -> None:
    """Fresh weights: He normal (fan in, the layer's own slope), norms at identity, biases zero.

    A convolution that feeds a detection head starts small, with the objectness bias at
    `log(p / (1 - p))`, p = OBJECT_PRIOR, so that the first steps are not spent on learning that
    most anchors hold nothing (focal loss, Lin et al. 2017, section 3.3).

    Args:
        network: Changed in place.
        generator: Source of randomness; None is torch's global one.
    """
    heads = {head.inputs[0]: head for head in network.spec.detect_layers()}
    for layer in network.spec.weighted():
        parts = {
            part: tensor.detach() for part, tensor in network.block(layer.name).parts().items()
        }
        gain = nn.init.calculate_gain("leaky_relu", _slope(layer.activation))
        std = gain / math.sqrt(parts["weight"][0].numel())
        if layer.name in heads:
            std = 0.01
        parts["weight"].normal_(0.0, std, generator=generator)
        for part, tensor in parts.items():
            if part in ("bn_weight", "bn_var"):
                tensor.fill_(1.0)
            elif part != "weight":
                tensor.zero_()
        if layer.name in heads and "bias" in parts:
            head = heads[layer.name]
            bias = parts["bias"].view(len(head.anchors), 5 + head.n_classes)
            bias[:, 4] = math.log(OBJECT_PRIOR / (1.0 - OBJECT_PRIOR))


def _slope(activation: str) -> float:
    return {"linear": 1.0, "leaky_relu": LEAKY_SLOPE, "relu": 0.0}[activation]
