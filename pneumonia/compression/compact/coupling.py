"""Coupled filters: channels traced through the graph of a `NetworkSpec`.

Every channel of the input and of every convolution or fully connected layer starts as a unit of
its own. A shortcut adds its inputs channel by channel, so it unites their units; a route strings
units together; pooling, upsampling and detection pass them on; flatten repeats each H*W times.
A grouped convolution, a group norm and an attention unite the channels of a group or head, a layer
norm all channels: what is computed over several channels stays or goes as a whole.
A filter can be removed only with its whole unit, and every reader of the unit loses that channel.
Nothing here knows a particular network: YOLOv3's residual groups fall out of the rule.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pneumonia.compression.compact.tracing import ChannelTracer
from pneumonia.runtime.errors import PneumoniaError
from pneumonia.runtime.model.layers import Conv, Linear, Weighted
from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.model.spec import INPUT, NetworkSpec


class UnitGroup(NamedTuple):
    """Layers whose filters share units, directly or through others."""

    layers: tuple[str, ...]  # their names, in execution order
    units: Tensor  # ascending units of all their filters, int64


class ChannelGraph:
    """The units of a network.

    Attributes:
        spec: The network.
        n_units: How many units there are.
        unit_out: Layer (or `input`) -> unit of each of its output channels, int64 (C,).
        unit_in: Convolution or fully connected layer -> unit of each of its input channels.
        protected: Units of the network's input and outputs, which must stay: bool (n_units,).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        tracer = ChannelTracer(spec)
        atoms = tracer.atoms
        roots = np.array([tracer.root(i) for i in range(len(tracer.parent))], dtype=np.int64)
        _, unit_of_atom = np.unique(roots, return_inverse=True)
        self.n_units = int(unit_of_atom.max()) + 1
        self.unit_out = {
            name: torch.from_numpy(unit_of_atom[channels]) for name, channels in atoms.items()
        }
        self.unit_in = {layer.name: self.unit_out[layer.inputs[0]] for layer in spec.weighted()}
        self.protected = torch.zeros(self.n_units, dtype=torch.bool)
        for name in (INPUT, *spec.outputs):
            self.protected[self.unit_out[name]] = True
        for channels in tracer.protected:
            self.protected[torch.from_numpy(unit_of_atom[channels])] = True

    def weight_shape(self, name: str) -> torch.Size:
        """Shape of a layer's dense weight, see `ops.weight_shape`."""
        layer = self.spec.layer(name)
        assert isinstance(layer, (Conv, Linear))
        return torch.Size(weight_shape(layer))

    def components(self) -> list[UnitGroup]:
        """The weighted layers grouped by shared units, in order of their first layer."""
        group_of_unit: dict[int, int] = {}
        members: dict[int, list[str]] = {}
        for number, layer in enumerate(self.spec.weighted()):
            units = self.unit_out[layer.name].tolist()
            found = sorted({group_of_unit[u] for u in units if u in group_of_unit})
            target = found[0] if found else number
            members.setdefault(target, []).append(layer.name)
            for other in found[1:]:
                members[target].extend(members.pop(other))
                group_of_unit = {u: target if g == other else g for u, g in group_of_unit.items()}
            group_of_unit.update(dict.fromkeys(units, target))
        order = {layer.name: i for i, layer in enumerate(self.spec.weighted())}
        return [
            UnitGroup(
                tuple(sorted(names, key=order.__getitem__)),
                _distinct([self.unit_out[name] for name in names]),
            )
            for _, names in sorted(members.items())
        ]

    def unit_multiple(self, part: UnitGroup, filters: int) -> int:
        """Units of which a multiple holds a multiple of so many filters, in every layer of a group.

        A unit is several filters of a layer where a head or a group of a convolution is one.
        """
        steps = [1]
        for name in part.layers:
            units = self.unit_out[name]
            steps.append(filters // math.gcd(filters, len(units) // len(set(units.tolist()))))
        return math.lcm(*steps)

    def protected_layers(self) -> list[str]:
        """Layers none of whose filters may be removed: they feed an output or add to the input."""
        return [
            layer.name
            for layer in self.spec.weighted()
            if bool(self.protected[self.unit_out[layer.name]].all())
        ]

    def live_rows(self, live: Tensor, name: str) -> Tensor:
        """Which filters of a layer belong to live units: bool (O,)."""
        return live[self.unit_out[name]]

    def live_channels(self, live: Tensor, name: str) -> Tensor:
        """Which columns of a layer's kernels belong to live units: bool (I / groups,).

        Of a grouped convolution all: its live filters read live channels only.
        """
        layer = self.spec.layer(name)
        if isinstance(layer, Conv) and is_grouped(layer):
            return torch.ones(layer.in_channels // layer.groups, dtype=torch.bool)
        return live[self.unit_in[name]]

    def live_units_of(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Units with a kept filter in any layer; units of layers not given are live.

        Args:
            masks: Layer -> places that may be non-zero, bool (O, ...).
        """
        live = self.protected.clone()
        for layer in self.spec.weighted():
            units, mask = self.unit_out[layer.name], masks.get(layer.name)
            live[units if mask is None else units[kept_rows(mask)]] = True
        return live

    def live_part(self, masks: Mapping[str, Tensor], live: Tensor) -> dict[str, Tensor]:
        """Masks without the filters and input channels of units that are not live."""
        found = {}
        for name, mask in masks.items():
            ones = [1] * (mask.dim() - 2)
            rows = self.live_rows(live, name).reshape(-1, 1, *ones)
            found[name] = mask & rows & self.live_channels(live, name).reshape(1, -1, *ones)
        return found

    def reached(self, read: Mapping[str, Tensor], live: Tensor) -> Tensor:
        """Live units from which some path of live filters leads to an output: bool (n_units,).

        Marking from the outputs, unlike removing what no layer reads, also ends rings: a residual
        branch that only feeds its own trunk channel.

        Args:
            read: Layer -> which input channel each filter reads, bool (O, I); layers not given
                read everything.
        """
        marked = self.protected.clone()
        count = -1
        while int(marked.sum()) != count:
            count = int(marked.sum())
            for layer in reversed(self.spec.weighted()):
                if is_grouped(layer):
                    continue  # reads its own units only
                rows = self.live_rows(marked & live, layer.name)
                channels = read[layer.name][rows].any(0) if layer.name in read else rows.any()
                marked[self.unit_in[layer.name][channels.expand(layer.in_channels)]] = True
        return marked & live

    def keep_one(self, live: Tensor, before: Tensor) -> Tensor:
        """Give back to every layer that lost its last channel the first one it had before.

        Args:
            live: Live units after a removal.
            before: Live units before it. A layer whose mask is empty has none: it keeps its
                first filter, which passes on its bias.
        """
        live = live.clone()
        for units in self.unit_out.values():
            if not bool(live[units].any()):
                had = units[before[units]]
                live[(had if len(had) else units)[0]] = True
        return live


def kept_rows(mask: Tensor) -> Tensor:
    """Filters that have a place in a mask (O, ...): bool (O,)."""
    return mask.reshape(mask.shape[0], -1).any(1)


def is_grouped(layer: Weighted) -> bool:
    """Whether the layer's filters read only their group: it has no units but those it reads."""
    return isinstance(layer, Conv) and layer.groups > 1


def close_units(graph: ChannelGraph, read: Mapping[str, Tensor], live: Tensor) -> Tensor:
    """Remove units that reach no output; every layer keeps at least one filter.

    Args:
        read: Layer -> which input channel each filter reads, bool (O, I).
    """
    return graph.keep_one(graph.reached(read, live), live)


def select_layers(spec: NetworkSpec, patterns: Sequence[str]) -> list[str]:
    """Convolutions and fully connected layers whose name matches one of the glob patterns."""
    return [
        layer.name
        for layer in spec.weighted()
        if any(fnmatchcase(layer.name, pattern) for pattern in patterns)
    ]


def refuse_unmatched(
    spec: NetworkSpec, patterns: Mapping[str, Collection[str]], error: type[PneumoniaError]
) -> None:
    """Raise the error for the first glob that matches no layer, with the names of all layers.

    Args:
        patterns: Setting -> its globs.
    """
    for setting, globs in patterns.items():
        for glob in globs:
            if not select_layers(spec, [glob]):
                raise error(
                    "Pattern matches no layer",
                    expected="globs of " + ", ".join(layer.name for layer in spec.weighted()),
                    found=repr(glob),
                    where=setting,
                )


def prunable(component: UnitGroup, graph: ChannelGraph, selected: Collection[str]) -> bool:
    """Whether filters of the component may be removed: all layers selected, some unit free."""
    free = ~graph.protected[component.units]
    return set(component.layers) <= set(selected) and bool(free.any())


def _distinct(units: Sequence[Tensor]) -> Tensor:
    return torch.from_numpy(np.unique(torch.cat(list(units)).numpy()))
