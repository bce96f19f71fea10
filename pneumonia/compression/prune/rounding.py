"""Kept filters as multiples, last: after dead paths are gone, and for tied layers jointly.

Rounding a budget before the projection is not enough: removing dead paths takes further filters. So
the settled masks are rounded, group of tied layers by group: to the nearest multiple, by dropping
the weakest filters, or by bringing back dead ones with one column in the layer that reads them
best. Either may end or open other paths, so it is repeated until every count fits.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import (
    ChannelGraph,
    UnitGroup,
    is_grouped,
    prunable,
)
from pneumonia.compression.sets.columns import group_energies
from pneumonia.compression.sets.constraint import gemm_view
from pneumonia.compression.sets.network_set import live_units

NEAREST_ROUNDS = 4  # after these only dropping is left, which comes to an end
MAX_ROUNDS = 64

Masks = dict[str, Tensor]


class RoundingTask(NamedTuple):
    """What is rounded, and within which bounds."""

    graph: ChannelGraph  # the network's units
    weights: Mapping[str, Tensor]  # layer -> weight, of all layers
    selected: Collection[str]  # layers whose filters may be removed
    # layer -> places that may be non-zero; layers not given: everywhere
    allowed: Mapping[str, Tensor]
    groups: Mapping[str, int]  # layers stored by columns -> filters that share one list of columns
    multiple: int  # of which the filters of a layer shall be a multiple


def round_filters(task: RoundingTask, masks: Mapping[str, Tensor]) -> Masks:
    """Masks in which every layer that may lose filters keeps a multiple of them.

    Layers whose filters all stay keep their number. A layer of fewer live filters than one multiple
    is brought up to it; where its dead filters can reach no output, it stays below.

    Args:
        masks: Settled masks; columns may have to be shared by groups of filters again.
    """
    graph = task.graph
    masks = {name: mask.clone() for name, mask in masks.items()}
    parts = [part for part in graph.components() if prunable(part, graph, task.selected)]
    hopeless: set[int] = set()
    for number in range(MAX_ROUNDS if task.multiple > 1 else 0):
        live = live_units(graph, masks)
        # Rows and channels of dead units go, but never a layer's last weight.
        masks |= {n: kept for n, kept in graph.live_part(masks, live).items() if kept.any()}
        changed = False
        for part in reversed(parts):  # what is dropped or revived changes what lies before it
            alive = part.units[live[part.units]]
            count, dead = len(alive), part.units[~live[part.units]]
            multiple = graph.unit_multiple(part, task.multiple)
            if count % multiple == 0 or not len(dead):
                continue
            down = count - count % multiple
            up = min(down + multiple, len(part.units))
            candidates = [unit for unit in dead.tolist() if unit not in hopeless]
            nearer = number < NEAREST_ROUNDS and up - count <= count - down
            if (nearer or down == 0) and len(candidates) >= up - count:
                changed = True
                for unit in _strongest(task, part, candidates)[: up - count]:
                    if number >= NEAREST_ROUNDS or not _revive(task, masks, part, unit, live):
                        hopeless.add(unit)
            elif down > 0:
                changed = True
                _drop(task, masks, part, alive, count - down)
        if not changed:
            break
    return masks


def _energies(task: RoundingTask, part: UnitGroup, masks: Mapping[str, Tensor]) -> Tensor:
    """Energy of each unit of a group: its filters' squares inside the masks, float64."""
    energy = torch.zeros(task.graph.n_units, dtype=torch.float64)
    for name in part.layers:
        weight = task.weights[name].detach().double()
        inside = weight * masks[name] if name in masks else weight
        energy.index_add_(0, task.graph.unit_out[name], inside.square().flatten(1).sum(1))
    return energy


def _strongest(task: RoundingTask, part: UnitGroup, units: list[int]) -> list[int]:
    energy = _energies(task, part, task.allowed)
    return sorted(units, key=lambda unit: (-float(energy[unit]), unit))


def _drop(task: RoundingTask, masks: Masks, part: UnitGroup, alive: Tensor, n: int) -> None:
    """Remove the n weakest units of a group."""
    graph = task.graph
    energy = _energies(task, part, masks)
    free = [unit for unit in alive.tolist() if not bool(graph.protected[unit])]
    gone = torch.zeros(graph.n_units, dtype=torch.bool)
    gone[sorted(free, key=lambda unit: (float(energy[unit]), unit))[:n]] = True
    for name in part.layers:
        if name in masks:
            masks[name][gone[graph.unit_out[name]]] = False


def _revive(task: RoundingTask, masks: Masks, part: UnitGroup, unit: int, live: Tensor) -> bool:
    """Give a dead unit its filters and one reader; False if nothing live can read or feed it."""
    graph = task.graph
    rows = _restored_rows(task, masks, part, unit, live)
    readers = [
        found
        for layer in graph.spec.weighted()
        if not is_grouped(layer) and bool((graph.unit_in[layer.name] == unit).any())
        for found in [_best_column(task, masks, layer.name, unit, live)]
        if found is not None
    ]
    if not rows or not readers:
        return False
    for name, row, places in rows:
        masks[name][row] |= places
    energy, name, places = max(readers, key=lambda found: found[0])
    if name in masks:
        masks[name] |= places
    return energy >= 0


def _restored_rows(
    task: RoundingTask, masks: Masks, part: UnitGroup, unit: int, live: Tensor
) -> list[tuple[str, int, Tensor]]:
    """Layer, filter and places of a dead unit: where the layer's live filters have weights."""
    found = []
    for name in part.layers:
        if name not in masks:
            continue
        channels = task.graph.live_channels(live, name)
        for row in (task.graph.unit_out[name] == unit).nonzero().flatten().tolist():
            usable = channels.reshape(-1, *[1] * (masks[name].ndim - 2)).expand_as(masks[name][row])
            if name in task.allowed:
                usable = usable & task.allowed[name][row]
            shared = usable & masks[name].any(0)
            places = shared if bool(shared.any()) else usable
            if bool(places.any()):
                found.append((name, row, places))
    return found


def _best_column(
    task: RoundingTask, masks: Masks, name: str, unit: int, live: Tensor
) -> tuple[float, str, Tensor] | None:
    """Energy, layer and places of the column by which a layer reads a unit best."""
    graph = task.graph
    kept = graph.live_rows(live, name).nonzero().flatten()
    if name not in masks:
        return (0.0, name, torch.zeros(0)) if len(kept) else None
    weight = task.weights[name].detach()
    usable = torch.zeros_like(weight, dtype=torch.bool)
    usable[:, graph.unit_in[name] == unit] = True
    if name in task.allowed:
        usable &= task.allowed[name]
    usable &= graph.live_rows(live, name).reshape(-1, *[1] * (weight.ndim - 1))
    if not bool(usable.any()):
        return None
    squares = (weight.double() * usable).square()
    if name not in task.groups:  # without columns of its own a layer reads a channel whole
        return float(squares.sum()), name, usable
    energies = group_energies(gemm_view(squares), kept, task.groups[name])
    group, column = divmod(int(energies.argmax()), energies.shape[1])
    size = task.groups[name] or len(kept)
    places = torch.zeros_like(gemm_view(usable))
    places[kept[group * size : (group + 1) * size], column] = True
    return float(energies[group, column]), name, places.reshape(weight.shape) & usable
