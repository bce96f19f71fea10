"""One run from another: from a run folder and a recipe to the compressed or fine-tuned one."""

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.dataset.reader import Dataset, open_dataset
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.distil import Teacher
from pneumonia.compression.phase import Trainer, wait_for_first
from pneumonia.compression.prune.finetune import finetune_network
from pneumonia.compression.prune.pipeline import prune_network
from pneumonia.compression.prune.recipe import FineTuneRecipe, PruneRecipe, pruned_training
from pneumonia.compression.quantize.pipeline import quantize_network
from pneumonia.compression.quantize.recipe import QuantizeRecipe, quantized_training
from pneumonia.compression.report.history import write_history
from pneumonia.compression.result import (
    CompressedNetwork,
    CompressionJob,
    CompressionResult,
    report_of,
)
from pneumonia.network.accounting import NetworkAccount, account
from pneumonia.network.batch_norm import folded_layers, unfold_batch_norm
from pneumonia.network.files import load_model, read_spec
from pneumonia.network.module import Network
from pneumonia.runs.compression import read_compression, write_compression
from pneumonia.runs.folder import RunFolder, new_record
from pneumonia.runs.stored_recipe import refuse_other_recipe
from pneumonia.runtime.errors import ConfigError, DataError, PneumoniaError
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.storage.bundle import WEIGHTS
from pneumonia.training import distributed
from pneumonia.training.checkpoint import save_best
from pneumonia.training.config import TrainRecipe
from pneumonia.training.detector.task import DetectionTask
from pneumonia.training.run import finds_nothing
from pneumonia.training.task import TrainingTask, training_images
from pneumonia.training.threads import use_threads

log = logging.getLogger(__name__)

Recipe = PruneRecipe | QuantizeRecipe | FineTuneRecipe
Compress = Callable[[CompressionJob], CompressedNetwork]

# Recipe -> kind of run, training settings of its phases, and what it does to a network.
PROCEDURES: dict[type[Recipe], tuple[str, Callable[..., TrainRecipe], Callable[..., Any]]] = {
    PruneRecipe: ("prune", pruned_training, prune_network),
    QuantizeRecipe: ("quantize", quantized_training, quantize_network),
    FineTuneRecipe: ("finetune", pruned_training, finetune_network),
}


def run_compression(
    run: Path,
    recipe: Recipe,
    out: Path,
    dataset: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    accept_seen: bool = False,
) -> CompressionResult:
    """Prune, quantize or fine-tune the detector of a run; under torchrun every process calls this.

    Args:
        run: Run folder of `train` or of an earlier compression, or an exported bundle, whose
            batch norms are put back (`network.batch_norm`).
        recipe: The whole run; rates are over the weights of the run's network.
        out: Run folder to write (docs/architecture.md): stages/ with what resume needs, best/ with
            the compressed network, compression.json, metrics.csv, residuals.csv and .png.
        dataset: Dataset folder; None = the one the run was made with.
        resume: Go on with an interrupted compression; of a finished one give the result again.
        accept_seen: Take another dataset even if it validates on images, or on patients, that the
            run was trained on; metrics and thresholds are then too good.

    Raises:
        PruneError: The recipe does not fit the network, or its rate is out of reach.
        ConfigError, DataError: No layer matches; the dataset does not exist, is not usable, or
            validates on images that the run was trained on.
        ArtefactError: The run is damaged, or `resume` does not fit what is in `out`.
        OutputError: `out` holds a run already, or lies in the dataset.
    """
    kind, training_of, compress = PROCEDURES[type(recipe)]
    with distributed.process_group():
        parent, folder = RunFolder(run), RunFolder(out)
        checkpoint = parent.checkpoint()
        training = training_of(parent.training_recipe(TrainRecipe), recipe)
        data = open_dataset(dataset or parent.dataset_path())
        folder.refuse_inside(data.folder)
        folder.refuse_other_files()
        check_dataset(parent, data, accept_seen)
        training = limit_to_available_kinds(training, data)
        task = DetectionTask(data, read_spec(checkpoint), training)
        record = new_record(
            kind,
            training.seed,
            data.reference(),
            str(run.resolve()),
            training=training.model_dump(mode="json"),
            trained_weights=parent.trained_weights(),
            threads=use_threads(training.threads),
        )
        if not resume:
            folder.refuse_overwrite()
        elif folder.record_file.is_file():
            record = folder.resumed_record(record)
            fix = f"Resume with the recipe {folder.config_file}"
            refuse_other_recipe(
                folder.config(), recipe, folder.config_file, frozenset({"threads"}), fix
            )
            if folder.record().get("status") == "done":
                return _finished(checkpoint, folder)
        trainer = Trainer(_add_teacher(task, parent, recipe), resume, progress)
        with folder.recorded(record, recipe, writes=distributed.is_first()):
            spec, tensors = load_model(checkpoint)
            if parent.is_bundle():
                images = training_images(task, training.seed, training.batch_size)
                spec, tensors = unfold_batch_norm(spec, tensors, folded_layers(spec), images)
            before = account(spec, tensors)
            job = CompressionJob(parent, spec, tensors, before, trainer, training, folder)
            return _compressed(
                job, partial(compress, recipe=recipe), (checkpoint / WEIGHTS).stat().st_size
            )


