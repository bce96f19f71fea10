"""Layers joined as the description has them: batch norm and activation with what comes before."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from pneumonia.network.module import needed_layers
from pneumonia.runtime.model.layers import (
    LEAKY_SLOPE,
    Activation,
    Conv,
    Layer,
    Linear,
    Norm,
    Reuse,
    Shortcut,
)

BN_PARTS = ("weight", "bias", "mean", "var")


class FusedLayers(NamedTuple):
    """The layers that are left."""

    layers: tuple[Layer, ...]  # in execution order
    tensors: dict[str, Tensor]  # named after them
    now: dict[str, str]  # layer that is gone -> the layer that gives its value
    # layers whose value is not to be seen any more, since their activation follows
    hidden: set[str]
    # layer -> names of the norm and the activation that it took over
    absorbed: dict[str, dict[str, str]]


def fuse(
    layers: Mapping[str, Layer], tensors: Mapping[str, Tensor], outputs: set[str]
) -> FusedLayers:
    """Join norms and activations with the only layer that they read, and drop unread layers.

    Args:
        layers: By name, in execution order.
        tensors: Named after the layers.
        outputs: Layers whose values leave the network.
    """
    needed = needed_layers(layers.values(), outputs)
    left = {name: layer for name, layer in layers.items() if name in needed}
    kept_tensors = {k: t for k, t in tensors.items() if k.rpartition(".")[0] in left}
    repeated = {layer.layer for layer in left.values() if isinstance(layer, Reuse)}
    fused = FusedLayers((), kept_tensors, {}, set(), {})
    for name in list(left):
        layer = left[name]
        if len(layer.inputs) != 1 or layer.inputs[0] not in left or name in repeated:
            continue
        source = layer.inputs[0]
        readers = sum(source in other.inputs for other in left.values())
        if readers > 1 or source in outputs or source in repeated:
            continue
        joined = _joined(left[source], layer)
        if joined is None:
            continue
        if isinstance(layer, Norm):
            for part in BN_PARTS:
                fused.tensors[f"{source}.bn_{part}"] = fused.tensors.pop(f"{name}.norm_{part}")
        _replace(left, source, name, joined, fused)
        outputs = {source if output == name else output for output in outputs}
    return fused._replace(layers=tuple(left.values()))


def _joined(before: Layer, layer: Layer) -> Layer | None:
    """Both in one record, if the description can say that."""
    if isinstance(before, Conv) and isinstance(layer, Norm):
        plain = not before.batch_norm and before.activation == "linear"
        if plain and layer.kind == "batch" and layer.affine:
            return before._replace(batch_norm=True, bn_eps=layer.eps, activation=layer.activation)
    if isinstance(before, (Conv, Linear, Norm, Shortcut)) and isinstance(layer, Activation):
        usual = layer.function != "leaky_relu" or layer.slope == LEAKY_SLOPE
        if before.activation == "linear" and usual:
            return before._replace(activation=layer.function)
    return None


def _replace(
    left: dict[str, Layer], source: str, name: str, joined: Layer, fused: FusedLayers
) -> None:
    gone = left.pop(name)
    left[source] = joined
    for other, layer in left.items():
        if name in layer.inputs:
            inputs = tuple(source if x == name else x for x in layer.inputs)
            left[other] = layer._replace(inputs=inputs)
    key = "norm" if isinstance(gone, Norm) else "activation"
    fused.absorbed.setdefault(source, {})[key] = name
    fused.absorbed[source].update(fused.absorbed.pop(name, {}))
    for old, new in fused.now.items():
        if new == name:
            fused.now[old] = source
    fused.now[name] = source
    fused.hidden.add(source)
