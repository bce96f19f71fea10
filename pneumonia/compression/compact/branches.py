"""Residual branches: what a sum adds to its skip connection, and the sums left without one.

A branch whose values are all zero adds nothing, so that its layers can go and the sum with them.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch

from pneumonia.compression.compact.constants import ConstantChannels, find_constants
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.network.module import needed_layers
from pneumonia.runtime.model.layers import Layer, Shape, Shortcut
from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.model.spec import INPUT, NetworkSpec, tensor_shapes

IDEMPOTENT = ("relu", "relu6")  # f(f(x)) = f(x)


class Branch(NamedTuple):
    """A residual branch."""

    shortcut: str  # the layer that adds it
    source: str  # the input of that layer that the branch computes
    # convolutions and linear layers that only this branch needs, in execution order
    layers: tuple[str, ...]


def residual_branches(graph: ChannelGraph) -> list[Branch]:
    """Branches that can go as a whole, without layers in common, in execution order.

    A branch begins where its skip connection does: at the skip itself, or, where the skip has
    layers of its own (a projection), at what both read. Of nested branches the inner ones count.
    Branches that add to an output or to the image stay, since their biases are not removed.
    """
    spec = graph.spec
    needed = needed_layers(spec.layers, spec.outputs)
    found: list[tuple[int, int, Branch]] = []
    for place, layer in enumerate(spec.layers):
        if not isinstance(layer, Shortcut) or bool(
            graph.protected[graph.unit_out[layer.name]].any()
        ):
            continue
        # of every input: layers that it alone needs
        alone = [
            needed - needed_layers(spec.layers, spec.outputs, (layer.name, name))
            for name in layer.inputs
        ]
        sizes = [_weights(spec, names) for names in alone]
        skip = sizes.index(min(sizes))
        begins = ({layer.inputs[skip]}, _entries(spec, alone[skip]))
        for i, names in enumerate(alone):
            weighted = tuple(x.name for x in spec.weighted() if x.name in names)
            if i != skip and weighted and _entries(spec, names) in begins:
                branch = Branch(layer.name, layer.inputs[i], weighted)
                found.append((sizes[i], place, branch))
    taken: set[str] = set()
    chosen = []
    for _, place, branch in sorted(found):
        if not taken & set(branch.layers):
            taken |= set(branch.layers)
            chosen.append((place, branch))
    return _vanishing(spec, [branch for _, branch in sorted(chosen)])


def drop_zero_branches(spec: NetworkSpec, constants: Mapping[str, ConstantChannels]) -> NetworkSpec:
    """The network without the branches that add nothing, and without the layers behind them.

    Args:
        constants: Of its tensors, see `find_constants`.

    Returns:
        The same network if no sum has such a branch. A sum of one input is left out where nothing
        follows from it: its readers then read that input.
    """
    zero = {name for name, found in constants.items() if _is_zero(found)}
    shapes = spec.shapes()
    now: dict[str, str] = {}
    layers: list[Layer] = []
    dropped = False
    for layer in spec.layers:
        inputs = tuple(now.get(name, name) for name in layer.inputs)
        if isinstance(layer, Shortcut):
            kept = _kept_inputs(layer, zero, shapes)
            inputs = tuple(now.get(layer.inputs[i], layer.inputs[i]) for i in kept)
            dropped |= len(kept) < len(layer.inputs)
            if len(kept) == 1 < len(layer.inputs) and _passes_on(spec, layer, inputs[0]):
                now[layer.name] = inputs[0]
                continue
        layers.append(layer._replace(inputs=inputs))
    if not dropped:
        return spec
    smaller = spec._replace(layers=tuple(layers))
    needed = needed_layers(smaller.layers, smaller.outputs)
    return smaller._replace(layers=tuple(x for x in smaller.layers if x.name in needed))


def _vanishing(spec: NetworkSpec, branches: list[Branch]) -> list[Branch]:
    """The branches that are zero when the tensors of their layers are."""
    emptied = {name for branch in branches for name in branch.layers}
    tensors = {
        name: torch.full((), float(name.rpartition(".")[0] not in emptied)).expand(shape)
        for name, shape in tensor_shapes(spec).items()
    }
    constants = find_constants(spec, tensors) if branches else {}
    return [branch for branch in branches if _is_zero(constants[branch.source])]


def _is_zero(found: ConstantChannels) -> bool:
    return bool((found.known & (found.value == 0)).all())


def _kept_inputs(layer: Shortcut, zero: Collection[str], shapes: Mapping[str, Shape]) -> list[int]:
    """Places of the inputs that add something; those that set the shape of the sum stay."""
    kept = [i for i, name in enumerate(layer.inputs) if name not in zero]
    whole = shapes[layer.name]
    if not any(shapes[layer.inputs[i]] == whole for i in kept):
        kept.append(next(i for i, name in enumerate(layer.inputs) if shapes[name] == whole))
    return sorted(kept)


def _passes_on(spec: NetworkSpec, layer: Shortcut, source: str) -> bool:
    """Whether a sum of this one input is the input itself, and need not be there."""
    if layer.name in spec.outputs or source == INPUT:
        return False
    if layer.activation == "linear":
        return True
    before = getattr(spec.executed(spec.layer(source)), "activation", "linear")
    return layer.activation in IDEMPOTENT and before == layer.activation


def _entries(spec: NetworkSpec, names: Collection[str]) -> set[str]:
    """What the layers read from others."""
    read = {source for name in names for source in spec.layer(name).inputs}
    return read - set(names)


def _weights(spec: NetworkSpec, names: Collection[str]) -> int:
    layers = [layer for layer in spec.weighted() if layer.name in names]
    return sum(math.prod(weight_shape(layer)) for layer in layers)
