"""Optimal brain surgeon with the exact Fisher matrix, for LeNet-5 of a few thousand weights.

The curvature of so small a network is a matrix that can be inverted (`lenet_fit`). It serves twice:
removing a group of weights w costs w' inv([inv(H)]_ww) w / 2 after the others have made up for it
(Hassibi and Stork 1993, arXiv 2203.07259), so that the groups of all layers compete and no layer
rates are needed; and steps of gradients times inv(H) train what is left.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.compression.lenet_fit import Floats, Pictures, Tiny, softmax
from benchmarks.compression.methods import Run, Start, remove_dead_paths
from benchmarks.compression.training import Distorted, accuracy
from pneumonia.network.module import Network

LAST = 0.02  # share of the learning rate at the end
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
        self.network = remove_dead_paths(self.network)
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

    def gradient(self, n_images: int = 20_000, at_once: int = 2000) -> tuple[Floats, Floats]:
        """Mean gradient of the teacher's loss at the free parameters, and its mean square."""
        how, tiny = self.how, self.tiny
        place, _, wanted = (
            part[:n_images] for part in self.pictures.draw(self.rng, how.plain)
        )  # fmt: skip
        total, squares = np.zeros(len(tiny.free)), np.zeros(len(tiny.free))
        for first in range(0, n_images, at_once):
            own = slice(first, first + at_once)
            found = softmax(tiny.outputs(self.pictures, place[own])) - softmax(wanted[own])
            rows = tiny.gradients(self.pictures, place[own], found)
            total += rows.sum(0)
            squares += (rows**2).sum(0)
        return (total / n_images).astype(np.float32), (squares / n_images).astype(np.float32)

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


class Shape(NamedTuple):
    """How many structures of each kind stay at least.

    Attributes:
        filters1: Filters of the first convolution.
        columns1: Columns (input channel and tap) of its weight matrix, shared by its filters.
        filters2: Filters of the second convolution.
        columns2: Columns of its weight matrix.
        units: Hidden units.
        columns3: Columns (pooled places) of the first linear layer.
    """

    filters1: int = 1
    columns1: int = 1
    filters2: int = 1
    columns2: int = 1
    units: int = 1
    columns3: int = 1


ANY_SHAPE = Shape()
# kind of columns -> kind of the filters whose outputs they read, and their tensor among w1, b1 ...
READS = {"columns2": ("filters1", 2), "columns3": ("filters2", 4)}


def structures(shapes: Sequence[tuple[int, ...]], group_size: int = 0) -> dict[str, list[Places]]:
    """Columns and filters of every layer, a filter with what reads it.

    Args:
        shapes: Of w1, b1, ... w4, b4.
        group_size: Consecutive filters that share their columns; 0 = all. Only filters of the last
            group can leave, else the others would change groups.

    Returns:
        Field of `Shape` -> places of the parameters of each structure.
    """
    ids, at = [], 0
    for shape in shapes:
        n = int(np.prod(shape))
        ids.append(np.arange(at, at + n).reshape(shape))
        at += n
    w1, b1, w2, b2, w3, b3, w4, _ = ids
    found, last = {}, []
    for kind, layer in zip(("columns1", "columns2", "columns3"), (w1, w2, w3), strict=True):
        rows, size = layer.reshape(len(layer), -1), group_size or len(layer)
        starts = range(0, len(rows), size)
        found[kind] = [column for first in starts for column in rows[first : first + size].T]
        last.append(range(starts[-1], len(rows)))
    places = w3.reshape(len(w3), len(w2), -1)  # (hidden, filters, pooled places)
    found["filters1"] = [
        np.concatenate([w1[f].ravel(), b1[f : f + 1], w2[:, f].ravel()]) for f in last[0]
    ]
    found["filters2"] = [
        np.concatenate([w2[f].ravel(), b2[f : f + 1], places[:, f].ravel()]) for f in last[1]
    ]
    found["units"] = [np.concatenate([w3[f], b3[f : f + 1], w4[:, f]]) for f in last[2]]
    return found


