"""Pruning of one network, for any task: rates, stages, compaction."""

import logging
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from pneumonia.compression.compact.compaction import compact, zeros_outside
from pneumonia.compression.compact.coupling import ChannelGraph, refuse_unmatched, select_layers
from pneumonia.compression.compact.equality import check_compacted
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.compression.prune.purify_stage import FOLDER as PURIFY
from pneumonia.compression.prune.purify_stage import run_purify
from pneumonia.compression.prune.rates import TOLERANCE, LayerRates, ladder_rates
from pneumonia.compression.prune.recipe import PruneRecipe
from pneumonia.compression.prune.sensitivity import (
    exponents_by_rank,
    measure_sensitivity,
    read_sensitivity,
    write_sensitivity,
)
from pneumonia.compression.prune.stage import (
    StageContext,
    StageResult,
    nothing_pruned,
    run_stage,
)
from pneumonia.compression.report.history import nominal_mac_rate, planned_layers
from pneumonia.compression.result import CompressedNetwork, CompressionJob
from pneumonia.network.accounting import NetworkAccount
from pneumonia.network.module import Network
from pneumonia.runtime.errors import PruneError
from pneumonia.runtime.model.layers import DENSE
from pneumonia.runtime.model.spec import INPUT, NetworkSpec
from pneumonia.runtime.progress import Progress
from pneumonia.training import distributed
from pneumonia.training.task import TrainingTask

log = logging.getLogger(__name__)


def prune_network(job: CompressionJob, recipe: PruneRecipe) -> CompressedNetwork:
    """Prune a network by a recipe, compact it, and prove that the outputs are the same.

    Args:
        job: The network and what its trainings share; resumed, the result is bit for bit that of
            an uninterrupted run.

    Raises:
        PruneError: A pattern matches no layer, nothing would be pruned, the rate is out of reach.
    """
    spec = job.spec.densely_stored()
    progress = job.trainer.progress
    selected = selected_layers(spec, recipe)
    if recipe.rate <= 1 + TOLERANCE:  # a plan may miss its rate by that much: by all of it
        raise nothing_pruned(spec, selected, recipe.rate)
    network = Network(spec, job.tensors)
    method = recipe.constraint.fitted(network.tensors())
    recipe = recipe.model_copy(update={"constraint": method})
    rates = LayerRates(
        _exponents(network, job.trainer.task, recipe, selected, job.out.path, progress),
        layer_limits(spec, job.before, recipe, selected),
    )
    total = job.before.totals.kept_weights
    groups = column_groups(job.spec)
    context = StageContext(spec, total, job.trainer, job.training, recipe, rates, groups)
    result = StageResult(job.tensors, earlier_masks(job.spec, job.tensors), {})
    left_out = [
        rate
        for rate in (recipe.ladder if isinstance(recipe.ladder, tuple) else ())
        if rate > recipe.rate
    ]
    if left_out:
        names = ", ".join(f"{rate:g}" for rate in left_out)
        log.warning("Stages of the ladder above the rate %g are left out: %s", recipe.rate, names)
    ladder = recipe.constraint.stages(ladder_rates(recipe.rate, recipe.ladder))
    folders = []
    for number, stage in enumerate(ladder, 1):
        folders.append(job.out.stages / f"{number:02d}-{stage.rate:.4g}x")
        result = run_stage(context, stage, result.tensors, result.masks, folders[-1])
    if recipe.purify is not None:
        folders.append(job.out.stages / PURIFY)
        result = run_purify(context, recipe.purify, result, folders[-1])
    small, kept = finish(job.spec, result)
    return CompressedNetwork(
        small,
        kept,
        recipe.retrain.epochs * len(ladder),
        folders,
        {
            "method": recipe.constraint.kind,
            "settings": recipe.constraint.model_dump(mode="json"),
            "stages": [stage.rate for stage in ladder],
            "purification": result.plan.get("purification"),
            "target_rate": recipe.rate,
            "nominal_rate": result.plan["nominal_rate"],
            "nominal_mac_rate": nominal_mac_rate(job.before, result.plan),
        },
        planned_layers(job.before, result.plan),
    )


