"""One quantization of a run: from a trained or pruned run folder to a quantized one."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.dataset.reader import Dataset, open_dataset
from pneumonia.compression.distil import Teacher
from pneumonia.compression.methods.quantize import Levels
from pneumonia.compression.quantize_recipe import QuantizeRecipe, levels_of
from pneumonia.compression.quantize_stage import Rung, on_levels, quantize_stage
from pneumonia.compression.storage_choice import smallest_storage
from pneumonia.network.files import load_model, save_model
from pneumonia.network.module import Network
from pneumonia.runs.compression import read_compression, write_compression
from pneumonia.runs.folder import RunFolder, new_record
from pneumonia.runs.names import METRICS_FILE
from pneumonia.runtime.atomic import new_folder, write_json
from pneumonia.runtime.errors import ArtefactError, ConfigError, PruneError
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.spec import NetworkSpec
from pneumonia.training.config import TrainRecipe
from pneumonia.training.detection import DetectionTask
from pneumonia.training.task import Task

MIN_ZEROS = 0.02  # share of exact zeros from which a weight counts as pruned


class QuantizeResult(NamedTuple):
    """What a quantization came to.

    Attributes:
        metrics_before: Validation of the parent.
        metrics_after: Validation of the quantized network.
        bits: Layer -> bits of one stored weight.
        bytes_before: Of the parent's weights file.
        bytes_after: Of the quantized one.
    """

    metrics_before: dict[str, float]
    metrics_after: dict[str, float]
    bits: dict[str, int]
    bytes_before: int
    bytes_after: int


def run_quantize(
    run: Path,
    recipe: QuantizeRecipe,
    out: Path,
    dataset: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Quantize a detector by the recipe's ladder and write a run folder.

    Args:
        run: Run folder of `train`, `prune` or `quantize`.
        recipe: The ladder and its training.
        out: Run folder to write.
        dataset: None = the dataset the run was trained on.
        resume: Go on with an interrupted quantization.
        progress: See `training.loop.fit`.

    Raises:
        ConfigError: No layer matches, or no dataset is known.
        ArtefactError: The run is not one, or not complete.
        OutputError: `out` holds a finished run.
    """
    parent, folder = RunFolder(run), RunFolder(out)
    if folder.best.exists():
        folder.refuse_overwrite("Choose another folder")
    if not resume:
        folder.refuse_overwrite()
    parent.checkpoint()
    training = parent.training_recipe(TrainRecipe)
    data = open_dataset(dataset or parent.dataset_path())
    record = new_record(
        "quantize",
        recipe.seed,
        data.reference(),
        str(run.resolve()),
        training=training.model_dump(mode="json"),
        trained_weights=parent.trained_weights(),
    )
    with folder.recorded(record, recipe):
        config = _config(training, recipe)
        return _quantize(run, data, config, recipe, out, resume, progress)


def _config(training: TrainRecipe, recipe: QuantizeRecipe) -> TrainRecipe:
    """The parent's training with this recipe's learning rate; no average, which lags behind."""
    optimiser = training.optimiser.model_copy(update={"learning_rate": recipe.learning_rate})
    images = recipe.epochs_images or training.data.images_per_epoch
    return training.model_copy(
        update={
            "seed": recipe.seed,
            "ema_decay": 0.0,
            "early_stop": 0,
            "optimiser": optimiser,
            "data": training.data.model_copy(update={"images_per_epoch": images}),
        }
    )


def _quantize(
    run: Path,
    data: Dataset,
    config: TrainRecipe,
    recipe: QuantizeRecipe,
    out: Path,
    resume: bool,
    progress: Progress | None,
) -> QuantizeResult:
    """All rungs, the final model and its report."""
    folder, levelled = RunFolder(run).checkpoint(), level_zeros(run)
    spec, tensors = load_model(folder)
    task: Task = DetectionTask(data, spec, config)
    network = Network(spec)
    network.load_tensors(tensors)
    before = task.evaluate(network)
    if recipe.distil > 0:
        task = Teacher(task, network, recipe.distil)
    masks = {n: m for n, m in pruned_masks(network).items() if n not in levelled}
    names = selected(spec, recipe)
    scales: dict[str, float] = {}
    levels: dict[str, Levels] = {}
    for number, rung_name in enumerate(recipe.ladder):
        states = recipe.device_levels
        levels = {name: levels_of(rung_name, name in masks, states) for name in names}
        rung = Rung(
            levels,
            masks,
            recipe.rho,
            recipe.penalty == "proximal",
            recipe.admm_epochs,
            recipe.fixed,
            recipe.snap_epochs,
            recipe.batch_norm_batches,
        )
        stage = RunFolder(out).stages / f"{number + 1}-{rung_name}"
        scales = quantize_stage(network, task, config, rung, stage, resume, progress)
    _check_levels(network, levels, scales)
    after = task.evaluate(network)
    stored = _save(network, out, after, task)
    result = QuantizeResult(
        before,
        after,
        {layer.name: layer.storage.bits for layer in stored.weighted()},
        _size(folder),
        _size(RunFolder(out).best),
    )
    _write_report(out, recipe, result, levels, scales, frozenset(masks))
    return result