def remove_structures(
    tiny: Tiny, inverse: Inverse, keep: int, group_size: int = 0, least: Shape = ANY_SHAPE
) -> None:
    """Whole columns and filters of least cost per weight, until `keep` weights are left.

    A kind of structure of which only `least` are left loses no more. The last structures to leave
    are small ones, so that the number of weights comes close to `keep`.
    """
    position = np.full(len(tiny.params), -1)
    position[tiny.free] = np.arange(len(tiny.free))
    weight = tiny.is_weight[tiny.free]
    every = {
        kind: [position[g][position[g] >= 0] for g in groups]
        for kind, groups in structures(tiny.shapes, group_size).items()
    }
    while int((inverse.alive & weight).sum()) > keep:
        left = {
            kind: {k: g[inverse.alive[g]] for k, g in enumerate(groups) if weight[g].any()}
            for kind, groups in every.items()
        }
        left = {
            kind: {k: g for k, g in own.items() if weight[g].any()} for kind, own in left.items()
        }
        needed = {kind: last_readers(kind, left, least, tiny.shapes) for kind in left}
        free = [
            g
            for kind, own in left.items()
            if len(own) > getattr(least, kind)
            for k, g in own.items()
            if k not in needed[kind]
        ]
        if not free:
            return
        spare = int((inverse.alive & weight).sum()) - keep
        fitting = [g for g in free if weight[g].sum() <= spare]
        costs = [inverse.cost(g, inverse.values[g]) / weight[g].sum() for g in fitting or free]
        inverse.fix((fitting or free)[int(np.argmin(costs))], 0.0)


def last_readers(
    kind: str,
    left: Mapping[str, Mapping[int, Places]],
    least: Shape,
    shapes: Sequence[tuple[int, ...]],
) -> set[int]:
    """Columns that cannot leave: the last to read a filter, where all filters left have to stay."""
    if kind not in READS:
        return set()
    filters, tensor = READS[kind]
    if len(left[filters]) > getattr(least, filters):
        return set()
    n_columns = int(np.prod(shapes[tensor][1:]))
    size = n_columns // shapes[tensor - 2][0]
    read = [k % n_columns // size for k in left[kind]]
    counts = np.bincount(read)
    return {k for k, filter_ in zip(left[kind], read, strict=True) if counts[filter_] == 1}


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
    exchange: Callable[[Surgeon], None] = lambda surgeon: None,
) -> Run:
    """Removal until the network is `rate` times smaller, training after each part of it.

    Args:
        rate: Weights of the dense network over those left.
        remove: What is removed.
        exchange: Called `exchanges` times afterwards: what is removed for others.
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
        for _ in range(cuts.exchanges):
            exchange(surgeon)
        surgeon.train(cuts.rounds, cuts.epochs_per_round, select=True)
        return remove_dead_paths(surgeon.write_network())

    return run


def exchange_columns(surgeon: Surgeon, least: Shape, group_size: int = 0) -> None:
    """One Newton step that takes removed columns back, then as many weights leave as came.

    Args:
        surgeon: Its network keeps its number of weights.
        least: How many structures of each kind stay.
        group_size: See `structures`.
    """
    tiny, before = surgeon.tiny, surgeon.tiny.n_weights()
    alive, everything = tiny.free, np.arange(len(tiny.params), dtype=np.int32)
    tiny.free = everything
    gradient, square = surgeon.gradient()
    gains = gradient**2 / (square + surgeon.cuts.damping_of_steps)
    back = [alive]
    for kind, places in structures(tiny.shapes, group_size).items():
        removed = [p for p in places if not tiny.params[p].any()] if "columns" in kind else []
        removed.sort(key=lambda p: -gains[p].sum() / len(p))
        back += removed[: surgeon.cuts.candidates]
    tiny.free = np.unique(np.concatenate(back)).astype(np.int32)
    curvature = surgeon.curvature()
    inverse = Inverse(curvature, surgeon.cuts.damping_of_steps, tiny.params[tiny.free])
    inverse.values -= inverse.matrix @ gradient[tiny.free]
    remove_structures(tiny, inverse, before, group_size, least)
    tiny.params[tiny.free] = inverse.values
    tiny.free = tiny.free[inverse.alive]
    new = int((~np.isin(tiny.free, alive)).sum())
    surgeon.train(1, surgeon.cuts.epochs, curvature=curvature[np.ix_(*[inverse.alive] * 2)])
    score = accuracy(surgeon.write_network(), surgeon.held_out)
    print(f"  {tiny.n_weights()} weights, {new} of them new, held out {score:.4f}", flush=True)
