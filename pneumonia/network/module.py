"""The torch module of a `NetworkSpec`.

Every value inside is `(N, C, H, W)`; flat values are `(N, n, 1, 1)` until they leave the network.
Parameters keep float32; autocast (bf16) and `channels_last` are the caller's choice.
"""

import math
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from pneumonia.network.blocks import BLOCKS, Block, run_layer
from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.model.layers import LEAKY_SLOPE, Conv, Layer, Linear, Opaque, Reuse
from pneumonia.runtime.model.spec import INPUT, NetworkSpec, output_shape, tensor_shapes

UNITS = ("bn_weight", "bn_var", "norm_weight", "norm_var")  # parts that start at one
# dense tensors of a network by name (`conv1.weight`, `conv1.bn_mean`): names and shapes are those
# of `runtime.model.spec.tensor_shapes`
NamedTensors = Mapping[str, Tensor]
OBJECT_PRIOR = 0.01  # share of anchors that hold an object, before anything is learnt


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
        tensors: Its dense tensors, copied in; None makes fresh weights with torch's global
            generator.
        modules: The torch modules of `Opaque` layers, by their paths.

    Attributes:
        spec: The description the module was built from.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        tensors: NamedTensors | None = None,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        spec.shapes()  # raises SpecError on a broken graph before memory is taken
        self.spec = spec
        self._flat = {name for name in spec.outputs if len(output_shape(spec, name)) == 1}
        self._dead = _last_uses(spec)
        # A list, not a dict by name: any name is allowed in a spec, not in a ModuleDict.
        parametric = [layer for layer in spec.layers if type(layer) in BLOCKS]
        self.blocks = nn.ModuleList(BLOCKS[type(layer)](layer) for layer in parametric)
        self._index = {layer.name: i for i, layer in enumerate(parametric)}
        self.opaque = nn.ModuleList()
        self._opaque_index: dict[str, int] = {}
        for layer in spec.layers:
            if isinstance(layer, Opaque):
                self._opaque_index[layer.name] = len(self.opaque)
                self.opaque.append(_opaque_module(layer, modules or {}))
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
            values[layer.name] = self._run(layer, sources)
            del sources
            for name in dead:
                del values[name]
        return {name: self._output(name, values[name], len(x)) for name in self.spec.outputs}

    def _run(self, layer: Layer, sources: list[Tensor]) -> Tensor:
        block = layer.layer if isinstance(layer, Reuse) else layer.name
        if block in self._index:
            value: Tensor = self.blocks[self._index[block]](*sources)
            return value
        if isinstance(layer, Opaque):
            made: Tensor = self.opaque[self._opaque_index[layer.name]](*sources)
            return made
        return run_layer(self.spec.executed(layer), sources)

    def _output(self, name: str, value: Tensor, n_images: int) -> Tensor:
        whole = value.expand(n_images, -1, -1, -1)  # what rests on constants alone has one image
        flat = whole.flatten(1) if name in self._flat else whole
        return flat if flat.dtype == torch.float64 else flat.float()

    def block(self, name: str) -> Block:
        """The module of a layer that has tensors."""
        return cast(Block, self.blocks[self._index[self.spec.layer(name).name]])

    def opaque_module(self, name: str) -> nn.Module:
        """The torch module of an `Opaque` layer."""
        return self.opaque[self._opaque_index[name]]

    def weights(self) -> dict[str, nn.Parameter]:
        """Layer name -> weight parameter, OIHW or (O, I), in execution order."""
        found: dict[str, nn.Parameter] = {}
        for layer in self.spec.weighted():
            weight = self.block(layer.name).parts()["weight"]
            assert isinstance(weight, nn.Parameter)
            found[layer.name] = weight
        return found

    def tensors(self) -> dict[str, Tensor]:
        """All tensors as in `NamedTensors`, detached, memory shared."""
        return {
            f"{name}.{part}": tensor.detach()
            for name in self._index
            for part, tensor in self.block(name).parts().items()
        }

    def load_tensors(self, tensors: NamedTensors) -> None:
        """Copy tensors in; every tensor of the network must be there, and no other.

        Raises:
            ArtefactError: A tensor is missing, unknown or has another shape.
        """
        check_tensors(self.spec, tensors)
        with torch.no_grad():
            for name, target in self.tensors().items():
                target.copy_(tensors[name])


def _opaque_module(layer: Opaque, modules: Mapping[str, nn.Module]) -> nn.Module:
    if layer.module not in modules:
        raise ArtefactError(
            "Network has a layer that only its torch module can run",
            expected=f"the module {layer.module!r}",
            where=f"layer {layer.name!r}",
        )
    return modules[layer.module]


def needed_layers(
    layers: Iterable[Layer], outputs: Iterable[str], cut: tuple[str, str] = ("", "")
) -> set[str]:
    """Names of the layers that some output needs, when one edge (reader, input) is cut."""
    by_name = {layer.name: layer for layer in layers}
    found: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in found or name == INPUT:
            continue
        found.add(name)
        layer = by_name[name]
        waiting += [source for source in layer.inputs if (name, source) != cut]
        if isinstance(layer, Reuse):
            waiting.append(layer.layer)
    return found


def check_tensors(spec: NetworkSpec, tensors: NamedTensors) -> None:
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


def check_network(network: object) -> None:
    """Refuse anything but a network of this package, for example a plain torch module.

    Raises:
        ConfigError: It has no description.
    """
    if not isinstance(getattr(network, "spec", None), NetworkSpec):
        raise ConfigError(
            "Network has no description",
            expected="a network that pneumonia.from_torch made",
            found=type(network).__name__,
            fix="Use pneumonia.from_torch(module, example_input) first",
        )


def check_module(module: object) -> None:
    """Refuse anything but a torch module with values, for example a class or a state_dict.

    Raises:
        ConfigError: It is not a module, or tensors of it have no values yet (lazy or `meta`).
    """
    if not isinstance(module, nn.Module):
        name = module.__name__ if isinstance(module, type) else type(module).__name__
        raise ConfigError(
            "Network is not a torch module",
            expected="an instance of torch.nn.Module",
            found=f"the class {name} itself" if isinstance(module, type) else name,
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise ConfigError(
                "Network has tensors without values",
                expected="an initialised module on a device other than `meta`",
                where=name,
                fix="Run it once, or load its weights",
            )


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
    for layer in network.spec.layers:
        if type(layer) not in BLOCKS:
            continue
        parts = {
            part: tensor.detach() for part, tensor in network.block(layer.name).parts().items()
        }
        for part, tensor in parts.items():
            tensor.fill_(1.0 if part in UNITS else 0.0)
        if isinstance(layer, (Conv, Linear)):
            gain = nn.init.calculate_gain("leaky_relu", _slope(layer.activation))
            std = gain / math.sqrt(parts["weight"][0].numel())
            if layer.name in heads:
                std = 0.01
            parts["weight"].normal_(0.0, std, generator=generator)
        if layer.name in heads and "bias" in parts:
            head = heads[layer.name]
            bias = parts["bias"].view(len(head.anchors), 5 + head.n_classes)
            bias[:, 4] = math.log(OBJECT_PRIOR / (1.0 - OBJECT_PRIOR))


def _slope(activation: str) -> float:
    """Slope below zero; 0, as of ReLU, stands for every curved one."""
    return {"linear": 1.0, "leaky_relu": LEAKY_SLOPE}.get(activation, 0.0)
