"""The training loop, top to bottom: for detectors, classifiers and every compression stage.

One process:      pneumonia train --data DATASET --recipe rsna --out RUN
Four processes:   torchrun --nproc-per-node 4 -m pneumonia train --data ... --recipe ... --out ...
"""

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.network.module import Network
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.stored_recipe import refuse_other_recipe
from pneumonia.runtime.allocator import FOR_TRAINING, keep_freed_memory
from pneumonia.runtime.errors import ArtefactError, ConfigError, TrainingError
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.training import distributed
from pneumonia.training.checkpoint import (
    FinishedEpochs,
    TrainingState,
    load_last,
    read_state,
    save_best,
    save_last,
)
from pneumonia.training.config import FREE_ON_RESUME, TrainConfig
from pneumonia.training.ema import WeightAverage
from pneumonia.training.hooks import TrainingHook
from pneumonia.training.journal import MetricsJournal
from pneumonia.training.loading import BatchLoader, worker_faults
from pneumonia.training.optimiser import learning_rate, make_optimiser, set_learning_rate
from pneumonia.training.task import SELECTION_METRIC, TrainingBatch, TrainingTask, check_images

log = logging.getLogger(__name__)


class FitResult(NamedTuple):
    """Result of a training run.

    Attributes:
        best_metric: Highest selection metric of any validated epoch.
        best_epoch: That epoch, from 1; its weights are in `best/`.
        out: The run folder.
        epochs: Finished epochs.
    """

    best_metric: float
    best_epoch: int
    out: Path
    epochs: int


