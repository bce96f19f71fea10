"""One pruning run: from a run folder and a recipe to a pruned run folder."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from data_prep.dataset.reader import open_dataset
from pneumonia.compression.distil import Teacher
from pneumonia.compression.lineage import (
    CONFIG_FILE,
    RUN_FILE,
    dataset_path,
    run_record,
    trained_run,
    trained_weights,
    training_recipe,
)
from pneumonia.compression.pipeline import STAGES, PruneResult, prune_model
from pneumonia.compression.recipe import PruneRecipe, detector_training
from pneumonia.network.files import checkpoint_folder, load_model, read_spec
from pneumonia.network.module import Network
from pneumonia.runtime.atomic import write_json, write_text
from pneumonia.runtime.errors import ArtefactError, OutputError, PneumoniaError
from pneumonia.runtime.progress import Progress
from pneumonia.training import distributed
from pneumonia.training.checkpoint import BEST
from pneumonia.training.detection import DetectionTask
from pneumonia.training.task import Task

SCHEMA = "pneumonia.run/1"


def run_prune(
    run: Path,
    recipe: PruneRecipe,
    out: Path,
    dataset: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Prune the detector of a run folder; under torchrun every process calls this.

    Args:
        run: Run folder of `train` or of an earlier compression.
        recipe: The whole run; its `rate` is over the weights of the run's network.
        out: Run folder to write (docs/architecture.md): stages/ with what resume needs, best/ with
            the compacted network, compression.json, metrics.csv, residuals.csv and .png.
        dataset: Dataset folder; None = the one the run was made with.
        resume: Go on with an interrupted pruning.
        progress: Called with (done, total, note) of whatever is going on.

    Raises:
        PruneError: See `pipeline.prune_model`.
        ConfigError, DataError: The dataset is not there or not usable.
        ArtefactError: The run is damaged, or `resume` does not fit what is in `out`.
        OutputError: `out` holds a run already.
    """
    with distributed.process_group():
        training = detector_training(training_recipe(run), recipe)
        data = open_dataset(dataset or dataset_path(run))
        model = checkpoint_folder(run)
        task = _taught(DetectionTask(data, read_spec(model), training), run, recipe)
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": "prune",
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": training.seed,
            "dataset": data.reference(),
            "parent": str(run.resolve()),
            "versions": run_record(run).get("versions", {}),
            "training": training.model_dump(mode="json"),
            "trained_weights": trained_weights(run),
        }
        config = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        record = _check_out(out, record, config, resume)
        if distributed.is_first():
            write_text(str(out / CONFIG_FILE), config)
        _write_record(out, record, "running")
        try:
            result = prune_model(model, task, training, recipe, out, resume, progress)
        except KeyboardInterrupt:
            _write_record(out, record, "interrupted")
            raise
        except PneumoniaError as error:
            _write_record(out, {**record, "error": str(error)}, "failed")
            raise
        _write_record(out, record, "done")
        return result


def _taught(task: Task, run: Path, recipe: PruneRecipe) -> Task:
    """The task, with the recipe's teacher if it has one."""
    if not recipe.distil:
        return task
    source = trained_run(run) if recipe.teacher == "trained" else run
    spec, tensors = load_model(checkpoint_folder(source))
    return Teacher(task, Network(spec, tensors), recipe.distil)


def _write_record(out: Path, record: dict[str, Any], status: str) -> None:
    if distributed.is_first():
        write_json(str(out / RUN_FILE), {**record, "status": status})


def _identity(record: Mapping[str, Any], key: str) -> Any:
    """What a record's entry names, however its paths are written."""
    value = record.get(key)
    if key == "dataset" and isinstance(value, dict):
        return value.get("fingerprint")
    return Path(value).resolve() if key == "parent" and isinstance(value, str) else value


def _check_out(out: Path, record: dict[str, Any], config: str, resume: bool) -> dict[str, Any]:
    """Refuse to overwrite a run, or to resume another one; returns the record to write."""
    if (out / BEST).exists() or ((out / STAGES).exists() and not resume):
        raise OutputError(
            "Run folder holds a run already",
            where=str(out),
            fix="Choose another folder"
            + ("" if (out / BEST).exists() else ", or resume it (--resume)"),
        )
    if not resume or not (out / RUN_FILE).is_file():
        return record
    before = run_record(out)
    for key in ("kind", "parent", "dataset", "training"):
        if _identity(before, key) != _identity(record, key):
            raise ArtefactError(
                f"Interrupted run had another {key}",
                expected=repr(before.get(key))[:120],
                found=repr(record[key])[:120],
                where=str(out),
            )
    if (out / CONFIG_FILE).read_text(encoding="utf-8") != config:
        raise ArtefactError(
            "Recipe differs from the interrupted run's",
            where=str(out / CONFIG_FILE),
            fix=f"Resume with --recipe {out / CONFIG_FILE}",
        )
    return {**record, "started": before.get("started", record["started"])}
