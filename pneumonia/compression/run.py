"""One compression run: from a run folder and a recipe to a pruned or quantized run folder."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from data_prep.dataset.reader import Dataset, open_dataset
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.distil import Teacher
from pneumonia.compression.phase import Trainer
from pneumonia.compression.prune.pipeline import prune_network
from pneumonia.compression.prune.recipe import PruneRecipe, pruned_training
from pneumonia.compression.quantize.pipeline import quantize_network
from pneumonia.compression.quantize.recipe import QuantizeRecipe, quantized_training
from pneumonia.compression.report.history import write_history
from pneumonia.compression.result import (
    CompressedNetwork,
    CompressionJob,
    CompressionResult,
    report_of,
)
from pneumonia.network.accounting import account
from pneumonia.network.files import WEIGHTS_FILE, load_model, read_spec
from pneumonia.network.module import Network
from pneumonia.runs.compression import write_compression
from pneumonia.runs.folder import RunFolder, new_record, refuse_other_recipe
from pneumonia.runtime.progress import Progress
from pneumonia.training import distributed
from pneumonia.training.checkpoint import save_best
from pneumonia.training.config import TrainRecipe
from pneumonia.training.detector.task import DetectionTask
from pneumonia.training.task import Task

log = logging.getLogger(__name__)

Compress = Callable[[CompressionJob], CompressedNetwork]


def run_compression(
    run: Path,
    recipe: PruneRecipe | QuantizeRecipe,
    out: Path,
    dataset: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> CompressionResult:
    """Prune or quantize the detector of a run folder; under torchrun every process calls this.

    Args:
        run: Run folder of `train` or of an earlier compression.
        recipe: The whole run; rates are over the weights of the run's network.
        out: Run folder to write (docs/architecture.md): stages/ with what resume needs, best/ with
            the compressed network, compression.json, metrics.csv, residuals.csv and .png.
        dataset: Dataset folder; None = the one the run was made with.
        resume: Go on with an interrupted compression.
        progress: Called with (done, total, note).

    Raises:
        PruneError: The recipe does not fit the network, or its rate is out of reach.
        ConfigError, DataError: No layer matches; the dataset does not exist or is not usable.
        ArtefactError: The run is damaged, or `resume` does not fit what is in `out`.
        OutputError: `out` holds a run already.
    """
    if isinstance(recipe, PruneRecipe):
        kind, training_of = "prune", partial(pruned_training, recipe=recipe)
        compress: Compress = partial(prune_network, recipe=recipe)
    else:
        kind, training_of = "quantize", partial(quantized_training, recipe=recipe)
        compress = partial(quantize_network, recipe=recipe)
    with distributed.process_group():
        parent, folder = RunFolder(run), RunFolder(out)
        checkpoint = parent.checkpoint()
        training = training_of(parent.training_recipe(TrainRecipe))
        data = open_dataset(dataset or parent.dataset_path())
        _warn_of_another_dataset(parent, data)
        task = DetectionTask(data, read_spec(checkpoint), training)
        record = new_record(
            kind,
            training.seed,
            data.reference(),
            str(run.resolve()),
            training=training.model_dump(mode="json"),
            trained_weights=parent.trained_weights(),
        )
        if folder.best.exists():
            folder.refuse_overwrite("Choose another folder")
        if not resume:
            folder.refuse_overwrite()
        elif folder.record_file.is_file():
            record = folder.resumed_record(record)
            fix = f"Resume with --recipe {folder.config_file}"
            refuse_other_recipe(folder.config(), recipe, folder.config_file, fix=fix)
        trainer = Trainer(_taught(task, parent, recipe), resume, progress)
        with folder.recorded(record, recipe, writes=distributed.is_first()):
            spec, tensors = load_model(checkpoint)
            before = account(spec, tensors)
            job = CompressionJob(parent, spec, tensors, before, trainer, training, folder)
            return _compressed(job, compress, (checkpoint / WEIGHTS_FILE).stat().st_size)


def _compressed(job: CompressionJob, compress: Compress, bytes_before: int) -> CompressionResult:
    """Compress, validate before and after, and write what the run folder holds."""
    task, first = job.trainer.task, distributed.is_first()
    metrics_before = task.evaluate(Network(job.spec, job.tensors)) if first else {}
    made = compress(job)
    network = Network(made.spec, made.tensors)
    metrics_after = task.evaluate(network) if first else {}
    if first:
        write_history(job.out.path, made.stages)
        save_best(job.out.path, network, made.epochs, metrics_after, task.save)
    distributed.total(0.0, next(network.parameters()).device)  # until the first has written
    result = CompressionResult(
        job.before,
        account(made.spec, made.tensors),
        metrics_before,
        metrics_after,
        bytes_before,
        (job.out.best / WEIGHTS_FILE).stat().st_size,
        tuple(ChannelGraph(job.spec).protected_layers()),
        {layer.name: layer.storage.bits for layer in read_spec(job.out.best).weighted()},
    )
    if first:
        write_compression(job.out.path, report_of(result, made))
    return result


def _warn_of_another_dataset(parent: RunFolder, data: Dataset) -> None:
    """Warn if the dataset is not the parent's: training images may be validated on."""
    recorded = parent.record().get("dataset")
    before = recorded.get("fingerprint") if isinstance(recorded, dict) else None
    if before != data.fingerprint and distributed.is_first():
        log.warning(
            "%s is not the dataset of %s: its validation images may be the run's training images, "
            "and the metrics then too good",
            data.folder,
            parent.path,
        )


def _taught(task: Task, parent: RunFolder, recipe: PruneRecipe | QuantizeRecipe) -> Task:
    """The task, with the recipe's teacher if it has one."""
    if not recipe.distil:
        return task
    source = parent.trained_run() if recipe.teacher == "trained" else parent
    return Teacher(task, Network(*load_model(source.checkpoint())), recipe.distil)
