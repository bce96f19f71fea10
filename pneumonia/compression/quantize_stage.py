"""One rung of quantization for any task: ADMM towards the levels, then progressive snap."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.admm_hook import AdmmHook, AdmmSchedule, Converged
from pneumonia.compression.bn_reestimate import reestimate_batch_norm
from pneumonia.compression.constraint import PerLayer
from pneumonia.compression.coupling import ChannelGraph
from pneumonia.compression.masks import MaskHook
from pneumonia.compression.methods.quantize import Levels, Quantized
from pneumonia.compression.snap import SnapHook, partial_shares
from pneumonia.network.files import load_model
from pneumonia.network.module import Network
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.progress import Progress
from pneumonia.training.config import TrainConfig
from pneumonia.training.hooks import TrainingHook
from pneumonia.training.loop import fit
from pneumonia.training.task import Task

FINAL_FRACTION = 0.2  # of the learning rate at the end of each training


class Rung(NamedTuple):
    """What a rung does.

    Attributes:
        levels: Layer -> level set.
        masks: Layer -> places that are not pruned; layers not given have none pruned.
        rho: Penalties of the ADMM rounds.
        proximal: Each penalty acts by a step of its own, not through the optimiser.
        admm_epochs: Epochs of ADMM.
        fixed: Cumulative shares of the snaps.
        snap_epochs: Epochs after each snap; after the last one biases and batch norm adapt.
        batch_norm_batches: For the statistics at the end.
    """

    levels: Mapping[str, Levels]
    masks: Mapping[str, Tensor]
    rho: tuple[float, ...]
    proximal: bool
    admm_epochs: int
    fixed: tuple[float, ...]
    snap_epochs: int
    batch_norm_batches: int


def quantize_stage(
    network: Network,
    task: Task,
    config: TrainConfig,
    rung: Rung,
    out: Path,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Put every weight of the given layers on its levels.

    Args:
        network: Its weights are the start; ends quantized.
        task: Data and loss.
        config: Optimiser and batches; its `epochs` is replaced.
        rung: What to do.
        out: Folder of the rung: `admm/` and `snap/` are run folders.
        resume: Parts that are complete are not done again, the one that is not goes on.
        progress: See `training.loop.fit`.

    Returns:
        Layer -> scale alpha; weights are alpha times a level, exactly.
    """
    weights = network.weights()
    sets = {name: Quantized(levels, rung.masks.get(name)) for name, levels in rung.levels.items()}
    pruned = MaskHook(ChannelGraph(network.spec), rung.masks)
    # The loop would clip penalty and task together; the hook clips the task alone.
    schedule = AdmmSchedule(
        rung.rho,
        rung.admm_epochs,
        clip_norm=config.optimiser.clip_norm,
        tau=config.optimiser.learning_rate if rung.proximal else None,
    )
    unclipped = config.optimiser.model_copy(update={"clip_norm": 0.0})
    # The loss has to keep up with the penalty to the end, and with the last snaps.
    lasting = config.schedule.model_copy(update={"final_fraction": FINAL_FRACTION})
    config = config.model_copy(update={"schedule": lasting})
    first = config.model_copy(update={"epochs": rung.admm_epochs, "optimiser": unclipped})
    hook = AdmmHook([PerLayer(sets)], schedule, out / "admm")
    _train(network, task, first, out / "admm", [pruned, hook], resume, progress)
    scales = {name: s.scale_of(weights[name].detach()) for name, s in sets.items()}
    fixed = {n: Quantized(s.levels, s.mask, scales[n]) for n, s in sets.items()}
    epochs = len(rung.fixed) * rung.snap_epochs
    shares: list[float] = []
    for share in partial_shares(rung.fixed):
        shares += [share] + [0.0] * (rung.snap_epochs - 1)
    snapping = SnapHook(fixed, tuple(shares))
    second = config.model_copy(update={"epochs": epochs})
    _train(network, task, second, out / "snap", [pruned, snapping], resume, progress)
    _finish(network, task, fixed, rung.batch_norm_batches, config)
    return scales


def _train(
    network: Network,
    task: Task,
    config: TrainConfig,
    out: Path,
    hooks: Sequence[TrainingHook],
    resume: bool,
    progress: Progress | None,
) -> None:
    """One fit that ends with the averaged weights of its last epoch in the network.

    The last, not the best, epoch: only there the penalty is largest and most weights are fixed.
    """
    last = RunFolder(out).last
    started = last.is_dir()
    with suppress(Converged):
        fit(network, task, config, out, hooks=hooks, resume=resume and started, progress=progress)
    network.load_tensors(load_model(last)[1])


@torch.no_grad()
def _finish(
    network: Network,
    task: Task,
    sets: Mapping[str, Quantized],
    batches: int,
    config: TrainConfig,
) -> None:
    """Put what is left on its level, then measure batch-norm statistics again."""
    weights = network.weights()
    for name, constraint in sets.items():
        weights[name].copy_(constraint.project(weights[name].detach()).z)
    samples = task.plan(1, config.seed)
    size = config.batch_size
    reestimate_batch_norm(
        network,
        (task.load(samples[i : i + size]).images for i in range(0, len(samples) - size + 1, size)),
        batches,
    )


def on_levels(weight: Tensor, levels: Levels, scale: float) -> bool:
    """Whether every weight that is not zero is exactly scale times a level."""
    allowed = torch.tensor([*levels.values, 0.0], dtype=torch.float64).mul(scale).to(weight.dtype)
    return bool(torch.isin(weight, allowed).all())