@worker_faults()
def fit(
    network: Network,
    task: TrainingTask,
    config: TrainConfig,
    out: Path,
    hooks: Sequence[TrainingHook] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a network and leave a run folder (docs/architecture.md).

    Interrupted at any moment and called again with `resume=True`, it gives bit for bit what an
    uninterrupted run gives (on the CPU, with the same number of threads and processes).

    Args:
        network: Its weights are the start; ends with the raw weights of the last epoch.
        config: What the loop needs; a whole TrainRecipe is one, too.
        out: Run folder; without `resume` it must not hold a checkpoint yet.
        hooks: Called in order; see TrainingHook. A task that is a hook itself comes first.
        resume: Go on after the last finished epoch.
        progress: Called after every step with (steps done, steps of the run, a note).

    Raises:
        TrainingError: Loss not finite, images outside the input range, too few images.
        ArtefactError: Nothing to resume, or it belongs to another recipe or network.
        OutputError: `out` holds a run already, or cannot be written.
        ConfigError: The device does not exist.
    """
    check_run_folder(out, config, resume)
    if isinstance(task, TrainingHook):
        hooks = (task, *hooks)
    device = _device(config)
    if device.type == "cpu":
        keep_freed_memory(FOR_TRAINING)
    torch.manual_seed(config.seed)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    distributed.copy_from_first(network)
    average = WeightAverage(network, config.ema_decay)
    state = TrainingState(network, average, make_optimiser(network, config.optimiser), tuple(hooks))
    progressed = FinishedEpochs()
    if resume and RunFolder(out).last.exists():
        progressed = load_last(out, state)
    for hook in hooks:
        hook.before_fit(network, average.network)
    loader = BatchLoader(task, config, progressed.epoch + 1)
    journal = MetricsJournal(out, progressed.epoch) if distributed.is_first() else None
    try:
        for epoch in range(progressed.epoch + 1, config.epochs + 1):
            if _stops_early(progressed, config):
                log.info("Early stop: no better epoch since epoch %d", progressed.best_epoch)
                break
            row = {"epoch": float(epoch)}
            row |= _train_epoch(state, task, loader, config, epoch, progress)
            for hook in hooks:
                row |= hook.after_epoch(network, epoch)
            progressed = progressed._replace(epoch=epoch)
            if epoch % config.validate_every == 0 or epoch == config.epochs:
                progressed = _validate(state, task, out, row, progressed)
            if journal is not None:
                journal.add(row)
                save_last(out, state, progressed, config.model_dump(mode="json"))
    finally:
        _close(loader, journal, hooks)
    return FitResult(progressed.best_metric, progressed.best_epoch, out, progressed.epoch)


def _close(
    loader: BatchLoader, journal: MetricsJournal | None, hooks: Sequence[TrainingHook]
) -> None:
    loader.close()
    if journal is not None:
        journal.close()
    for hook in hooks:
        hook.after_fit()


def _train_epoch(
    state: TrainingState,
    task: TrainingTask,
    loader: BatchLoader,
    config: TrainConfig,
    epoch: int,
    progress: Progress | None,
) -> dict[str, float]:
    """One epoch of optimiser steps; returns the row of metrics.csv."""
    network, average, optimiser, hooks = state
    device = next(network.parameters()).device
    parameters = [p for p in network.parameters() if p.requires_grad]
    clip_norm = config.optimiser.clip_norm or math.inf
    bf16 = uses_bf16(config, device)
    sums: dict[str, float] = defaultdict(float)
    rate = waited_s = norms = 0.0
    started = time.perf_counter()
    network.train()
    for step in range((epoch - 1) * loader.steps, epoch * loader.steps):
        rate = config.optimiser.learning_rate * learning_rate(
            step, loader.steps, config.epochs, config.schedule
        )
        set_learning_rate(optimiser, rate)
        optimiser.zero_grad(set_to_none=True)
        asked = time.perf_counter()
        batches = [next(loader) for _ in range(config.accumulate)]
        waited_s += time.perf_counter() - asked
        if step == (epoch - 1) * loader.steps:
            check_images(batches[0], network.spec)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            task.prepare(batches)
        step_loss = 0.0
        for batch in batches:
            images = batch.images.to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = network(images)
            loss, parts = task.loss(outputs, batch.targets.to(device))
            _check_finite(loss, parts, batch, epoch, step)
            loss.backward()  # type: ignore[no-untyped-call]
            step_loss += loss.item()
            for name, value in parts.items():
                sums[name] += value / loader.steps
        distributed.sum_gradients(network)
        for hook in hooks:
            hook.after_backward(network)
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        _check_gradient(norm, batch, epoch, step)
        optimiser.step()
        distributed.average_buffers(network)
        average.update()
        for hook in hooks:
            hook.after_step(network, average.network)
        norms += norm.item()
        note = f"epoch {epoch}/{config.epochs} loss {step_loss:.4f}"
        report_progress(progress, step + 1, loader.steps * config.epochs, note)
    seconds = time.perf_counter() - started
    return {
        # Each process has the loss of its share, divided by counts over all of them.
        **{name: distributed.total(value, device) for name, value in sums.items()},
        "gradient_norm": norms / loader.steps,
        "learning_rate": rate,
        "images_per_s": loader.steps * config.batch_size / seconds,
        "data_wait_fraction": waited_s / seconds,
        "epoch_s": seconds,
    }


def _validate(
    state: TrainingState,
    task: TrainingTask,
    out: Path,
    row: dict[str, float],
    progressed: FinishedEpochs,
) -> FinishedEpochs:
    """Evaluate the averaged weights on the first process; keep them if they are the best so far."""
    metrics: dict[str, float] = {}
    if distributed.is_first():
        started = time.perf_counter()
        metrics = task.evaluate(state.average.network)
        row |= {f"val_{key}": value for key, value in metrics.items()}
        row["val_s"] = time.perf_counter() - started
    device = next(state.network.parameters()).device
    metric = distributed.broadcast_numbers([metrics.get(SELECTION_METRIC, math.nan)], device)[0]
    if not metric > progressed.best_metric:  # NaN is never better
        return progressed
    if distributed.is_first():
        save_best(out, state.average.network, progressed.epoch, metrics, task.save)
    return progressed._replace(best_metric=metric, best_epoch=progressed.epoch)


def _stops_early(progressed: FinishedEpochs, config: TrainConfig) -> bool:
    return 0 < config.early_stop <= progressed.epoch - progressed.best_epoch


def _device(config: TrainConfig) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cpu" or (config.device == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise ConfigError(
            "No GPU is usable",
            expected="a CUDA device that torch finds",
            found="none",
            where="device",
            fix="Set device to auto or cpu",
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether the network is computed in bfloat16 on this device."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Where torch cannot say what the processor has, float32 is the safe choice.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def check_run_folder(out: Path, config: TrainConfig, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume it under a recipe that would have made another one.

    Raises:
        OutputError: Not resuming, and the folder holds a run.
        ArtefactError: Nothing to resume, or the first key of the recipe that differs.
    """
    folder = RunFolder(out)
    if not resume:
        folder.refuse_overwrite()
        return
    if not folder.last.exists() and (folder.best.exists() or folder.record_file.is_file()):
        return  # stopped in the first epoch, before its checkpoints were whole: it is done again
    state = read_state(out)
    fix = "Only " + ", ".join(sorted(FREE_ON_RESUME)) + " may change on resume"
    refuse_other_recipe(state["config"], config, out, FREE_ON_RESUME, fix)
    if config.epochs < int(state["epoch"]):
        raise ArtefactError(
            "Run is longer than the recipe",
            expected=f"epochs of at least {state['epoch']}, which are finished",
            found=str(config.epochs),
            where=str(out),
            fix="Name at least as many epochs, or train into another folder",
        )


def _check_finite(
    loss: Tensor, parts: dict[str, float], batch: TrainingBatch, epoch: int, step: int
) -> None:
    if math.isfinite(loss.item()):
        return
    table = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
    raise TrainingError(
        "Loss is not finite",
        expected="finite numbers",
        found=table,
        where=f"epoch {epoch}, step {step + 1}, images {', '.join(batch.image_ids)}",
        fix="Lower optimiser.learning_rate, or look at these images; the last epoch can be resumed",
    )


def _check_gradient(norm: Tensor, batch: TrainingBatch, epoch: int, step: int) -> None:
    if math.isfinite(norm.item()):
        return
    raise TrainingError(
        "Gradient is not finite although the loss is",
        found=f"norm {norm.item()}",
        where=f"epoch {epoch}, step {step + 1}, images {', '.join(batch.image_ids)}",
        fix="Lower optimiser.learning_rate; the last epoch can be resumed",
    )
