"""Purification at the end of a pruning run: thresholds by bisection, then masked retraining.

STAGES/purify/masks.safetensors, plan.json     what is left, and at which multiplier
STAGES/purify/retrain/                         a run folder of the masked training
"""

from pathlib import Path

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.prune.purify import purify
from pneumonia.compression.prune.rates import regrouped
from pneumonia.compression.prune.recipe import PurifyPhase
from pneumonia.compression.prune.rounding import RoundingTask, round_filters
from pneumonia.compression.prune.stage import (
    PLAN_FILE,
    StageContext,
    StageResult,
    layer_weights,
    read_masks,
    retrain,
    write_masks,
)
from pneumonia.compression.sets.network_set import realised_weights
from pneumonia.network.module import Network
from pneumonia.training import distributed
from pneumonia.training.task import SELECTION_METRIC

FOLDER = "purify"


def run_purify(
    context: StageContext, phase: PurifyPhase, before: StageResult, folder: Path
) -> StageResult:
    """Remove nearly empty channels and filters within the validation budget, then retrain.

    Args:
        folder: Of this phase; what is in it is not done again.
    """
    graph = ChannelGraph(context.spec)
    if (folder / PLAN_FILE).is_file():
        masks, plan = read_masks(folder)
    else:
        network = Network(context.spec)

        def evaluate(trial: dict[str, Tensor]) -> float:
            network.load_tensors(masked_tensors(graph, before.tensors, trial))
            return float(context.trainer.task.evaluate(network)[SELECTION_METRIC])

        found = purify(graph, layer_weights(before.tensors), before.masks, evaluate, phase.budget)
        groups = {**context.groups, **before.plan["group_sizes"]}
        weights = layer_weights(before.tensors)
        task = RoundingTask(
            graph, weights, list(before.plan["layers"]), before.masks, groups,
            before.plan.get("round_to", 1),
        )  # fmt: skip
        masks = regrouped(graph, round_filters(task, found.masks), groups)
        kept = realised_weights(graph, masks)
        plan = {
            **before.plan,
            "realised_rate": context.total / max(sum(kept.values()), 1),
            "purification": {
                "multiplier": found.multiplier, "removed_filters": found.removed,
                "metric": found.metric, "budget": phase.budget,
            },
            "layers": {
                name: {**row, "kept_weights": kept[name]}
                for name, row in before.plan["layers"].items()
            },
        }  # fmt: skip
        write_masks(folder, masks, plan)
    distributed.total(0.0, torch.device("cpu"))  # until the first has written
    recipe = context.recipe
    if phase.retrain_epochs is not None:
        longer = recipe.retrain.model_copy(update={"epochs": phase.retrain_epochs})
        context = context._replace(recipe=recipe.model_copy(update={"retrain": longer}))
    return StageResult(retrain(context, before.tensors, masks, folder), masks, plan)
