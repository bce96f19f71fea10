"""One rung of a quantization, for any task: ADMM, straight-through training, progressive snapping.

STAGE/admm/                a run folder of the penalised training, with residuals.csv
STAGE/straight_through/    of the training with weights on their levels, if the recipe has one
STAGE/snap/                of the training in which more and more weights are fixed
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pneumonia.compression.admm.hook import AdmmHook
from pneumonia.compression.admm.recipe import AdmmPhase
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import MaskHook
from pneumonia.compression.phase import ADMM, SNAP, STRAIGHT_THROUGH, Trainer
from pneumonia.compression.quantize.recipe import QuantizeRecipe, quantizing_config
from pneumonia.compression.quantize.snap import SnapHook, partial_shares
from pneumonia.compression.quantize.straight_through import StraightThroughHook
from pneumonia.compression.sets.constraint import PerLayer
from pneumonia.compression.sets.levels import Levels, Quantized
from pneumonia.network.batch_norm import reestimate_batch_norm
from pneumonia.network.files import load_model
from pneumonia.network.module import Network
from pneumonia.training.config import TrainConfig
from pneumonia.training.task import TrainingTask, training_images


def quantize_stage(
    network: Network,
    trainer: Trainer,
    training: TrainConfig,
    recipe: QuantizeRecipe,
    levels: Mapping[str, Levels],
    masks: Mapping[str, Tensor],
    out: Path,
) -> dict[str, float]:
    """Put every weight of the given layers on its levels.

    All trainings end with the weights of their last, not their best, epoch: only there is the
    penalty largest and are most weights fixed.

    Args:
        network: Its weights are the start; ends quantized.
        training: Training settings that the recipe changes.
        levels: Layer -> level set of this rung.
        masks: Layer -> places that are not pruned; layers not given have none pruned.

    Returns:
        Layer -> scale alpha; weights are alpha times a level, exactly.
    """
    sets = {name: Quantized(chosen, masks.get(name)) for name, chosen in levels.items()}
    pruned = MaskHook(ChannelGraph(network.spec), masks)
    config = quantizing_config(training, recipe)
    # The loop would clip penalty and task together; the hook clips the task's gradient alone.
    phase = AdmmPhase(**recipe.admm.model_dump(), optimiser=config.optimiser)
    unclipped = config.optimiser.model_copy(update={"clip_norm": 0.0})
    first = config.model_copy(update={"epochs": recipe.admm.epochs, "optimiser": unclipped})
    hook = AdmmHook([PerLayer(sets)], phase, out / ADMM)
    penalised = trainer.fit(network, first, out / ADMM, [pruned, hook])
    network.load_tensors(load_model(penalised.last)[1])

    if recipe.straight_through_epochs:
        # Down to the training's own last learning rate: weights stop changing levels.
        changed = {"epochs": recipe.straight_through_epochs, "schedule": training.schedule}
        through = config.model_copy(update=changed)
        hooks = [pruned, StraightThroughHook(sets)]
        trained = trainer.fit(network, through, out / STRAIGHT_THROUGH, hooks)
        network.load_tensors(load_model(trained.last)[1])

    weights = network.weights()
    scales = {name: s.scale_of(weights[name].detach()) for name, s in sets.items()}
    fixed = {n: Quantized(s.levels, s.mask, scales[n]) for n, s in sets.items()}
    shares: list[float] = []
    for share in partial_shares(recipe.fixed):
        shares += [share] + [0.0] * (recipe.snap_epochs - 1)
    second = config.model_copy(update={"epochs": len(shares)})
    snapped = trainer.fit(network, second, out / SNAP, [pruned, SnapHook(fixed, tuple(shares))])
    network.load_tensors(load_model(snapped.last)[1])
    _finish(network, trainer.task, fixed, recipe.batch_norm_batches, config)
    return scales


@torch.no_grad()
def _finish(
    network: Network,
    task: TrainingTask,
    sets: Mapping[str, Quantized],
    batches: int,
    config: TrainConfig,
) -> None:
    """Put what is left on its level, then measure batch-norm statistics again."""
    weights = network.weights()
    for name, constraint in sets.items():
        weights[name].copy_(constraint.project(weights[name].detach()).z)
    images = training_images(task, config.seed, config.batch_size)
    reestimate_batch_norm(network, images, batches)


def is_on_levels(weight: Tensor, levels: Levels, scale: float) -> bool:
    """Whether every weight that is not zero is exactly scale times a level."""
    allowed = torch.tensor([*levels.values, 0.0], dtype=torch.float64).mul(scale).to(weight.dtype)
    return bool(torch.isin(weight, allowed).all())
