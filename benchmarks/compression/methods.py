"""What the jobs of `compression_tables` do to a network: one function per method.

Two procedures serve all constraint sets. ADMM: the loss with a penalty towards the set, the hard
set, training inside it. Straight-through: training with projected weights in every forward pass,
which lets the gradient bring weights back; the set shrinks while it trains.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.compression.lenet_fit import Cuts, NaturalCourse
from benchmarks.compression.start_weights import whiten_and_pass_on
from benchmarks.compression.training import BATCH, Course, Images, Samples, accuracy, train
from pneumonia.compression.admm.engine import Admm
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.prune.purify import purify
from pneumonia.compression.prune.rates import LayerRates, StageStart, plan_rate
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.quantize.straight_through import (
    LATENT_LIMIT,
    ScaledLevels,
    StraightThrough,
)
from pneumonia.compression.sets.block import DensityAdaptiveBlocks
from pneumonia.compression.sets.constraint import Constraint, JointConstraint, PerLayer
from pneumonia.compression.sets.levels import Levels, Quantized
from pneumonia.compression.sets.pattern import PatternConnectivity
from pneumonia.compression.sets.units import Irregular
from pneumonia.network.batch_norm import reestimate_batch_norm
from pneumonia.network.module import Network

SHRINKING = 0.6  # share of a straight-through training in which the set becomes smaller
REFRESH = 16  # steps between two choices of what is kept


class Schedule(NamedTuple):
    """Lengths and strengths of the parts of a job."""

    admm_epochs: int = 2
    retrain_epochs: int = 4
    rho: tuple[float, ...] = (1.0, 5.0, 25.0)
    updates_per_epoch: int = 4
    learning_rate: float = 1e-3  # of ADMM
    straight_epochs: int = 0  # straight-through training instead of ADMM
    straight_rate: float = 1e-3
    retrain_rate: float = 2e-3
    teacher: float = 0.7  # share of the loss that the teachers' logits get
    strength: float = 1.0  # of the distortion of training images
    average: float = 0.998  # decay of the moving average of the weights in the last part
    smoothing: float = 0.0
    momentum: float = 0.0  # of a dense training and of retraining; 0 = Adam
    batch_size: int = BATCH
    plain: float = 0.1  # share of images without distortion, where there is a teacher
    cuts: Cuts = Cuts()  # of `surgery`
    natural: NaturalCourse = NaturalCourse()  # of `surgery`


class Start(NamedTuple):
    """Where a job begins.

    Attributes:
        network: The parent's, without its dead paths.
        masks: Layer -> places that earlier jobs left; none when nothing was pruned.
        images: The data.
        samples: What it trains on.
        schedule: Lengths.
        total: Weights of the dense network: what rates are over.
        seed: Of order, distortion and initial weights.
        checkpoint: See `Course`, for trainings of hours.
    """

    network: Network
    masks: dict[str, Tensor]
    images: Images
    samples: Samples
    schedule: Schedule
    total: int
    seed: int
    checkpoint: Path | None = None


Run = Callable[[Start], Network]  # trains, and gives the network that came of it


@torch.no_grad()
def hold(network: Network, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        network.weights()[name].mul_(mask)


def weights_of(start: Start) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in start.network.weights().items()}


def remove_dead_paths(network: Network) -> Network:
    """The same function with fewer filters: less to train."""
    tensors = {n: t.detach().clone().contiguous() for n, t in network.tensors().items()}
    spec, tensors = compact(network.spec, tensors)
    small = Network(spec)
    small.load_tensors(tensors)
    return small


# --- procedures ---------------------------------------------------------------------------------


def run_admm(start: Start, splits: list[JointConstraint]) -> None:
    """The ADMM half: one round per rho; what an earlier job removed stays zero."""
    network, plan = start.network, start.schedule
    engine = Admm(splits, plan.rho[0])
    engine.start(network.weights())

    def after_step() -> None:
        engine.pull(network.weights(), plan.learning_rate)
        hold(network, start.masks)

    def update(done: float) -> None:
        residuals = engine.update(network.weights())
        now = plan.rho[min(int(done * len(plan.rho)), len(plan.rho) - 1)]
        if now != engine.rho:
            engine.set_rho(now, network.weights(), "rescale")
        if done > 1 - 0.9 / (plan.admm_epochs * plan.updates_per_epoch):
            worst = max(residual.primal for residual in residuals)
            print(f"  last ||W - Z|| / ||W||: {worst:.3f}", flush=True)

    course = Course(
        plan.admm_epochs, plan.learning_rate, teacher=plan.teacher, after_step=after_step,
        every=start.samples.steps_per_epoch // plan.updates_per_epoch, update=update,
    )  # fmt: skip
    train(network, start.samples, start.images.held_out, course, start.seed)


def retrain_small(start: Start, masks: Mapping[str, Tensor]) -> Network:
    """The second half: only the loss, inside the masks, best average on the held-out images."""
    plan = start.schedule
    tensors = {n: t.detach().clone() for n, t in start.network.tensors().items()}
    graph = ChannelGraph(start.network.spec)
    start.network.load_tensors(masked_tensors(graph, tensors, masks))
    small = remove_dead_paths(start.network)
    places = {n: w.detach() != 0 for n, w in small.weights().items()}
    course = Course(
        plan.retrain_epochs, plan.retrain_rate, plan.momentum, plan.teacher, average=plan.average,
        warm_up=0.03, after_step=lambda: hold(small, places), select_from=0.5, zeros_stay=True,
    )  # fmt: skip
    train(small, start.samples, start.images.held_out, course, start.seed)
    return small


class ShrinkingMasks:
    """Masks that are chosen anew from the latent weights, of a set that becomes smaller.

    Args:
        choose: Progress 0 .. 1 and latent weights to masks; at progress 1 the final set.
    """

    def __init__(self, choose: Callable[[float, Mapping[str, Tensor]], dict[str, Tensor]]) -> None:
        self.choose = choose
        self.masks: dict[str, Tensor] = {}

    def refresh(self, done: float, latent: Mapping[str, Tensor]) -> None:
        """Choose at that share of the training."""
        left = 1 - min(done / SHRINKING, 1.0)
        self.masks = self.choose(1 - left**3, latent)

    def project(self, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The latent weights inside the masks."""
        return {name: w * self.masks[name] if name in self.masks else w
                for name, w in latent.items()}  # fmt: skip