def _compressed(job: CompressionJob, compress: Compress, bytes_before: int) -> CompressionResult:
    """Compress, validate before and after, and write what the run folder holds."""
    task, first = job.trainer.task, distributed.is_first()
    metrics_before = task.evaluate(Network(job.spec, job.tensors)) if first else {}
    made = compress(job)
    network = Network(made.spec, made.tensors)
    metrics_after = task.evaluate(network) if first else {}
    warning = lost_warning(metrics_before, metrics_after)
    if warning is not None:
        log.warning("%s", warning)
    if first:
        write_history(job.out.path, made.stages)
        save_best(job.out.path, network, made.epochs, metrics_after, task.save)
    wait_for_first(network)
    result = _result(job.spec, job.before, bytes_before, job.out, metrics_before, metrics_after)
    if first:
        write_compression(job.out.path, report_of(result, made))
    return result


def limit_to_available_kinds(training: TrainRecipe, data: Dataset) -> TrainRecipe:
    """A training recipe with those of its kinds of image that a dataset has.

    Where it has none of them, all of its images count alike.
    """
    there = {record.kind for record in data.records if record.split == "train"}
    positive = {
        r.kind for i, r in enumerate(data.records) if r.split == "val" and len(data.boxes(i))
    }
    kinds = {kind: count for kind, count in training.data.kinds.items() if kind in there}
    validation = training.validation
    checked = {
        key: tuple(kind for kind in getattr(validation, key) if kind in positive)
        for key in ("kinds", "threshold_kinds")
    }
    return training.model_copy(
        update={
            "data": training.data.model_copy(update={"kinds": kinds}),
            "validation": validation.model_copy(update=checked),
        }
    )