def selected_layers(spec: NetworkSpec, recipe: PruneRecipe) -> list[str]:
    """Layers the recipe may prune, in execution order.

    Raises:
        PruneError: A pattern matches no layer, or none is left.
    """
    patterns = {
        "layers.include": recipe.layers.include,
        "layers.exclude": recipe.layers.exclude,
        "rates.limits": recipe.rates.limits,
    }
    refuse_unmatched(spec, patterns, PruneError)
    included = select_layers(spec, recipe.layers.include)
    excluded = set(select_layers(spec, recipe.layers.exclude))
    selected = [name for name in included if name not in excluded]
    if not selected:
        raise PruneError(
            "No layer is left to prune",
            found=f"{len(included)} layers included, all of them excluded",
            where="layers",
        )
    return selected


def layer_limits(
    spec: NetworkSpec, before: NetworkAccount, recipe: PruneRecipe, selected: list[str]
) -> dict[str, float]:
    """Largest rate of the layers that have one: the stem's, and those of the recipe's globs.

    The recipe's limits are over what the run's network keeps of a layer, as its `rate` is; a
    layer's rate is over its whole matrix, of which an earlier run may have kept some columns.
    """
    strength = 1.0
    if recipe.rates.limits_for is not None:
        strength = math.log(recipe.rate) / math.log(recipe.rates.limits_for)
    limits = {
        layer.name: recipe.rates.stem_limit
        for layer in spec.weighted()
        if layer.inputs[0] == INPUT and layer.name in selected
    }
    for pattern, limit in recipe.rates.limits.items():
        for name in selected:
            if fnmatchcase(name, pattern):
                limits[name] = limit**strength
    sizes = {row.name: (row.weights, row.kept_weights) for row in before.layers}
    return {name: limit * sizes[name][0] / max(sizes[name][1], 1) for name, limit in limits.items()}


def _exponents(
    network: Network,
    task: TrainingTask,
    recipe: PruneRecipe,
    selected: list[str],
    out: Path,
    progress: Progress | None,
) -> dict[str, float]:
    if recipe.rates.assignment == "uniform":
        return dict.fromkeys(selected, 1.0)
    values = [math.nan] * len(selected)
    if distributed.is_first():
        metrics = read_sensitivity(out)
        if metrics is None or list(metrics) != selected:
            probes = recipe.rates.probes
            metrics = measure_sensitivity(
                network, task, recipe.constraint, selected, probes, progress
            )
            write_sensitivity(out, metrics, probes)
        values = [exponents_by_rank(metrics)[name] for name in selected]
    shared = distributed.broadcast_numbers(values, next(network.parameters()).device)
    return dict(zip(selected, shared, strict=True))


def column_groups(spec: NetworkSpec) -> dict[str, int]:
    """Layers stored by columns -> filters that share one list of columns."""
    return {
        layer.name: layer.storage.group_size
        for layer in spec.weighted()
        if layer.storage.format == "columns"
    }


def earlier_masks(spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of the layers that an earlier run pruned: those not stored densely."""
    return {
        layer.name: tensors[layer.name + ".weight"] != 0
        for layer in spec.weighted()
        if layer.storage.format != DENSE.format
    }


def finish(stored: NetworkSpec, result: StageResult) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Compact the last stage's network and make sure that it is the same function.

    Args:
        stored: The network the run began with; layers it stored by columns stay so.

    Raises:
        PruneError: A weight outside the masks is not zero, nothing was removed, or the compacted
            network gives other outputs.
    """
    spec = stored.densely_stored()
    if not zeros_outside(result.tensors, result.masks):
        raise PruneError("A weight outside its mask is not zero", fix="Report this as a fault")
    group_sizes = column_groups(stored) | result.plan["group_sizes"]
    small, kept = compact(spec, result.tensors, result.masks, group_sizes)
    smallest = smallest_storage(small, kept)
    small = small.replace_layers(
        {layer.name: layer for layer in smallest.weighted() if layer.name not in group_sizes}
    )
    if result.plan["realised_rate"] <= 1:
        raise nothing_pruned(spec, list(result.plan["layers"]), result.plan["target_rate"])
    masked = masked_tensors(ChannelGraph(spec), result.tensors, result.masks)
    check_compacted(Network(spec, masked), Network(small, kept))
    return small, kept