def run_straight_through(
    start: Start,
    through: StraightThrough,
    refresh: Callable[[float, Mapping[str, Tensor]], None] = lambda done, latent: None,
    *,
    every: int = REFRESH,
    select_from: float = 1.0,
) -> None:
    """Train the latent weights; the network ends with their projection."""
    plan = start.schedule
    refresh(0.0, through.latent)
    through.start()
    course = Course(
        plan.straight_epochs, plan.straight_rate, teacher=plan.teacher, warm_up=0.03,
        after_step=through.after_step, every=every,
        update=lambda done: refresh(done, through.latent), select_from=select_from,
    )  # fmt: skip
    train(start.network, start.samples, start.images.held_out, course, start.seed)


# --- methods ------------------------------------------------------------------------------------


def whitened_dense(start: Start) -> Network:
    """A dense training from whitening filters and identities."""
    whiten_and_pass_on(start.network, start.images.train[0])
    return dense(start)


def dense(start: Start) -> Network:
    plan = start.schedule
    course = Course(
        plan.retrain_epochs, plan.retrain_rate, plan.momentum, smoothing=plan.smoothing,
        average=plan.average, warm_up=0.05, select_from=0.5, checkpoint=start.checkpoint,
    )  # fmt: skip
    train(start.network, start.samples, start.images.held_out, course, start.seed)
    return start.network


def shrunk(
    start: Start, choose: Callable[[float, Mapping[str, Tensor]], dict[str, Tensor]], every: int
) -> Network:
    """Straight-through while the set shrinks, then training inside the last masks."""
    shrinking = ShrinkingMasks(choose)
    through = StraightThrough(start.network.weights(), shrinking.project)
    run_straight_through(start, through, shrinking.refresh, every=every)
    return retrain_small(start, shrinking.choose(1.0, through.latent))


