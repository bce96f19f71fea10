"""Which channels are one: an entry per op that traces channels from its inputs to its output.

Channels start as atoms; ops unite the atoms of channels that can only go together. An op that mixes
all channels (a statistic over them, a comparison) makes them one atom, or protects them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.runtime.model import layers
from pneumonia.runtime.model.spec import INPUT, NetworkSpec

Ints = NDArray[np.int64]


class ChannelTracer:
    """Atoms of every value's channels, and the union-find forest over the atoms.

    Attributes:
        atoms: Layer (or `input`) -> atom of each of its output channels, int64 (C,).
        protected: Atoms that must stay because an op cannot do without them.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.parent: list[int] = []
        self.atoms: dict[str, Ints] = {}
        self.protected: list[Ints] = []
        self.atoms[INPUT] = self.fresh(spec.input.channels)
        shapes = spec.shapes()
        for layer in spec.layers:
            sources = [self.atoms[name] for name in layer.inputs]
            sizes = [shapes[name] for name in layer.inputs]
            if isinstance(layer, layers.Reuse):  # the same weights: the same inputs and outputs
                for source, name in zip(sources, spec.layer(layer.layer).inputs, strict=True):
                    self.unite(source, self.atoms[name])
                self.atoms[layer.name] = self.atoms[layer.layer]
            else:
                self.atoms[layer.name] = TRACE[type(layer)](self, layer, sources, sizes)

    def fresh(self, count: int) -> Ints:
        """Numbers of `count` new atoms."""
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, len(self.parent), dtype=np.int64)

    def root(self, atom: int) -> int:
        """The atom that stands for all that are one with this one."""
        while self.parent[atom] != atom:
            self.parent[atom] = self.parent[self.parent[atom]]
            atom = self.parent[atom]
        return atom

    def unite(self, these: Ints, those: Ints) -> None:
        """Make atoms one, element by element."""
        for a, b in zip(these.tolist(), those.tolist(), strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self.parent[high] = low

    def unite_groups(self, atoms: Ints, groups: int) -> None:
        """Make all atoms of each of equally large groups one."""
        rows = atoms.reshape(groups, -1)
        for column in rows.T[1:]:
            self.unite(rows[:, 0], column)


Sources = Sequence[Ints]
Sizes = Sequence[layers.Shape]


def _filters(
    tracer: ChannelTracer, layer: layers.Conv | layers.Linear, sources: Sources, sizes: Sizes
) -> Ints:
    if isinstance(layer, layers.Conv) and layer.groups > 1:
        # A group of channels and the filters that read it go together, so that groups stay equal.
        tracer.unite_groups(sources[0], layer.groups)
        first = sources[0].reshape(layer.groups, -1)[:, 0]
        return np.repeat(first, layer.out_channels // layer.groups)
    return tracer.fresh(layer.out_channels)


def _norm(tracer: ChannelTracer, layer: layers.Norm, sources: Sources, sizes: Sizes) -> Ints:
    if layer.kind != "batch":  # removing a channel would change the statistics of its group
        tracer.unite_groups(sources[0], layer.groups)
    return sources[0]


def _softmax(tracer: ChannelTracer, layer: layers.Softmax, sources: Sources, sizes: Sizes) -> Ints:
    tracer.unite_groups(sources[0], 1)
    return sources[0]


def _element_wise(tracer: ChannelTracer, layer: Any, sources: Sources, sizes: Sizes) -> Ints:
    widest = max(sources, key=len)
    for source in sources:
        if len(source) == len(widest):
            tracer.unite(widest, source)
        else:  # one channel, repeated: every channel of the result needs it
            tracer.protected.append(source)
    return widest


def _route(tracer: ChannelTracer, layer: layers.Route, sources: Sources, sizes: Sizes) -> Ints:
    if layer.axis == "channels":
        return np.concatenate(sources)
    for source in sources[1:]:
        tracer.unite(sources[0], source)
    return sources[0]


def _flatten(tracer: ChannelTracer, layer: layers.Flatten, sources: Sources, sizes: Sizes) -> Ints:
    _, height, width = sizes[0]
    return np.repeat(sources[0], height * width)


def _shuffle(
    tracer: ChannelTracer, layer: layers.PixelShuffle, sources: Sources, sizes: Sizes
) -> Ints:
    groups = len(sources[0]) // layer.scale**2
    tracer.unite_groups(sources[0], groups)
    return sources[0].reshape(groups, -1)[:, 0]


def _attention(
    tracer: ChannelTracer, layer: layers.Attention, sources: Sources, sizes: Sizes
) -> Ints:
    heads = [source.reshape(layer.heads, -1) for source in sources]
    for head in heads:
        tracer.unite_groups(head, layer.heads)
        tracer.unite(heads[0][:, 0], head[:, 0])
    return sources[2]


def _opaque(tracer: ChannelTracer, layer: layers.Opaque, sources: Sources, sizes: Sizes) -> Ints:
    made = tracer.fresh(layer.channels)
    tracer.protected.extend((*sources, made))
    return made


def _passed_on(tracer: ChannelTracer, layer: Any, sources: Sources, sizes: Sizes) -> Ints:
    return sources[0]


TRACE: dict[type, Callable[[ChannelTracer, Any, Sources, Sizes], Ints]] = {
    layers.Conv: _filters,
    layers.Linear: _filters,
    layers.Norm: _norm,
    layers.Constant: lambda tracer, layer, sources, sizes: tracer.fresh(layer.channels),
    layers.Activation: _passed_on,
    layers.Softmax: _softmax,
    layers.Shortcut: _element_wise,
    layers.Multiply: _element_wise,
    layers.Route: _route,
    layers.Select: lambda tracer, layer, sources, sizes: sources[0][list(layer.channels)],
    layers.Crop: _passed_on,
    layers.Pad: _passed_on,
    layers.Reshape: _passed_on,
    layers.Upsample: _passed_on,
    layers.Resize: _passed_on,
    layers.PixelShuffle: _shuffle,
    layers.MaxPool: _passed_on,
    layers.AvgPool: _passed_on,
    layers.GlobalAvgPool: _passed_on,
    layers.Flatten: _flatten,
    layers.Attention: _attention,
    layers.Opaque: _opaque,
    layers.Detect: _passed_on,
}
