"""The tuner's search: everything when the space is small, a genetic search when it is large."""

from collections.abc import Callable, Sequence

import numpy as np

from deploy_jetson.kernels.kinds.kind import Choice
from deploy_jetson.kernels.kinds.registry import kind_of

EXHAUSTIVE = 16
POPULATION = 12
GENERATIONS = 6
ELITE = 3
FLAT_GENERATIONS = 2
CROSSOVER = 0.8
MUTATION = 0.15

Measure = Callable[[Sequence[Choice]], Sequence[float]]


def search(
    space: Sequence[Choice], predicted: Sequence[float], measure: Measure
) -> tuple[Choice, float]:
    """The fastest choice found.

    Args:
        space: Every legal choice.
        predicted: Predicted cycles of each; the cheapest are the first generation.
        measure: Seconds of several choices.

    Returns:
        The choice and its measured seconds.
    """
    if len(space) <= EXHAUSTIVE:
        return _best(dict(zip(space, measure(space), strict=True)))
    generator = np.random.default_rng(0)
    ranked = [space[i] for i in np.argsort(predicted, kind="stable")]
    rank = {choice: i for i, choice in enumerate(ranked)}
    times: dict[Choice, float] = {}
    population = ranked[:POPULATION]
    flat = 0
    for _ in range(GENERATIONS):
        before = min(times.values(), default=np.inf)
        new = [choice for choice in population if choice not in times]
        times.update(zip(new, measure(new), strict=True))
        flat = flat + 1 if min(times.values()) >= before * 0.99 else 0
        if flat >= FLAT_GENERATIONS:
            break
        population = _offspring(times, space, rank, generator)
        if not population:
            break
    return _best(times)


def _best(times: dict[Choice, float]) -> tuple[Choice, float]:
    choice = min(times, key=lambda c: times[c])
    return choice, times[choice]


def _offspring(
    times: dict[Choice, float],
    space: Sequence[Choice],
    rank: dict[Choice, int],
    generator: np.random.Generator,
) -> list[Choice]:
    """New legal choices from the fastest ones; the half with fewer predicted cycles is kept."""
    parents = sorted(times, key=lambda c: times[c])[: max(ELITE, POPULATION // 2)]
    by_kind: dict[type, list[Choice]] = {}
    for choice in space:
        by_kind.setdefault(type(choice), []).append(choice)
    children: set[Choice] = set()
    for _ in range(POPULATION * 4):
        first = parents[generator.integers(len(parents))]
        mates = [p for p in parents if type(p) is type(first)]
        second = mates[generator.integers(len(mates))]
        pool = by_kind[type(first)]
        genes = []
        for gene, other, values in zip(first, second, zip(*pool, strict=True), strict=True):
            value = other if generator.random() < CROSSOVER / 2 else gene
            if generator.random() < MUTATION:
                value = values[generator.integers(len(values))]
            genes.append(value)
        children.add(kind_of(first).choice(*genes))
    fresh = [child for child in children if child in rank and child not in times]
    return sorted(fresh, key=lambda c: rank[c])[: POPULATION // 2]
