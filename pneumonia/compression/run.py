"""One pruning run: from a run folder and a recipe to a pruned run folder."""

from pathlib import Path

from data_prep.dataset.reader import open_dataset
from pneumonia.compression.distil import Teacher
from pneumonia.compression.pipeline import PruneResult, prune_model
from pneumonia.compression.recipe import PruneRecipe, detector_training
from pneumonia.network.files import load_model, read_spec
from pneumonia.network.module import Network
from pneumonia.runs.folder import RunFolder, new_record, refuse_other_recipe
from pneumonia.runtime.progress import Progress
from pneumonia.training import distributed
from pneumonia.training.config import TrainRecipe
from pneumonia.training.detection import DetectionTask
from pneumonia.training.task import Task


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
        parent, folder = RunFolder(run), RunFolder(out)
        training = detector_training(parent.training_recipe(TrainRecipe), recipe)
        data = open_dataset(dataset or parent.dataset_path())
        model = parent.checkpoint()
        task = _taught(DetectionTask(data, read_spec(model), training), parent, recipe)
        record = new_record(
            "prune",
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
            refuse_other_recipe(folder.record()["training"], training, folder.record_file)
        with folder.recorded(record, recipe, writes=distributed.is_first()):
            return prune_model(model, task, training, recipe, out, resume, progress)


def _taught(task: Task, parent: RunFolder, recipe: PruneRecipe) -> Task:
    """The task, with the recipe's teacher if it has one."""
    if not recipe.distil:
        return task
    source = parent.trained_run() if recipe.teacher == "trained" else parent
    spec, tensors = load_model(source.checkpoint())
    return Teacher(task, Network(spec, tensors), recipe.distil)
