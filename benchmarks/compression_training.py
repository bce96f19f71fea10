"""How the jobs of `compression_tables` train: data, optimiser, and each method's two halves.

Plain enough to be read beside the published procedures: Adam with half a cosine, the penalty as a
proximal step after it, then the hard set and training inside it. Training runs in bfloat16 where
the processor has it (half the time); weights, ADMM and every measurement are float32.
"""

import copy
import io
import os
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pneumonia.compression.admm.engine import Admm
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.distil import distillation_loss
from pneumonia.compression.prune.masks import masked_tensors
from pneumonia.compression.prune.purify import purify
from pneumonia.compression.prune.rates import LayerRates, StageStart, plan_rate
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.quantize.bn_reestimate import reestimate_batch_norm
from pneumonia.compression.quantize.snap import ProgressiveSnap
from pneumonia.compression.sets.constraint import JointConstraint, PerLayer
from pneumonia.compression.sets.irregular import Irregular
from pneumonia.compression.sets.levels import Levels, Quantized, best_scale
from pneumonia.network.module import Network
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.training.config import TrainConfig
from pneumonia.training.loop import uses_bf16

HELD_OUT = 5000  # images of the training set that choose, and are not trained on
BATCH = 128
# Emulated elsewhere, at a tenth of the speed of float32.
BFLOAT16 = uses_bf16(TrainConfig(), torch.device("cpu"))


