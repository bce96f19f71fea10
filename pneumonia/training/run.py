"""One training run of a detector, from a dataset folder and a recipe to a run folder."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.reader import Dataset, open_dataset
from pneumonia.network.anchors import kmeans_anchors
from pneumonia.network.batch_norm import folded_layers, unfold_batch_norm
from pneumonia.network.darknet import read_darknet
from pneumonia.network.files import load_model
from pneumonia.network.image_head import add_image_head
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import ZOO, build
from pneumonia.runs.folder import RunFolder, new_record
from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.progress import Progress
from pneumonia.training import distributed
from pneumonia.training.config import TrainRecipe
from pneumonia.training.detector.targets import IMAGE_CLASSES
from pneumonia.training.detector.task import DetectionTask, labelled_items
from pneumonia.training.journal import read_metrics
from pneumonia.training.loop import FitResult, check_run_folder, fit
from pneumonia.training.task import training_images
from pneumonia.training.threads import use_threads

log = logging.getLogger(__name__)

NO_ORDER = 0.5  # AUROC of scores that say nothing


def run_train(
    dataset_path: Path,
    recipe: TrainRecipe,
    out: Path,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a detector; under torchrun every process calls this.

    Args:
        resume: Go on with an interrupted run, or with one whose `epochs` grew.

    Raises:
        DataError: The dataset cannot be read.
        ConfigError: The recipe does not fit the zoo.
        TrainingError, ArtefactError, OutputError: See `training.loop.fit`.
    """
    with distributed.process_group():
        threads = use_threads(recipe.threads)
        RunFolder(out).refuse_inside(dataset_path)
        RunFolder(out).refuse_other_files()
        check_run_folder(out, recipe, resume)
        dataset = open_dataset(dataset_path)
        run = RunFolder(out)
        record = new_record(
            "train",
            recipe.seed,
            dataset.reference(),
            recipe.model.start_from,
            threads=threads,
            processes=distributed.world_size(),
        )
        if resume:
            record = run.resumed_record(record)
        spec = make_spec(dataset, recipe)
        task = DetectionTask(dataset, spec, recipe)
        images = training_images(task, recipe.seed, recipe.batch_size)
        network = make_network(spec, recipe, images)
        with run.recorded(record, recipe, writes=distributed.is_first()) as added:
            result = fit(network, task, recipe, out, resume=resume, progress=progress)
            added["result"] = _result(result)
        warning = divergence_warning(read_metrics(run.metrics_table), recipe)
        if warning is not None and distributed.is_first():
            log.warning("%s", warning)
        return result


def finds_nothing(rsna: float, auroc: float | None) -> bool:
    """Whether a validation found no opacity: challenge score 0, or an AUROC of chance."""
    return rsna <= 0 or auroc == NO_ORDER


def divergence_warning(rows: Sequence[Mapping[str, float]], recipe: TrainRecipe) -> str | None:
    """A warning that the network finds nothing at the end of its training; None if it does.

    Args:
        rows: Of metrics.csv.

    Returns:
        One line. A last validation without a found opacity: the challenge score is 0, or positives
        and negatives have the same scores (AUROC 0.5, which is also that of no box at all).
    """
    validated = [row for row in rows if math.isfinite(row.get("val_rsna", math.nan))]
    if not validated:
        return None
    last = validated[-1]
    if not finds_nothing(last["val_rsna"], last.get("val_auroc")):
        return None
    best = max(row["val_rsna"] for row in validated)
    before = f"; the best epoch had {best:.4f}" if best > last["val_rsna"] else ""
    return (
        f"The network finds nothing after epoch {last['epoch']:.0f}: RSNA score"
        f" {last['val_rsna']:.4f}, AUROC {last.get('val_auroc', math.nan):.4f}{before}. If the"
        f" loss ({rows[0]['loss']:.4g} in the first epoch, {rows[-1]['loss']:.4g} in the last) did"
        f" not fall, the training diverged: lower optimiser.learning_rate"
        f" (now {recipe.optimiser.learning_rate:g}); else train longer"
    )


def make_spec(dataset: Dataset, recipe: TrainRecipe) -> NetworkSpec:
    """Network spec of a recipe; anchors are fitted to the training boxes if it sets this.

    Raises:
        ConfigError: No detector of that name, or a size it does not take.
        TrainingError, DataError: No box to fit anchors to, or too few.
    """
    model = recipe.model
    if model.name not in ZOO or not ZOO[model.name].n_heads:
        raise ConfigError(
            "No such detector",
            expected=", ".join(name for name, entry in ZOO.items() if entry.n_heads),
            found=repr(model.name),
            where="model.name",
        )
    anchors = None
    if model.anchors == "auto":
        sizes = training_box_sizes(dataset, recipe)
        fitted = kmeans_anchors(sizes, len(ZOO[model.name].anchors), recipe.seed)
        anchors = [(round(float(w), 2), round(float(h), 2)) for w, h in fitted]
    spec = build(
        model.name,
        width=model.width,
        channels=model.channels,
        size=model.size,
        n_classes=1,
        anchors=anchors,
    )
    if model.image_head:
        spec = add_image_head(spec)
    return add_image_head(spec, len(IMAGE_CLASSES)) if model.class_head else spec


def training_box_sizes(dataset: Dataset, recipe: TrainRecipe) -> np.ndarray[Any, Any]:
    """Width and height (n, 2) of the training boxes in pixels of the letterboxed input."""
    sizes = [np.zeros((0, 2))]
    for i in labelled_items(dataset, "train", recipe.data):
        boxes, record = dataset.boxes(i).astype(np.float64), dataset.records[i]
        scale = recipe.model.size / max(record.width, record.height)
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * scale)
    return np.concatenate(sizes)


def make_network(spec: NetworkSpec, recipe: TrainRecipe, images: Iterable[Tensor] = ()) -> Network:
    """The network with its first weights: random from the seed, or those of `model.start_from`.

    Args:
        images: Batches (N, C, H, W) of training images; needed where the start is a bundle,
            whose batch norms are folded.

    Raises:
        ArtefactError: The start's weights do not fit the network.
    """
    network = Network(spec)
    initialise(network, torch.Generator().manual_seed(recipe.seed))
    if recipe.model.start_from:
        start = Path(recipe.model.start_from)
        if start.is_file():
            tensors = dict(read_darknet(start, network.spec).tensors)
        else:
            loaded, tensors = load_model(RunFolder(start).checkpoint())
            own = network.tensors()
            layers = [name for name in folded_layers(loaded) if name + ".bn_mean" in own]
            if layers:
                tensors = unfold_batch_norm(loaded, tensors, layers, images)[1]
        _load_start(network, tensors, start)
    return network


def _load_start(network: Network, tensors: Mapping[str, Tensor], start: Path) -> None:
    """Copy in weights read from `start`; what they lack stays as initialised."""
    own = network.tensors()
    wrong = [
        name
        for name, tensor in tensors.items()
        if name not in own or own[name].shape != tensor.shape
    ]
    if wrong:
        raise ArtefactError(
            "Weights to start from are of another network",
            expected=f"{network.spec.name!r} of the recipe's width and channels",
            found=f"{len(wrong)} other tensors, first {wrong[0]!r}",
            where=str(start),
        )
    log.info("Start from %s: %d of %d tensors", start, len(tensors), len(own))
    network.load_tensors({**own, **tensors})


def _result(result: FitResult) -> dict[str, Any]:
    best = result.best_metric if math.isfinite(result.best_metric) else None
    return {"epochs": result.epochs, "best_epoch": result.best_epoch, "best_metric": best}
