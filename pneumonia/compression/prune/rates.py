"""How strongly each layer is pruned so that the whole network reaches a global rate.

A layer's rate is min(x ** exponent, limit). The exponents are 1 (uniform) or come from the layers'
sensitivity; the limits protect the stem. One number x is then searched so that the *realised*
rate, after projection of the current weights and removal of dead paths, is the one asked for.
Rates count all convolution and linear weights, heads included.
"""

import logging
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.method import MethodSets, PruningMethod
from pneumonia.compression.prune.rounding import RoundingTask, round_filters
from pneumonia.compression.sets.columns import dense_mask, group_energies
from pneumonia.compression.sets.constraint import gemm_view
from pneumonia.compression.sets.network_set import live_units, realised_weights
from pneumonia.runtime.errors import PruneError
from pneumonia.runtime.progress import Progress, report_progress

log = logging.getLogger(__name__)

TOLERANCE = 0.01  # of the realised rate, relative
MAX_TRIALS = 14
MAX_JUMPS = 2  # trials in a row that find nothing between the ends of the bracket
EXCESS = 0.05  # of the realised rate, relative, from which a warning is due
MOST_NAMED = 4  # layers in a message
STRONGEST = 1e9  # layer rate at which every layer is down to its minimum


class LayerRates(NamedTuple):
    """Relative strengths of the selected layers."""

    exponents: dict[str, float]  # layer -> exponent of the common x
    limits: dict[str, float]  # layer -> largest rate; layers not given have none

    def at(self, x: float) -> dict[str, float]:
        """Rates of all selected layers for a common x >= 1."""
        return {
            name: max(1.0, min(x**exponent, self.limits.get(name, math.inf)))
            for name, exponent in self.exponents.items()
        }


class StageStart(NamedTuple):
    """Network and masks at the start of a stage."""

    graph: ChannelGraph  # the network's units
    weights: Mapping[str, Tensor]  # layer -> current weight, of all convolution and linear layers
    # layer -> places that earlier stages left, bool. Weights elsewhere are zero already, and stay
    # so unless they are stored anyway (see `_restrict_to_previous`)
    allowed: Mapping[str, Tensor]
    total: int  # weights that a rate of 1 would keep: those of the network the run began with
    # layers that network stored by columns -> filters that share one list of columns
    groups: Mapping[str, int] = MappingProxyType({})


class RatePlan(NamedTuple):
    """A method at the strength that reaches the global rate, on given weights."""

    sets: MethodSets  # the method's sets
    masks: dict[str, Tensor]  # settled masks of these weights
    kept: dict[str, int]  # layer -> weights kept in the compacted network
    nominal_rate: float  # all weights / weights inside the projection's masks
    realised_rate: float  # all weights / weights of the compacted network
    layer_rates: dict[str, float]  # the rates the layers were given
    # layer -> weights inside the projection's masks, dead paths not removed
    nominal_kept: Mapping[str, int] = MappingProxyType({})


def plan_rate(
    start: StageStart,
    method: PruningMethod,
    rates: LayerRates,
    target: float,
    progress: Progress | None = None,
) -> RatePlan:
    """Find the strength at which the compacted network has 1 / target of the weights.

    Args:
        start: Network, weights and what earlier stages left.
        target: Global rate, > 1.

    Returns:
        The trial nearest to the target, preferring those that reach it.

    Raises:
        PruneError: Even one filter and one column per layer would not reach the target.
    """

    def trial(layer_rates: Mapping[str, float], number: int) -> RatePlan:
        found = apply_rates(start, method, layer_rates)
        report_progress(
            progress, number + 1, MAX_TRIALS, f"rate {found.realised_rate:.2f} of {target:g}"
        )
        return found

    best = _searched(trial, rates, target, target, math.inf)
    if best.realised_rate >= target * (1 - TOLERANCE):
        return best
    # a plateau may lie between: start again from the other end
    strongest = trial(rates.at(STRONGEST), MAX_TRIALS)
    if strongest.realised_rate < target * (1 - TOLERANCE):
        protected = start.graph.protected_layers()
        raise PruneError(
            "Pruning rate cannot be reached",
            expected=f"at most {strongest.realised_rate:.4g} for this network and recipe (every"
            " selected layer at its minimum)",
            found=f"{target:g}",
            where=f"{len(rates.exponents)} of {len(start.weights)} layers selected; filters of"
            f" {len(protected)} are protected, as outputs or by what reads them: "
            + ", ".join([*protected[:MOST_NAMED], *["..."][: len(protected) > MOST_NAMED]]),
            fix="Choose a rate in this range, or make it wider: more layers (layers, rates.limits)"
            " or a smaller constraint.round_to",
        )
    middle = math.sqrt(STRONGEST)
    return _better_trial(strongest, _searched(trial, rates, target, middle, STRONGEST), target)


