"""Network purification: removes channels and filters that pruning left almost empty.

ADMM ends near a local optimum, and some filters and channels keep weights that hardly matter. With
column k of channel j of layer i (energies are sums of squares over the layer's filters):

    columns with energy < Th1 count as empty
    eta   = non-empty columns / columns of the channel        fill of the channel
    sigma = energy of the non-empty columns / their number    importance
    channel (i, j) and the filter that makes it go     if eta < Th2 and sigma < Th3
    filter (i, m) and the channels that read it go     if its energy < Th4

A channel has KH * KW columns; behind a flattening layer it has as many as features came of it.
Filters tied by shortcuts go only together. Thresholds are relative to the layer's means and share
one multiplier, which bisection raises as far as a validation budget allows, without training.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph, close_units
from pneumonia.compression.sets.network_set import read_channels
from pneumonia.runtime.errors import PruneError

Evaluate = Callable[[dict[str, Tensor]], float]
TRIALS = 12
LARGEST = 64.0  # multiplier at which the search starts from above


class PurifyThresholds(NamedTuple):
    """Relative thresholds at multiplier 1."""

    column: float = 0.05  # Th1 over the mean energy of the layer's non-empty columns
    fill: float = 0.35  # Th2, absolute; not scaled by the multiplier
    channel: float = 0.05  # Th3 over the mean energy of the layer's non-empty channels
    filter: float = 0.05  # Th4 over the mean energy of the layer's non-empty filters


class PurifiedMasks(NamedTuple):
    """Result of purification."""

    masks: dict[str, Tensor]  # layer -> places that may be non-zero, within the given masks
    multiplier: float  # the common multiplier; 0 = nothing could be removed within the budget
    removed: int  # units (channels with the filters that make them) removed
    metric: float  # validation metric with these masks


def _mean_of_used(energies: Tensor) -> float:
    used = energies[energies > 0]
    return float(used.mean()) if used.numel() else 0.0


def weak_channels(
    weight: Tensor, thresholds: PurifyThresholds, multiplier: float, channel: Tensor | None = None
) -> Tensor:
    """Inputs whose channel is both thinly filled and unimportant: bool (I,).

    Args:
        multiplier: Of all but the fill.
        channel: Number of each input's channel, int64 (I,); None = every input is its own.
    """
    energies = weight.double().square().reshape(weight.shape[0], weight.shape[1], -1).sum(0)
    numbers = torch.arange(len(energies)) if channel is None else channel
    inverse = torch.unique(numbers, return_inverse=True)[1]
    n_channels = int(inverse.max()) + 1

    def sum_by_channel(values: Tensor) -> Tensor:
        sums = torch.zeros(n_channels, dtype=torch.float64)
        return sums.index_add_(0, inverse, values.double().sum(1))

    filled = energies >= multiplier * thresholds.column * _mean_of_used(energies)
    filled &= energies > 0
    count = sum_by_channel(filled)
    fill = count / sum_by_channel(torch.ones_like(energies))
    importance = sum_by_channel(energies * filled) / count.clamp(min=1)
    limit = multiplier * thresholds.channel * _mean_of_used(sum_by_channel(energies))
    return ((fill < thresholds.fill) & (importance < limit))[inverse]


def weak_filters(weight: Tensor, thresholds: PurifyThresholds, multiplier: float) -> Tensor:
    """Filters of negligible energy, and empty ones: bool (O,)."""
    energies = weight.double().square().reshape(weight.shape[0], -1).sum(1)
    return (energies < multiplier * thresholds.filter * _mean_of_used(energies)) | (energies == 0)


def weak_units(
    graph: ChannelGraph,
    weights: Mapping[str, Tensor],
    thresholds: PurifyThresholds,
    multiplier: float,
) -> Tensor:
    """Units to remove: weak for every reader, or weak in every maker; bool (n_units,)."""
    read_by = torch.zeros(graph.n_units, dtype=torch.bool)
    made_by = torch.zeros(graph.n_units, dtype=torch.bool)
    wanted = torch.zeros(graph.n_units, dtype=torch.bool)
    strong = torch.zeros(graph.n_units, dtype=torch.bool)
    for name, weight in weights.items():
        makes, takes = graph.unit_out[name], graph.unit_in[name]
        made_by[makes] = True
        if weight.shape[1] == len(takes):  # a grouped convolution reads its own units only
            read_by[takes] = True
            wanted[takes[~weak_channels(weight, thresholds, multiplier, takes)]] = True
        strong[makes[~weak_filters(weight, thresholds, multiplier)]] = True
    return ((read_by & ~wanted) | (made_by & ~strong)) & ~graph.protected


def purified_masks(
    graph: ChannelGraph,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    thresholds: PurifyThresholds,
    multiplier: float,
) -> tuple[dict[str, Tensor], int]:
    """Masks without weak units and without the paths that lead only to them.

    Returns:
        Masks of all layers, and how many units went; every layer keeps a filter.
    """
    full = {
        name: masks.get(name, torch.ones_like(w, dtype=torch.bool)) for name, w in weights.items()
    }
    present = {name: torch.where(full[name], w, torch.zeros(())) for name, w in weights.items()}
    before = graph.live_units_of(full)
    weak = weak_units(graph, present, thresholds, multiplier)
    live = graph.keep_one(before & ~weak, before)
    live = close_units(graph, read_channels(full), live)
    return graph.live_part(full, live), int((before & ~live).sum())


def purify(
    graph: ChannelGraph,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    evaluate: Evaluate,
    budget: float,
    thresholds: PurifyThresholds | None = None,
) -> PurifiedMasks:
    """Remove as much as the validation budget allows.

    Args:
        weights: Layer -> weight, of all convolution and linear layers.
        masks: Layer -> places left by pruning; layers not given keep all.
        evaluate: Masks -> validation metric, higher is better.
        budget: Largest fall of the metric that is accepted, >= 0.
        thresholds: None = the defaults.

    Raises:
        PruneError: The budget is negative or not a number.
    """
    if not budget >= 0:
        raise PruneError("Budget of purification is unusable", expected=">= 0", found=repr(budget))
    limits = thresholds or PurifyThresholds()
    start, _ = purified_masks(graph, weights, masks, limits._replace(fill=0.0), 0.0)
    reference = evaluate(start)
    best = PurifiedMasks(start, 0.0, 0, reference)
    low, high = LARGEST * 2.0**-TRIALS, LARGEST
    for _ in range(TRIALS):
        middle = math.sqrt(low * high)
        found, removed = purified_masks(graph, weights, masks, limits, middle)
        metric = evaluate(found)
        if metric >= reference - budget:
            low = middle
            if removed >= best.removed:
                best = PurifiedMasks(found, middle, removed, metric)
        else:
            high = middle
    return best
