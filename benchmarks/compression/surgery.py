"""Optimal brain surgeon with the exact Fisher matrix, for LeNet-5 of a few thousand weights.

The curvature of so small a network is a matrix that can be inverted (`lenet_fit`). It serves twice:
removing a group of weights w costs w' inv([inv(H)]_ww) w / 2 after the others have made up for it
(Hassibi and Stork 1993, arXiv 2203.07259), so that the groups of all layers compete and no layer
rates are needed; and steps of gradients times inv(H) train what is left.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.compression.lenet_fit import Floats, Pictures, Tiny
from benchmarks.compression.methods import Run, Start, without_dead_paths
from benchmarks.compression.training import Distorted, accuracy
from pneumonia.network.module import Network

LAST = 0.02  # share of the learning rate at the end
SHARES = (0.4, 0.6, 0.75, 0.85, 0.92, 0.97, 1.0)
Places = NDArray[np.int64]  # of parameters in `Tiny.params`


def inverted(matrix: NDArray[np.float64], damping: float) -> Floats:
    """Inverse of a symmetric matrix with `damping` added to its diagonal."""
    damped = torch.from_numpy(matrix + damping * np.eye(len(matrix))).float()
    return torch.cholesky_inverse(torch.linalg.cholesky(damped)).contiguous().numpy()  # type: ignore[no-any-return]


class Surgeon:
    """Cuts and trains one network.

    Args:
        start: Network, images, seed, and the schedule's `cuts` and `natural`.
    """

    def __init__(self, start: Start) -> None:
        assert isinstance(start.samples, Distorted)
        self.network = start.network
        self.held_out = start.images.held_out
        self.pictures = Pictures(start.samples)
        self.rng = np.random.default_rng(100 + start.seed)
        self.how, self.cuts = start.schedule.natural, start.schedule.cuts
        self.read_network()

    def read_network(self) -> None:
        """Drop dead paths and take the parameters over; all but the pruned ones are free."""
        self.network = without_dead_paths(self.network)
        self.tiny = Tiny([p.detach().numpy() for p in self.network.parameters()])

    @torch.no_grad()
    def write_network(self) -> Network:
        """Copy the parameters into the network and return it."""
        for parameter, values in zip(self.network.parameters(), self.tiny.tensors(), strict=True):
            parameter.copy_(torch.from_numpy(values))
        return self.network

    def curvature(self) -> NDArray[np.float64]:
        """Fisher matrix of the loss at the free parameters."""
        how, found = self.how, np.zeros((1, 1))
        for share, temperature in ((1 - how.share, 1.0), (how.share, how.temperature)):
            if share:
                found = found + share * self.tiny.fisher(
                    self.pictures, self.rng, plain=how.plain, temperature=temperature
                )
        return found

    def train(
        self, rounds: int, epochs: int, *, strength: float = 1.0, select: bool = False,
        curvature: NDArray[np.float64] | None = None,
    ) -> None:  # fmt: skip
        """Train for `rounds` times `epochs`; each round computes its curvature anew.

        The learning rate falls along half a cosine.

        Args:
            rounds: Number of matrices.
            epochs: Passes over the images with each.
            strength: Of the rate.
            select: Keep the best of the second half of the rounds on the held-out images.
            curvature: To use instead of a new matrix for each round.
        """
        how, tiny, best = self.how, self.tiny, (-1.0, self.tiny.params)
        for part in range(rounds):
            matrix = self.curvature() if curvature is None else curvature
            inverse = inverted(matrix, self.cuts.damping_of_steps)
            ends = [0.5 * (1 + np.cos(np.pi * (part + at) / rounds)) for at in (0, 1)]
            tiny.fit(
                self.pictures, self.rng, how._replace(epochs=epochs, rate=how.rate * strength),
                inverse, (max(ends[0], LAST), max(ends[1], LAST)),
            )  # fmt: skip
            if select and 2 * part + 2 > rounds:
                score = accuracy(self.write_network(), self.held_out)
                if score >= best[0]:
                    best = (score, tiny.params.copy())
        if select:
            tiny.params[:] = best[1]
            print(f"  {tiny.n_weights()} weights, held out {best[0]:.4f}", flush=True)


class Inverse:
    """Inverse of the curvature while parameters leave it.

    Args:
        curvature: Of the free parameters (N, N).
        damping: Added to its diagonal.
        values: The parameters (N,).
    """

    def __init__(self, curvature: NDArray[np.float64], damping: float, values: Floats) -> None:
        self.matrix = inverted(curvature, damping)
        self.values = values.astype(np.float64)
        self.alive = np.ones(len(values), bool)

    def cost(self, places: Places, change: NDArray[np.float64]) -> float:
        """Loss that changing the parameters at `places` costs when the others make up for it."""
        block = self.matrix[np.ix_(places, places)]
        return float(0.5 * change @ np.linalg.solve(block.astype(np.float64), change))

    def fix(self, places: Places, wanted: NDArray[np.float64] | float) -> None:
        """Set parameters for good; the others make up for it."""
        block, rows = self.matrix[np.ix_(places, places)], self.matrix[places]
        change = self.values[places] - wanted
        solved = np.linalg.solve(block, np.column_stack([change, rows])).astype(np.float32)
        columns = rows.T.copy()
        self.values -= columns @ solved[:, 0]
        self.values[places] = wanted
        self.matrix -= columns @ solved[:, 1:]
        self.matrix[places] = 0
        self.matrix[:, places] = 0
        self.matrix[places, places] = 1
        self.alive[places] = False


# --- what is removed ----------------------------------------------------------------------------


def structures(shapes: Sequence[tuple[int, ...]], group_size: int = 0) -> list[Places]:
    """Columns and filters of every layer, a filter with what reads it: places of parameters.

    Args:
        shapes: Of w1, b1, ... w4, b4.
        group_size: Consecutive filters that share their columns; 0 = all. Only filters of the last
            group can leave, else the others would change groups.
    """
    ids, at = [], 0
    for shape in shapes:
        n = int(np.prod(shape))
        ids.append(np.arange(at, at + n).reshape(shape))
        at += n
    w1, b1, w2, b2, w3, b3, w4, _ = ids
    found, last = [], []
    for layer in (w1, w2, w3):
        rows, size = layer.reshape(len(layer), -1), group_size or len(layer)
        starts = range(0, len(rows), size)
        found += [column for first in starts for column in rows[first : first + size].T]
        last.append(range(starts[-1], len(rows)))
    places = w3.reshape(len(w3), len(w2), -1)  # (hidden, filters, pooled places)
    found += [np.concatenate([w1[f].ravel(), b1[f : f + 1], w2[:, f].ravel()]) for f in last[0]]
    found += [np.concatenate([w2[f].ravel(), b2[f : f + 1], places[:, f].ravel()]) for f in last[1]]
    found += [np.concatenate([w3[f], b3[f : f + 1], w4[:, f]]) for f in last[2]]
    return found


def remove_structures(tiny: Tiny, inverse: Inverse, keep: int, group_size: int = 0) -> None:
    """Whole columns and filters of least cost per weight, until `keep` weights are left."""
    position = np.full(len(tiny.params), -1)
    position[tiny.free] = np.arange(len(tiny.free))
    weight = tiny.is_weight[tiny.free]
    groups = [position[g][position[g] >= 0] for g in structures(tiny.shapes, group_size)]
    while int((inverse.alive & weight).sum()) > keep:
        groups = [g[inverse.alive[g]] for g in groups]
        groups = [g for g in groups if weight[g].any()]
        costs = [inverse.cost(g, inverse.values[g]) / weight[g].sum() for g in groups]
        inverse.fix(groups[int(np.argmin(costs))], 0.0)


def remove_weights(tiny: Tiny, inverse: Inverse, keep: int, at_once: int = 16) -> None:
    """Single weights of least cost, until `keep` are left."""
    weight = tiny.is_weight[tiny.free]
    while True:
        left = np.flatnonzero(inverse.alive & weight)
        if len(left) <= keep:
            return
        costs = inverse.values[left] ** 2 / np.diag(inverse.matrix)[left]
        n = min(at_once, len(left) - keep)
        inverse.fix(left[np.argsort(costs, kind="stable")[:n]], 0.0)


def surgery(
    rate: float,
    remove: Callable[[Tiny, Inverse, int], None],
) -> Run:
    """Removal until the network is `rate` times smaller, training after each part of it.

    Args:
        rate: Weights of the dense network over those left.
        remove: What is removed.
    """

    def run(start: Start) -> Network:
        surgeon, cuts = Surgeon(start), start.schedule.cuts
        before, keep = surgeon.tiny.n_weights(), int(start.total / rate)
        for part in range(cuts.parts):
            tiny = surgeon.tiny
            goal = max(keep, round(before * (keep / before) ** ((part + 1) / cuts.parts)))
            curvature = surgeon.curvature()
            inverse = Inverse(curvature, cuts.damping, tiny.params[tiny.free])
            remove(tiny, inverse, goal)
            tiny.params[tiny.free] = inverse.values
            tiny.free = tiny.free[inverse.alive]
            surgeon.train(1, cuts.epochs, curvature=curvature[np.ix_(*[inverse.alive] * 2)])
            surgeon.write_network()
            surgeon.read_network()
            shapes = " ".join(str(tuple(w.shape)) for w in surgeon.network.weights().values())
            print(f"  {surgeon.tiny.n_weights()} weights: {shapes}", flush=True)
        surgeon.train(cuts.rounds, cuts.epochs_per_round, select=True)
        return without_dead_paths(surgeon.write_network())

    return run


# --- levels -------------------------------------------------------------------------------------


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
        shares: Of the weights that are on levels after each part.
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
        for share in shares:
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
                first = np.argsort(costs, kind="stable")[: min(16, len(left) - goal)]
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
