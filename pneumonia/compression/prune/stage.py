"""One stage of pruning: ADMM rounds, hard mask, masked retraining; resumable at every epoch.

STAGE/admm/       a run folder of the penalised training, with residuals.csv
STAGE/masks.safetensors, plan.json     the hard mask and how it came about
STAGE/retrain/    a run folder of the masked training
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pneumonia.compression.admm.hook import AdmmHook, read_rows
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import MaskHook
from pneumonia.compression.compact.thin import thin
from pneumonia.compression.phase import ADMM, RETRAIN, Trainer, is_finished
from pneumonia.compression.prune.method import LadderStage
from pneumonia.compression.prune.rates import (
    MOST_NAMED,
    LayerRates,
    RatePlan,
    StageStart,
    plan_rate,
    reachable_rates,
    warn_of_excess,
)
from pneumonia.compression.prune.recipe import PruneRecipe, admm_config, retrain_config
from pneumonia.network.files import load_model
from pneumonia.network.module import Network
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.errors import PruneError
from pneumonia.runtime.json_files import read_json_object
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.storage.tensorfile import read_tensors, write_tensors
from pneumonia.runtime.text import counted
from pneumonia.training import distributed
from pneumonia.training.config import TrainConfig
from pneumonia.training.hooks import TrainingHook

log = logging.getLogger(__name__)


MASKS_FILE, PLAN_FILE = "masks.safetensors", "plan.json"
COSTLY_RESIDUAL = 5e-2  # masking from farther away usually costs accuracy (methods 1.2)


class StageContext(NamedTuple):
    """What all stages of a run share."""

    spec: NetworkSpec  # the network, every layer stored densely: its zeros move while it is trained
    total: int  # weights it kept when the run began
    trainer: Trainer  # task, resume, progress
    training: TrainConfig  # training settings that the recipe's phases change
    recipe: PruneRecipe  # the whole run
    rates: LayerRates  # relative strengths of the layers
    # layers the run's network stored by columns -> filters that share one list
    groups: Mapping[str, int]


class StageResult(NamedTuple):
    """Result of a stage."""

    tensors: dict[str, Tensor]  # retrained dense tensors, exactly zero outside the masks
    masks: dict[str, Tensor]  # layer -> bool mask of its weight
    # `plan.json`: rates, budgets, kept weights, group sizes, last primal residuals
    plan: dict[str, Any]


def run_stage(
    context: StageContext,
    stage: LadderStage,
    tensors: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    folder: Path,
) -> StageResult:
    """Run a stage, or resume it at the epoch it stopped.

    Args:
        tensors: Dense tensors to start from.
        allowed: Masks of the stage before; the new ones lie within.
    """
    graph = ChannelGraph(context.spec)
    start = StageStart(graph, layer_weights(tensors), allowed, context.total, context.groups)
    penalised = _admm(context, stage, start, tensors, folder)
    if (folder / PLAN_FILE).is_file():
        masks, plan = read_masks(folder)
    else:
        now = start._replace(weights=layer_weights(penalised))
        planned = plan_rate(now, stage.method, context.rates, stage.rate, context.trainer.progress)
        masks, plan = planned.masks, _plan_record(stage, planned, folder)
        write_masks(folder, masks, plan)
    return StageResult(retrain(context, penalised, masks, folder), masks, plan)


def _admm(
    context: StageContext,
    stage: LadderStage,
    start: StageStart,
    tensors: Mapping[str, Tensor],
    folder: Path,
) -> dict[str, Tensor]:
    """Weights after the penalised training."""
    out, phase = folder / ADMM, context.recipe.admm
    network = Network(context.spec, tensors)
    hooks: list[TrainingHook] = []
    if not is_finished(out):
        planned = plan_rate(
            start, stage.method, context.rates, stage.rate, context.trainer.progress
        )
        if planned.realised_rate <= 1:  # before any training is spent on it
            reach = reachable_rates(start, stage.method, context.rates)
            raise nothing_pruned(context.spec, list(planned.layer_rates), stage.rate, reach)
        hooks.append(AdmmHook(planned.sets.splits, phase, out))
        if start.allowed:
            hooks.append(MaskHook(start.graph, start.allowed))
    config = admm_config(context.training, phase)
    return load_model(context.trainer.fit(network, config, out, hooks).last)[1]


def retrain(
    context: StageContext, start: Mapping[str, Tensor], masks: Mapping[str, Tensor], folder: Path
) -> dict[str, Tensor]:
    """Best weights of the masked training from `start`; its run folder holds the thin network."""
    config = retrain_config(context.training, context.recipe.retrain)
    live = thin(context.spec, start, masks)
    hook = MaskHook(ChannelGraph(live.spec), live.masks)
    network = Network(live.spec, live.tensors)
    run = context.trainer.fit(network, config, folder / RETRAIN, [hook])
    return live.widen(load_model(run.checkpoint())[1])


def nothing_pruned(
    spec: NetworkSpec,
    selected: list[str],
    rate: float,
    reach: tuple[float, float] | None = None,
) -> PruneError:
    """The error of a recipe that removes no weight.

    Args:
        selected: Layers that the recipe matched.
        rate: Rate that was asked for.
        reach: From `reachable_rates`; None = not known, or there is none.
    """
    protected = ChannelGraph(spec).protected_layers()
    shown = ", ".join(selected[:MOST_NAMED]) + ", ..." * (len(selected) > MOST_NAMED)
    return PruneError(
        f"Recipe prunes nothing at rate {rate:g}",
        expected=None if reach is None else f"a rate of {reach[0]:.4g} to {reach[1]:.4g}",
        found=f"{counted(len(selected), 'selected layer')} ({shown})",
        where="filters protected in " + ", ".join(protected[:MOST_NAMED]),
        fix="Raise the rate, select more layers, or lower constraint.round_to or filter_share",
    )


def layer_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer -> weight."""
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if name.endswith(".weight")
    }