def irregular(keep: Mapping[str, int] | float) -> Run:
    """Layer -> weights kept; or one rate for all layers."""

    def run(start: Start) -> Network:
        weights = weights_of(start)
        goal = (
            {n: max(16, round(w.numel() / keep)) for n, w in weights.items()}
            if isinstance(keep, float)
            else keep
        )
        before = {n: int(w.count_nonzero()) for n, w in weights.items()}

        def choose(progress: float, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
            counts = {
                n: round(before[n] * (min(k, before[n]) / before[n]) ** progress)
                for n, k in goal.items()
            }
            return {n: Irregular(k).project(latent[n]).mask for n, k in counts.items()}

        return shrunk(start, choose, REFRESH)

    return run


def structured(
    rate: float,
    exponents: Mapping[str, float] | None = None,
    method: StructuredMethod | None = None,
) -> Run:
    """Filters and columns; `rate` over the dense network."""
    how = method or StructuredMethod(filter_share=0.6, group_size=0, round_to=1)

    def run(start: Start) -> Network:
        graph = ChannelGraph(start.network.spec)
        weights = weights_of(start)
        strengths = LayerRates(
            dict(exponents or {n: 0.5 if n == "conv_000" else 1.0 for n in weights}), {}
        )
        before = start.total / sum(int(w.count_nonzero()) for w in weights.values())

        def plan(goal: float, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
            values = {n: w.detach().contiguous() for n, w in latent.items()}
            begin = StageStart(graph, values, start.masks, start.total)
            return plan_rate(begin, how, strengths, goal).masks

        def choose(progress: float, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
            goal = before * (rate / before) ** progress
            return plan(goal, latent) if goal > before * 1.02 else dict(start.masks)

        if start.schedule.straight_epochs:
            return shrunk(start, choose, start.samples.steps_per_epoch // 2)
        begin = StageStart(graph, weights, start.masks, start.total)
        run_admm(start, list(plan_rate(begin, how, strengths, rate).sets.splits))
        return retrain_small(start, plan(rate, weights_of(start)))

    return run


def layer_counts(
    weights: Mapping[str, Tensor], exponents: Mapping[str, float], rate: float
) -> dict[str, int]:
    """Weights kept in each layer, at layer rates x ** exponent that make the whole `rate`."""
    total = sum(w.numel() for w in weights.values())
    low, high = 1.0, rate ** (1 / min(exponents.values()))
    for _ in range(60):
        x = (low * high) ** 0.5
        kept = sum(w.numel() / x ** exponents[n] for n, w in weights.items())
        low, high = (x, high) if kept > total / rate else (low, x)
    return {n: max(1, round(w.numel() / high ** exponents[n])) for n, w in weights.items()}


def per_layer(
    rate: float, exponents: Mapping[str, float], constraint: Callable[[Tensor, int], Constraint]
) -> Run:
    """ADMM towards one constraint per layer.

    Args:
        rate: Of the whole network.
        exponents: Relative strengths of the layers, see `layer_counts`.
        constraint: Weight of a layer and weights kept in it, to the layer's set.
    """

    def sets(weights: Mapping[str, Tensor]) -> JointConstraint:
        counts = layer_counts(weights, exponents, rate)
        return PerLayer({n: constraint(w, counts[n]) for n, w in weights.items()})

    return projected(sets)


def darb(weight: Tensor, n_keep: int) -> Constraint:
    return DensityAdaptiveBlocks(n_keep)


def kernels(weight: Tensor, n_keep: int) -> Constraint:
    """Whole kernels of a convolution; single weights of a linear layer."""
    return PatternConnectivity(max(1, round(n_keep / weight[0, 0].numel())), codes=())


def projected(sets: Callable[[Mapping[str, Tensor]], JointConstraint]) -> Run:
    """ADMM towards any sets of the weights, then training inside the last masks."""

    def run(start: Start) -> Network:
        constraint = sets(weights_of(start))
        run_admm(start, [constraint])
        found = constraint.project(weights_of(start))
        masks = {n: p.mask & start.masks.get(n, p.mask) for n, p in found.items()}
        return retrain_small(start, masks)

    return run


def purified(budget: float) -> Run:
    """Purification by bisection on the held-out images, then training of what is left."""

    def run(start: Start) -> Network:
        graph = ChannelGraph(start.network.spec)
        tensors = {n: t.detach().clone() for n, t in start.network.tensors().items()}

        def evaluate(masks: dict[str, Tensor]) -> float:
            start.network.load_tensors(masked_tensors(graph, tensors, masks))
            return accuracy(start.network, start.images.held_out)

        found = purify(graph, weights_of(start), start.masks, evaluate, budget)
        print(f"  purification removed {found.removed} units", flush=True)
        start.network.load_tensors(tensors)
        return retrain_small(start, found.masks)

    return run


def quantized(levels: Mapping[str, Levels] | Levels) -> Run:
    """Straight-through training on levels; pruned weights stay zero."""

    def run(start: Start) -> Network:
        chosen = {
            n: levels[n] if isinstance(levels, Mapping) else levels for n in weights_of(start)
        }
        levelled = ScaledLevels({n: Quantized(c, start.masks.get(n)) for n, c in chosen.items()})
        through = StraightThrough(start.network.weights(), levelled.project, LATENT_LIMIT)
        run_straight_through(
            start, through, lambda done, latent: levelled.choose(latent), select_from=0.7
        )
        for name, weight in weights_of(start).items():
            found = torch.unique(weight[weight != 0].abs()).numel()
            assert found <= len(chosen[name].magnitudes), f"{name}: {found} magnitudes"
        reestimate_batch_norm(start.network, start.images.train[0][: 200 * BATCH].split(BATCH))
        return start.network

    return run