def reachable_rates(
    start: StageStart, method: PruningMethod, rates: LayerRates
) -> tuple[float, float] | None:
    """The smallest of some rates above 1, and the largest, that the method reaches; None if none.

    The smallest is that of the first of a few strengths, so an even smaller one may exist.
    """
    strengths = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, STRONGEST)
    found = (apply_rates(start, method, rates.at(x)).realised_rate for x in strengths)
    lowest = next((rate for rate in found if rate > 1), None)
    if lowest is None:
        return None
    return lowest, apply_rates(start, method, rates.at(STRONGEST)).realised_rate


Trial = Callable[[Mapping[str, float], int], RatePlan]


def _searched(trial: Trial, rates: LayerRates, target: float, x: float, high: float) -> RatePlan:
    """The best of up to MAX_TRIALS trials in 1 .. high, the first at x, that near the target."""
    best = weaker = stronger = None
    low, jumps = 1.0, 0
    for number in range(MAX_TRIALS):
        found = trial(rates.at(x), number)
        best = _better_trial(found, best, target)
        if _is_reached(best, target):
            return best
        jumps = jumps + 1 if _repeats(found, weaker, stronger) else 0
        if found.realised_rate < target:
            low, weaker = x, found
        else:
            high, stronger = x, found
        x = _next(x, low, high, target / found.realised_rate)
        if x > STRONGEST or high / low < 1 + 1e-4 or jumps == MAX_JUMPS:
            break
    assert best is not None
    if weaker is None or stronger is None:
        return best
    return _better_trial(best, _strengthen_first_layers(trial, weaker, stronger, target), target)


def _repeats(found: RatePlan, weaker: RatePlan | None, stronger: RatePlan | None) -> bool:
    """Whether both ends of the bracket are known and the trial's rate is that of one of them."""
    if weaker is None or stronger is None:
        return False
    return found.realised_rate in (weaker.realised_rate, stronger.realised_rate)


def _strengthen_first_layers(
    trial: Trial, weaker: RatePlan, stronger: RatePlan, target: float
) -> RatePlan:
    """Where x jumps over the target: the stronger rates for the first layers alone, by bisection.

    Layers that are rounded to whole multiples of filters all jump at nearly the same x.
    """
    names = list(weaker.layer_rates)
    best, few, many = stronger, 0, len(names)
    while many - few > 1 and not _is_reached(best, target):
        middle = (few + many) // 2
        first = {name: stronger.layer_rates[name] for name in names[:middle]}
        found = trial({**weaker.layer_rates, **first}, MAX_TRIALS - 1)
        best = _better_trial(found, best, target)
        few, many = (middle, many) if found.realised_rate < target else (few, middle)
    return best


def _is_reached(found: RatePlan, target: float) -> bool:
    return abs(found.realised_rate / target - 1) <= TOLERANCE


def _next(x: float, low: float, high: float, wanted: float) -> float:
    """Secant in logarithms (realised rates are nearly proportional to x), inside the bracket."""
    guess = x * wanted
    if math.isinf(high):
        return max(guess, x * 1.05) if wanted > 1 else guess
    middle = math.sqrt(low * high)
    inside = low * (high / low) ** 0.1 < guess < low * (high / low) ** 0.9
    return guess if inside else middle


def _better_trial(found: RatePlan, best: RatePlan | None, target: float) -> RatePlan:
    """The better of two trials; a trial that reaches the target is preferred."""

    def key(planned: RatePlan) -> tuple[bool, float]:
        short = planned.realised_rate < target * (1 - TOLERANCE)
        return short, abs(math.log(planned.realised_rate / target))

    return found if best is None or key(found) < key(best) else best


def warn_of_excess(planned: RatePlan, target: float) -> None:
    """Log a warning where clearly more is removed than was asked for."""
    if planned.realised_rate > target * (1 + EXCESS):
        rounded = planned.sets.round_to > 1
        log.warning(
            "Rate %.3g is asked for, %.3g is reached: no step of the filters lies nearer. %s",
            target,
            planned.realised_rate,
            f"Filters are kept in multiples of {planned.sets.round_to}; a smaller "
            "constraint.round_to comes nearer"
            if rounded
            else "Layers this narrow lose much with every filter",
        )


