"""The detection task: radiographs with boxes."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep.augment.augmenter import Augmenter
from data_prep.augment.composite import Compositor
from data_prep.dataset.reader import Dataset
from pneumonia.network.module import Network
from pneumonia.runtime.detection.heads import class_outputs, image_outputs
from pneumonia.runtime.errors import TrainingError
from pneumonia.runtime.image.preprocess import normalise
from pneumonia.runtime.label_table import LUNG_OPACITY
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.training.config import DataConfig, TrainRecipe
from pneumonia.training.detector.loss import DetectionLoss, LossCounts
from pneumonia.training.detector.sampling import BalancedPlan
from pneumonia.training.detector.targets import FIRST_IMAGE_CLASS, IMAGE_CLASSES, UNBOXED
from pneumonia.training.detector.validation import DetectionValidation
from pneumonia.training.task import EpochSample, TrainingBatch


def labelled_items(dataset: Dataset, split: str, config: DataConfig) -> list[int]:
    """Labelled images of a split and of the recipe's kinds.

    Raises:
        TrainingError: There is none, or none with a box.
    """
    kinds = sorted(config.kinds) or None
    items = dataset.select(split, kinds)
    there = sorted({record.kind for record in dataset.records})
    if not items:
        raise TrainingError(
            f"No labelled {split} image",
            expected="images of kind " + ", ".join(kinds or there),
            found=f"a dataset of {len(dataset)} images of kind " + ", ".join(there),
            where=str(dataset.folder),
            fix="Look at `pneumonia data audit`, and at data.kinds of the recipe",
        )
    if not any(len(dataset.boxes(i)) for i in items):
        raise TrainingError(
            f"No {split} image has a box",
            expected="positives and negatives",
            found=f"{len(items)} images, all negative",
            where=str(dataset.folder),
            fix="Were the labels of other images imported? Look at `pneumonia data audit`",
        )
    return items


def unboxed_items(dataset: Dataset, config: DataConfig) -> list[int]:
    """Training images that are positive by their report but have no annotated boxes."""
    items = dataset.select("train", sorted(config.kinds) or None, include_unlabelled=True)
    found = ((i, dataset.records[i]) for i in items)
    return [i for i, record in found if record.weak_opacity == "yes" and not record.labelled]


class DetectionTask:
    """Balanced, augmented training batches; the detection loss; RSNA score, AP and AUROC.

    Args:
        spec: The network; one class.

    Raises:
        TrainingError: Images or boxes are missing in training or validation, the network has no
            detection head, more than one class, or an input that is not square.
    """

    def __init__(self, dataset: Dataset, spec: NetworkSpec, recipe: TrainRecipe) -> None:
        _check_network(spec)
        self.dataset = dataset
        self.spec = spec
        items = labelled_items(dataset, "train", recipe.data)
        # Only an image-level output can learn from an opacity without a box.
        self.unboxed = set(unboxed_items(dataset, recipe.data) if image_outputs(spec) else ())
        self.learns_class = bool(class_outputs(spec))
        positive = {i for i in items if len(dataset.boxes(i))} | self.unboxed
        self.composite = Compositor(dataset, items, recipe.data.composite)
        items = sorted({*items, *self.unboxed})
        weight = _repeats(dataset, items, recipe.data)
        self.order = BalancedPlan(
            [i for i in items if i in positive for _ in range(weight[i])],
            [i for i in items if i not in positive for _ in range(weight[i])],
            recipe.data.positive_fraction,
            recipe.data.images_per_epoch,
        )
        self.augment = Augmenter(spec.input.height, recipe.augment)
        self.criterion = DetectionLoss(spec, recipe.loss)
        self.counts: LossCounts | None = None  # of the optimiser step's whole batch
        val_items = labelled_items(dataset, "val", recipe.data)
        checked = recipe.validation
        _check_kinds(dataset, val_items, (*checked.kinds, *checked.threshold_kinds))
        self.validation = DetectionValidation(dataset, val_items, recipe.validation)

    def plan(self, epoch: int, seed: int) -> list[EpochSample]:
        """As many positives and negatives as the recipe says, in random order."""
        return self.order.epoch(epoch, seed)

    def load(self, samples: Sequence[EpochSample]) -> TrainingBatch:
        """Augment and normalise; targets are (n, 6): image, class, x1, y1, x2, y2.

        An image whose opacities have no boxes has one row of class UNBOXED, and if the network
        learns classes of whole images, an image of known class has a row for it.
        """
        images, rows = [], []
        for number, sample in enumerate(samples):
            pixels, boxes = self.composite(sample.item, sample.seed)
            pixels, boxes = self.augment(pixels, boxes, sample.seed)
            images.append(normalise(pixels, self.spec.input))
            rows += [(number, 0, *box) for box in boxes.tolist()]
            if sample.item in self.unboxed:
                rows.append((number, UNBOXED, 0, 0, 0, 0))
            if self.learns_class and (known := self._class_of(sample.item, len(boxes) > 0)):
                rows.append((number, FIRST_IMAGE_CLASS - IMAGE_CLASSES.index(known), 0, 0, 0, 0))
        return TrainingBatch(
            torch.from_numpy(np.stack(images)),
            torch.tensor(rows, dtype=torch.float32).reshape(-1, 6),
            tuple(self.dataset.records[sample.item].image_id for sample in samples),
        )

    def _class_of(self, item: int, has_boxes: bool) -> str | None:
        """Class of an augmented image; None when unknown, or when its opacities were cut away."""
        name = self.dataset.records[item].class_name
        if name not in IMAGE_CLASSES or (name == LUNG_OPACITY and not has_boxes):
            return None
        return name

    def prepare(self, parts: Sequence[TrainingBatch]) -> None:
        """Count over all parts; a batch of one part counts itself."""
        self.counts = None
        if len(parts) > 1:
            self.counts = self.criterion.counts([(x.targets, len(x.images)) for x in parts])

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The weighted parts of `DetectionLoss`, divided by the counts of the whole step."""
        return self.criterion(outputs, targets, self.counts)

    def imitation(
        self,
        outputs: dict[str, Tensor],
        teacher: dict[str, Tensor],
        batch: Sequence[dict[str, Tensor]] = (),
    ) -> Tensor:
        """Objectness and boxes compared with the teacher's."""
        return self.criterion.imitation(outputs, teacher, batch)

    def evaluate(self, network: Network) -> dict[str, float]:
        """RSNA score, AP and AUROC of the validation images; see `DetectionValidation`."""
        return self.validation.evaluate(network)

    def save(self, out: Path) -> None:
        """Write predictions and thresholds of the last evaluation."""
        self.validation.save(out)