def _check_levels(
    network: Network, levels: Mapping[str, Levels], scales: Mapping[str, float]
) -> None:
    for name, chosen in levels.items():
        if not on_levels(network.weights()[name].detach(), chosen, scales[name]):
            raise PruneError("Weights are not on their levels", where=f"layer {name!r}")


def selected(spec: NetworkSpec, recipe: QuantizeRecipe) -> list[str]:
    """Layers to quantize, in execution order.

    Raises:
        ConfigError: None matches; names what there is.
    """
    names = [
        layer.name
        for layer in spec.weighted()
        if any(fnmatchcase(layer.name, glob) for glob in recipe.layers)
        and not any(fnmatchcase(layer.name, glob) for glob in recipe.exclude)
    ]
    if not names:
        raise ConfigError(
            "No layer matches the recipe",
            expected="globs of " + ", ".join(layer.name for layer in spec.weighted()),
            found=", ".join(recipe.layers),
            where="layers",
        )
    return names


def level_zeros(run: Path) -> frozenset[str]:
    """Layers of an earlier quantization whose zeros are a level, not pruned places."""
    if RunFolder(run).record().get("kind") != "quantize":
        return frozenset()
    try:
        return frozenset(
            row["name"] for row in read_compression(run)["layers"] if not row["pruned"]
        )
    except (ArtefactError, KeyError, TypeError):
        raise ArtefactError(
            "Report of the quantized run cannot be read", expected="its layers", where=str(run),
            fix="Give the folder as `quantize` wrote it",
        ) from None  # fmt: skip


def pruned_masks(network: Network) -> dict[str, Tensor]:
    """Masks of the weights that hold zeros an earlier pruning put there."""
    found = {name: weight.detach() != 0 for name, weight in network.weights().items()}
    return {
        name: mask for name, mask in found.items() if float((~mask).float().mean()) >= MIN_ZEROS
    }


def _save(network: Network, out: Path, metrics: Mapping[str, float], task: Task) -> NetworkSpec:
    tensors = {name: tensor.detach().clone() for name, tensor in network.tensors().items()}
    with new_folder(str(RunFolder(out).best)) as part:
        spec = save_model(Path(part), smallest_storage(network.spec, tensors), tensors)
        write_json(str(Path(part) / METRICS_FILE), {"metrics": _finite(metrics)})
        task.save(Path(part))
    return spec


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON can hold them."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _size(folder: Path) -> int:
    return (folder / "weights.safetensors").stat().st_size


def _write_report(
    out: Path,
    recipe: QuantizeRecipe,
    result: QuantizeResult,
    levels: Mapping[str, Levels],
    scales: Mapping[str, float],
    pruned: frozenset[str],
) -> None:
    """compression.json: levels, scale and whether every weight is on one, layer by layer."""
    _, tensors = load_model(RunFolder(out).best)
    layers = []
    for name, chosen in levels.items():
        weight = tensors[f"{name}.weight"]
        layers.append({
            "name": name, "bits": result.bits[name], "n_levels": len(chosen.values),
            "scale": scales[name], "kept": int(torch.count_nonzero(weight)),
            "weights": weight.numel(), "pruned": name in pruned,
        })  # fmt: skip
    write_compression(
        out,
        {
            "method": "quantize",
            "ladder": list(recipe.ladder),
            "metrics_before": _finite(result.metrics_before),
            "metrics_after": _finite(result.metrics_after),
            "file_bytes_before": result.bytes_before,
            "file_bytes_after": result.bytes_after,
            "layers": layers,
        },
    )