class Images(NamedTuple):
    """Normalised float32 images (N, C, H, W) and int64 labels (N,) of three parts."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Schedule(NamedTuple):
    """Lengths and strengths of the two halves of a job."""

    admm_epochs: int = 4
    retrain_epochs: int = 4
    rho: tuple[float, ...] = (5.0, 20.0, 80.0)
    updates_per_epoch: int = 4
    learning_rate: float = 1e-3
    retrain_rate: float = 2e-3  # few weights need larger steps
    shift_px: int = 0  # training images are moved by up to so many pixels
    teacher: float = 0.0  # share of the loss that the dense network's logits get


class Start(NamedTuple):
    """Where a job begins.

    Attributes:
        network: The parent's, without its dead paths.
        masks: Layer -> places that earlier jobs left; none when nothing was pruned.
        images: The data.
        schedule: Lengths.
        total: Weights of the dense network: what rates are over.
        logits: The dense network's, of the training images (N, K); None without a teacher.
    """

    network: Network
    masks: dict[str, Tensor]
    images: Images
    schedule: Schedule
    total: int
    logits: Tensor | None = None


Run = Callable[[Start], Network]  # trains, and gives the network that came of it


# --- data ---------------------------------------------------------------------------------------


def data_root() -> Path:
    return Path(os.environ.get("PNEUMONIA_DATA", Path(__file__).parents[2] / "shared" / "data"))


def _read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    if folder.name == "mnist":
        file = np.load(folder / f"mnist_{part}.npz")
        return file["images"][:, None], file["labels"]
    from PIL import Image

    file = np.load(folder / f"cifar10_{part}_jpeg.npz")
    blob, offsets = file["blob"], file["offsets"]
    images = [
        np.asarray(Image.open(io.BytesIO(blob[a:b].tobytes())).convert("RGB"))
        for a, b in pairwise(offsets)
    ]
    return np.stack(images).transpose(0, 3, 1, 2), file["labels"]


def read_images(name: str, spec: NetworkSpec) -> Images:
    folder = data_root() / name
    if not folder.is_dir():
        print(f"skipped: no {name} in {data_root()} (set PNEUMONIA_DATA)")
        sys.exit(0)
    parts = []
    for part in ("train", "test"):
        images, labels = _read(folder, part)
        values = torch.from_numpy(images.copy()).float().div_(255)
        values = (values - spec.input.mean) / spec.input.std
        values = values.contiguous(memory_format=torch.channels_last)
        parts.append((values, torch.from_numpy(labels.astype(np.int64))))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(parts[0][1])))
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    train, test = parts
    return Images((train[0][kept], train[1][kept]), (train[0][held], train[1][held]), test)


# --- training -----------------------------------------------------------------------------------


@torch.inference_mode()
def logits_of(network: Network, images: Tensor) -> Tensor:
    network.eval()
    output = network.spec.outputs[0]
    return torch.cat([network(part)[output].flatten(1) for part in images.split(1000)])


def accuracy(network: Network, part: tuple[Tensor, Tensor]) -> float:
    hits = logits_of(network, part[0]).argmax(1) == part[1]
    return float(hits.double().mean())


def augmented(images: Tensor, shift_px: int, generator: torch.Generator) -> Tensor:
    """Shift each quarter of the batch; colour images are flipped, too."""
    if shift_px == 0:
        return images
    if images.shape[1] == 3:
        flip = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    size, padded = images.shape[2], F.pad(images, (shift_px,) * 4)
    places = torch.randint(0, 2 * shift_px + 1, (4, 2), generator=generator).tolist()
    shifted = [
        part[:, :, y : y + size, x : x + size]
        for part, (y, x) in zip(padded.chunk(4), places, strict=True)
    ]
    return torch.cat(shifted).contiguous(memory_format=torch.channels_last)


def _loss(start: Start, batch: Tensor, generator: torch.Generator) -> Tensor:
    network, plan = start.network, start.schedule
    images, labels = start.images.train
    inputs = augmented(images[batch], plan.shift_px, generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
        logits = network(inputs)[network.spec.outputs[0]].flatten(1)
    if start.logits is None:
        return F.cross_entropy(logits.float(), labels[batch])
    teacher = start.logits[batch]
    return distillation_loss(logits.float(), teacher, labels[batch], share=plan.teacher)


def train(
    start: Start,
    epochs: int,
    learning_rate: float,
    *,
    after_step: Callable[[], None] = lambda: None,
    every: int = 0,
    update: Callable[[], None] = lambda: None,
    select: bool = False,
) -> None:
    """Adam with half a cosine; `select` ends with the best weights on the held-out images."""
    network = start.network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    generator = torch.Generator().manual_seed(1)
    n_images = len(start.images.train[1])
    n_steps = epochs * (n_images // BATCH)
    step, best = 0, (-1.0, {})
    for _ in range(epochs):
        network.train()
        for batch in torch.randperm(n_images, generator=generator).split(BATCH):
            if len(batch) < BATCH:
                continue
            cosine = 0.5 * (1 + np.cos(np.pi * step / n_steps))
            optimiser.param_groups[0]["lr"] = learning_rate * (0.02 + 0.98 * cosine)
            optimiser.zero_grad()
            _loss(start, batch, generator).backward()
            optimiser.step()
            after_step()
            step += 1
            if every and step % every == 0:
                update()
        if select:
            score = accuracy(network, start.images.held_out)
            if score >= best[0]:
                best = (score, copy.deepcopy(network.state_dict()))  # with the versions it names
    if select:
        network.load_state_dict(best[1])


@torch.no_grad()
def hold(network: Network, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        network.weights()[name].mul_(mask)


def weights_of(start: Start) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in start.network.weights().items()}


def run_admm(start: Start, splits: list[JointConstraint]) -> None:
    """The ADMM half: one round per rho; what an earlier job removed stays zero."""
    network, plan = start.network, start.schedule
    engine = Admm(splits, plan.rho[0])
    engine.start(network.weights())
    every = len(start.images.train[1]) // BATCH // plan.updates_per_epoch
    n_updates = plan.admm_epochs * plan.updates_per_epoch
    done = 0

    def after_step() -> None:
        engine.pull(network.weights(), plan.learning_rate)
        hold(network, start.masks)

    def update() -> None:
        nonlocal done
        residuals = engine.update(network.weights())
        done += 1
        now = plan.rho[min(done * len(plan.rho) // n_updates, len(plan.rho) - 1)]
        if now != engine.rho:
            engine.set_rho(now, network.weights(), "rescale")
        if done == n_updates:
            worst = max(residual.primal for residual in residuals)
            print(f"  last ||W - Z|| / ||W||: {worst:.3f}", flush=True)

    train(
        start, plan.admm_epochs, plan.learning_rate,
        after_step=after_step, every=every, update=update,
    )  # fmt: skip


def without_dead_paths(network: Network) -> Network:
    """The same function with fewer filters: less to train."""
    tensors = {n: t.detach().clone().contiguous() for n, t in network.tensors().items()}
    spec, tensors = compact(network.spec, tensors)
    small = Network(spec)
    small.load_tensors(tensors)
    return small


def retrain_small(start: Start, masks: Mapping[str, Tensor]) -> Network:
    """The second half: only the loss, inside the masks, best weights on the held-out images."""
    tensors = {n: t.detach().clone() for n, t in start.network.tensors().items()}
    graph = ChannelGraph(start.network.spec)
    start.network.load_tensors(masked_tensors(graph, tensors, masks))
    small = without_dead_paths(start.network)
    places = {n: w.detach() != 0 for n, w in small.weights().items()}
    train(
        start._replace(network=small), start.schedule.retrain_epochs, start.schedule.retrain_rate,
        after_step=lambda: hold(small, places), select=True,
    )  # fmt: skip
    return small


# --- methods ------------------------------------------------------------------------------------


def dense(start: Start) -> Network:
    train(start, start.schedule.retrain_epochs, start.schedule.retrain_rate, select=True)
    return start.network


def irregular(keep: Mapping[str, int] | float) -> Run:
    """Layer -> weights kept; or one rate for all layers."""

    def run(start: Start) -> Network:
        weights = weights_of(start)
        share = 1 / keep if isinstance(keep, float) else 0.0
        budget = (
            {n: max(16, round(w.numel() * share)) for n, w in weights.items()}
            if isinstance(keep, float)
            else keep
        )
        constraint = PerLayer({name: Irregular(n) for name, n in budget.items()})
        run_admm(start, [constraint])
        projected = constraint.project(weights_of(start))
        masks = {n: p.mask & start.masks.get(n, p.mask) for n, p in projected.items()}
        return retrain_small(start, masks)

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
        strengths = exponents or {
            name: 0.5 if name == "conv_000" else 1.0 for name in start.network.weights()
        }

        def plan() -> tuple[list[JointConstraint], dict[str, Tensor]]:
            situation = StageStart(graph, weights_of(start), start.masks, start.total)
            found = plan_rate(situation, how, LayerRates(dict(strengths), {}), rate)
            return list(found.sets.splits), found.masks

        run_admm(start, plan()[0])
        return retrain_small(start, plan()[1])

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


def quantized(
    levels: Mapping[str, Levels] | Levels, shares: tuple[float, ...] = (0.5, 0.75, 0.875, 1.0)
) -> Run:
    """ADMM towards levels, then progressive snap until every weight is on one."""

    def run(start: Start) -> Network:
        weights = weights_of(start)
        chosen = {n: levels[n] if isinstance(levels, Mapping) else levels for n in weights}
        sets = {n: Quantized(chosen[n], start.masks.get(n)) for n in weights}
        run_admm(start, [PerLayer(sets)])
        weights = {n: w.clone() for n, w in weights_of(start).items()}
        fixed = {}
        for n, w in weights.items():
            alive = w if n not in start.masks else w[start.masks[n]]
            fixed[n] = Quantized(chosen[n], start.masks.get(n), best_scale(alive, chosen[n]))
        snapping = ProgressiveSnap(start.network.weights(), fixed)
        epochs = max(1, start.schedule.retrain_epochs // max(1, len(shares) - 1))
        before = 0.0
        for share in shares:
            snapping.advance(1.0 if share == 1 else (share - before) / (1 - before))
            before = share
            if share < 1:  # nothing but biases and batch norm is left to train after the last
                train(start, epochs, start.schedule.retrain_rate, after_step=snapping.hold)
        train(
            start, 1, start.schedule.retrain_rate / 4, after_step=snapping.hold, select=True
        )  # biases make up for the last snap
        assert snapping.fixed_share() == 1.0
        reestimate_batch_norm(start.network, start.images.train[0][: 200 * BATCH].split(BATCH))
        return start.network

    return run