def _repeats(dataset: Dataset, items: Sequence[int], config: DataConfig) -> dict[int, int]:
    """How often each image counts in an epoch."""
    records = dataset.records
    kinds = {records[i].kind for i in items}
    # Only ratios matter: a recipe that shows whole radiographs eight times as often as masked ones
    # must not make an epoch eight times as long where there are no masked ones.
    common = math.gcd(*(config.kinds.get(kind, 1) for kind in kinds))
    return {
        i: config.kinds.get(records[i].kind, 1)
        // common
        * config.classes.get(records[i].class_name, 1)
        for i in items
    }


def _check_network(spec: NetworkSpec) -> None:
    heads = [head for head in spec.detect_layers() if head.name in spec.outputs]
    if not heads or any(head.n_classes != 1 for head in heads):
        raise TrainingError(
            "Network is not a one-class detector",
            expected="detection heads of one class among the outputs",
            found=f"{len(heads)} heads of {[head.n_classes for head in heads]} classes",
            where=f"network {spec.name!r}",
        )
    if spec.input.height != spec.input.width:
        raise TrainingError(
            "Training needs a square input", found=f"{spec.input.height} x {spec.input.width}"
        )


def _check_kinds(dataset: Dataset, items: Sequence[int], kinds: Sequence[str]) -> None:
    there = {dataset.records[i].kind for i in items if len(dataset.boxes(i))}
    missing = sorted(set(kinds) - there)
    if missing:
        raise TrainingError(
            "Recipe validates on a kind without positive validation images",
            expected="of " + ", ".join(sorted(there)),
            found=repr(missing[0]),
            where=f"validation.kinds or threshold_kinds, {dataset.folder}",
        )