def lost_warning(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """A warning that the compressed network finds nothing in validation; None if it does.

    Args:
        before: Validation metrics of the network that was compressed.
        after: Of the compressed one.
    """
    score = after.get("rsna")
    if score is None or not finds_nothing(score, after.get("auroc")):
        return None
    found = f"RSNA score {score:.4f}, AUROC {after.get('auroc', math.nan):.4f}"
    if finds_nothing(before.get("rsna", 0.0), before.get("auroc")):
        return (
            f"The network finds nothing on the validation images ({found}), as before it was"
            " compressed: train it further first"
        )
    return (
        f"The compressed network finds nothing on the validation images ({found}; before RSNA score"
        f" {before['rsna']:.4f}): too much was removed at once. Go in smaller steps (a lower rate"
        " and then again from its run, or more bits), or train longer (admm and retraining epochs)"
    )


def _finished(checkpoint: Path, folder: RunFolder) -> CompressionResult:
    """The result of a compression that is over, from what it left."""
    spec, tensors = load_model(checkpoint)
    report = read_compression(folder.path)
    metrics = [
        {name: math.nan if value is None else value for name, value in report.get(key, {}).items()}
        for key in ("metrics_before", "metrics_after")
    ]
    n_bytes = (checkpoint / WEIGHTS).stat().st_size
    return _result(spec, account(spec, tensors), n_bytes, folder, *metrics)


def _result(
    spec: NetworkSpec,
    before: NetworkAccount,
    bytes_before: int,
    folder: RunFolder,
    metrics_before: dict[str, float],
    metrics_after: dict[str, float],
) -> CompressionResult:
    """A network before its compression beside the one in `folder`."""
    small, kept = load_model(folder.best)
    return CompressionResult(
        before,
        account(small, kept),
        metrics_before,
        metrics_after,
        bytes_before,
        (folder.best / WEIGHTS).stat().st_size,
        tuple(ChannelGraph(spec).protected_layers()),
        {layer.name: layer.storage.bits for layer in small.weighted()},
    )


def check_dataset(parent: RunFolder, data: Dataset, accept_seen: bool = False) -> None:
    """Refuse a dataset that validates on what the run was trained on; warn of any other.

    Raises:
        DataError: Images, or images of patients, of the run's training split are in the validation
            split of another dataset.
    """
    recorded = parent.record().get("dataset")
    before = recorded if isinstance(recorded, dict) else {}
    if before.get("fingerprint") == data.fingerprint:
        return
    seen = _seen_images(Path(str(before.get("path", ""))), data)
    if seen and not accept_seen:
        raise DataError(
            "Dataset validates on images that the run was trained on",
            expected=f"the dataset of the run, {before.get('path')}, or the same split",
            found=f"{seen} such validation images (the same image or patient)",
            where=str(data.folder),
            fix="Use that dataset, or accept too good metrics with accept_seen (--accept-seen)",
        )
    if distributed.is_first():
        log.warning(
            "%s is not the dataset of %s: %s",
            data.folder,
            parent.path,
            f"{seen} validation images were seen in training, and the metrics are too good"
            if seen
            else "its validation images may be the run's training images, and the metrics too good",
        )


def _seen_images(folder: Path, data: Dataset) -> int:
    """Validation images whose image or patient is in the training split of another dataset.

    Zero when that dataset cannot be opened any more.
    """
    try:
        other = open_dataset(folder)
    except PneumoniaError:
        return 0
    trained = [record for record in other.records if record.split == "train"]
    images = {record.image_id for record in trained}
    patients = {record.patient_id for record in trained if record.patient_id}
    return sum(
        record.split == "val" and (record.image_id in images or record.patient_id in patients)
        for record in data.records
    )


def _add_teacher(task: TrainingTask, parent: RunFolder, recipe: Recipe) -> TrainingTask:
    """The task, with the recipe's teacher if it has one."""
    if not recipe.distil:
        return task
    if recipe.teacher == "trained":
        source = parent.trained_run()
    else:
        source = parent if recipe.teacher == "parent" else RunFolder(Path(recipe.teacher))
    teacher = Network(*load_model(source.checkpoint()))
    wanted, found = _heads(read_spec(parent.checkpoint())), _heads(teacher.spec)
    if wanted != found:
        raise ConfigError(
            "Teacher does not fit the network",
            expected=f"input and detection heads of {parent.path}",
            found=_difference(wanted, found),
            where=str(source.path),
            fix="Name another teacher, or learn without one (distil: 0)",
        )
    return Teacher(task, teacher, recipe.distil)


def _heads(spec: NetworkSpec) -> dict[str, Any]:
    """What outputs must share to be compared: name -> setting."""
    heads = {f"head {head.name}": head._replace(inputs=()) for head in spec.detect_layers()}
    return {"input": spec.input, **heads}


def _difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    other = next(key for key in {**wanted, **found} if wanted.get(key) != found.get(key))
    return f"{other}: {found.get(other, 'none')}"