def _plan_record(stage: LadderStage, planned: RatePlan, folder: Path) -> dict[str, Any]:
    warn_of_excess(planned, stage.rate)
    residuals = last_residuals(folder / ADMM)
    worst = max(residuals.items(), key=lambda item: item[1], default=("", 0.0))
    if worst[1] > COSTLY_RESIDUAL:
        log.warning(
            "ADMM has not converged: ||W - Z|| / ||W|| is %.3f in layer %s (want < %g); "
            "masking will cost accuracy. Raise the last admm.rho, or admm.epochs",
            worst[1],
            worst[0],
            COSTLY_RESIDUAL,
        )
    return {
        "target_rate": stage.rate,
        "nominal_rate": planned.nominal_rate,
        "realised_rate": planned.realised_rate,
        "nominal_weights": dict(planned.nominal_kept),
        "group_sizes": planned.sets.group_sizes,
        "round_to": planned.sets.round_to,
        "layers": {
            name: {
                "rate": planned.layer_rates[name],
                **planned.sets.budgets.get(name, {}),
                "kept_weights": planned.kept[name],
                "primal_residual": residuals.get(name),
            }
            for name in planned.layer_rates
        },
    }


def last_residuals(folder: Path) -> dict[str, float]:
    """Layer -> largest primal residual over the splits at the last Z-step."""
    rows = read_rows(folder)
    found: dict[str, float] = {}
    for row in rows:
        if row[0] == rows[-1][0]:
            name, primal = str(row[4]), float(str(row[5]))
            found[name] = max(primal, found.get(name, 0.0))
    return found


def write_masks(folder: Path, masks: Mapping[str, Tensor], plan: Mapping[str, Any]) -> None:
    """Write a stage's masks and plan.json."""
    if distributed.is_first():
        arrays = {name: mask.numpy().astype(np.uint8) for name, mask in masks.items()}
        write_tensors(str(folder / MASKS_FILE), arrays)
        write_json(str(folder / PLAN_FILE), dict(plan))  # last: its presence means both are whole


def read_masks(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the masks written by `write_masks`."""
    arrays = read_tensors(str(folder / MASKS_FILE))
    plan = read_json_object(str(folder / PLAN_FILE), "Plan of the stage")
    return {name: torch.from_numpy(array != 0) for name, array in arrays.items()}, plan