def apply_rates(
    start: StageStart,
    method: PruningMethod,
    layer_rates: Mapping[str, float],
) -> RatePlan:
    """Project weights at given layer rates and count what is left."""
    sets = method.sets(start.graph, layer_rates)
    v = {name: start.weights[name].detach() for name in sets.hard.layers}
    projected = {name: p.mask for name, p in sets.hard.project(v).items()}
    masks = _nested(start, sets, v, projected)
    if sets.round_to > 1:
        groups = {**start.groups, **sets.group_sizes}
        task = RoundingTask(
            start.graph, start.weights, sets.hard.layers, start.allowed, groups, sets.round_to
        )
        masks = regrouped(start.graph, round_filters(task, masks), groups)
        projected = {name: mask | masks[name] for name, mask in projected.items()}
    kept = realised_weights(start.graph, masks)
    nominal = _restrict_to_previous(projected, start, sets)
    inside = {
        name: int(nominal[name].sum()) if name in nominal else weight.numel()
        for name, weight in start.weights.items()
    }
    return RatePlan(
        sets,
        masks,
        kept,
        start.total / sum(inside.values()),
        start.total / max(sum(kept.values()), 1),
        dict(layer_rates),
        inside,
    )


def _nested(
    start: StageStart, sets: MethodSets, v: Mapping[str, Tensor], projected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Settled masks restricted to those of the previous stage.

    Nesting can cut a filter's last path. Compaction would delete that filter and shift every
    group of filters behind it, so masks are settled again until nesting cuts nothing more.
    """
    others = {name: mask for name, mask in start.allowed.items() if name not in projected}
    masks = sets.hard.remove_dead_paths(v, projected, others)
    while True:
        nested = _restrict_to_previous(masks, start, sets)
        before = live_units(start.graph, {**others, **masks})
        if torch.equal(live_units(start.graph, nested), before):
            return regrouped(start.graph, nested, {**start.groups, **sets.group_sizes})
        masks = sets.hard.remove_dead_paths(v, {name: nested[name] for name in masks}, others)


def _restrict_to_previous(
    masks: Mapping[str, Tensor], start: StageStart, sets: MethodSets
) -> dict[str, Tensor]:
    """Masks restricted to those of the previous stage.

    Where filters share columns, a column stays for the whole group if any of its filters had it:
    fewer filters are grouped anew, and a place that is stored anyway may be used.
    """
    groups = {**start.groups, **sets.group_sizes}
    live = live_units(start.graph, {**start.allowed, **masks})
    nested = {}
    for name, mask in masks.items():
        nested[name] = mask & start.allowed[name] if name in start.allowed else mask
        if name in start.allowed and name in groups:
            rows = start.graph.live_rows(live, name)
            nested[name] = mask & _shared(nested[name], rows, groups[name])
        if not bool(nested[name].any()):
            nested[name] = mask  # no layer is ever emptied, not even to stay inside earlier masks
    return {**start.allowed, **nested}


def _shared(mask: Tensor, rows: Tensor, group_size: int) -> Tensor:
    """The columns that any filter of a group has, for all of its filters; filters are `rows`."""
    kept = rows.nonzero().squeeze(1)
    had = group_energies(gemm_view(mask).float(), kept, group_size) > 0
    return dense_mask(had, kept, mask.shape[0], group_size).reshape(mask.shape)


def regrouped(
    graph: ChannelGraph, masks: Mapping[str, Tensor], groups: Mapping[str, int]
) -> dict[str, Tensor]:
    """Masks whose filters share columns in the groups that compaction will form.

    Filters of a layer that are gone, for whatever reason, let those behind them move up: what a
    group stores is the union of its filters' columns, and that is what counts.

    Args:
        masks: Layer -> bool mask of its weight.
        groups: Layers stored by columns -> filters that share one list.
    """
    live = live_units(graph, masks)
    return {
        name: _shared(mask, graph.live_rows(live, name), groups[name]) if name in groups else mask
        for name, mask in masks.items()
    }


def ladder_rates(target: float, ladder: int | tuple[float, ...]) -> list[float]:
    """Global rates of the stages, ascending, the last one the target.

    Args:
        target: Rate of the last stage.
        ladder: m = m stages at target ** (i / m); or the rates themselves, of which those below
            the target are taken.
    """
    if isinstance(ladder, int):
        return [target ** (i / ladder) for i in range(1, ladder)] + [target]
    return [rate for rate in ladder if rate < target] + [target]
