"""Levels for LeNet-5 of a few thousand weights, chosen and reached by its curvature.

Each layer gets a table of levels by k-means; its weights move to them in parts, the cheapest first,
while the others make up for it and train (`surgery`). At the end the levels themselves train.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from benchmarks.compression.lenet_fit import Floats
from benchmarks.compression.methods import Run, Start
from benchmarks.compression.surgery import Inverse, Surgeon
from pneumonia.network.module import Network

SHARES = (0.4, 0.6, 0.75, 0.85, 0.92, 0.97, 1.0)
AGAIN = (0.5, 0.75, 0.9, 0.97, 1.0)  # a second choice of levels, for half of the weights


def clustered(values: Floats, importance: Floats, n_levels: int, sweeps: int = 60) -> Floats:
    """Levels of least squared error, ascending: k-means on a line, from quantiles.

    Args:
        values: Weights (N,).
        importance: Of each error (N,).
        n_levels: At most so many levels.
        sweeps: Alternations of nearest level and weighted mean.
    """
    levels = np.quantile(values, (np.arange(n_levels) + 0.5) / n_levels)
    for _ in range(sweeps):
        nearest = np.abs(values[:, None] - levels).argmin(1)
        total = np.bincount(nearest, importance, n_levels)
        sums = np.bincount(nearest, importance * values, n_levels)
        levels = np.where(total > 0, sums / np.maximum(total, 1e-30), levels)
    return np.unique(levels.astype(np.float32))


def snapped(n_levels: Mapping[str, int], shares: Sequence[float] = SHARES) -> Run:
    """Weights move to levels in parts, the cheapest first; the others make up for it and train.

    Args:
        n_levels: Layer -> size of its table of levels.
        shares: Of the weights that are on levels after each part. A smaller one than before sets
            weights free again, drawn at random.
    """

    def run(start: Start) -> Network:
        surgeon, cuts = Surgeon(start), start.schedule.cuts
        tiny = surgeon.tiny
        surgeon.train(1, cuts.epochs, strength=0.5)
        n_weights = tiny.n_weights()
        layer_of = np.repeat(
            np.arange(len(tiny.shapes)), [int(np.prod(shape)) for shape in tiny.shapes]
        )
        names = list(surgeon.network.weights())
        tables: dict[int, Floats] = {}  # number of a layer's weight among the tensors -> levels
        for before, share in pairwise((0.0, *shares)):
            if share < before:
                tiny.free = np.flatnonzero(~tiny.is_weight | (tiny.params != 0)).astype(np.int32)
            curvature, layers = surgeon.curvature(), layer_of[tiny.free]
            inverse = Inverse(curvature, cuts.damping, tiny.params[tiny.free])
            for number, name in enumerate(names if not tables else ()):
                own = np.flatnonzero(layers == 2 * number)
                importance = 1 / np.diag(inverse.matrix)[own]
                tables[2 * number] = clustered(inverse.values[own], importance, n_levels[name])
            goal = round((1 - share) * n_weights)
            while True:
                left = np.flatnonzero(inverse.alive & tiny.is_weight[tiny.free])
                if len(left) <= goal:
                    break
                near = np.array([
                    tables[layer][np.abs(tables[layer] - value).argmin()]
                    for layer, value in zip(layers[left], inverse.values[left], strict=True)
                ])  # fmt: skip
                costs = (near - inverse.values[left]) ** 2 / np.diag(inverse.matrix)[left]
                order = surgeon.rng.permutation(len(left))  # decides where costs are equal
                first = order[np.argsort(costs[order], kind="stable")][: min(16, len(left) - goal)]
                inverse.fix(left[first], near[first])
            tiny.params[tiny.free] = inverse.values
            tiny.free = tiny.free[inverse.alive]
            surgeon.train(
                1, cuts.epochs, strength=0.5, curvature=curvature[np.ix_(*[inverse.alive] * 2)]
            )
        biases, numbers = np.flatnonzero(~tiny.is_weight), np.zeros(len(tiny.params), np.int32)
        numbers[biases] = np.arange(len(biases))
        n_numbers = len(biases)
        for layer, levels in tables.items():  # the weights of a level change alike
            own = np.flatnonzero((layer_of == layer) & (tiny.params != 0))
            numbers[own] = n_numbers + np.searchsorted(levels, tiny.params[own])
            n_numbers += len(levels)
        tiny.free = np.flatnonzero(~tiny.is_weight | (tiny.params != 0)).astype(np.int32)
        _, tied = np.unique(numbers[tiny.free], return_inverse=True)
        tiny.tied = tied.astype(np.int32)
        surgeon.train(cuts.rounds, cuts.epochs_per_round, strength=0.5, select=True)
        return surgeon.write_network()

    return run
