"""Labels and predictions of the same images, in the same pixel frame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.matching import BoolArray, Float64Array, IntArray, order_boxes, order_truths
from evaluation.study.cohort import Cohort
from evaluation.study.labels import TruthLabels
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL
from pneumonia.runtime.model.predictions import Prediction

EDGE_PX = 1.0  # tolerance for boxes that reach over the frame through rounding


@dataclass(frozen=True)
class LabelCoverage:
    """Overlap of labels and predictions; counts are of images unless said otherwise."""

    n_labelled: int  # labelled images (of the subset, when one was named)
    n_scored: int  # images in the predictions file
    n_evaluated: int  # both labelled and scored
    n_missing: int  # labelled but not scored
    n_unlabelled: int  # scored but not labelled (or outside the subset): left out
    n_boxes: int  # predicted boxes on the evaluated images
    n_boxes_outside: int  # of these, boxes that reach outside their image; scored as given
    n_patients: int  # patients, or images when the patients are not known
    patients_known: bool  # whether every image's patient is known


@dataclass(frozen=True)
class EvaluationCases:
    """Evaluated images; all boxes are float64 xyxy in the labels' frame."""

    ids: tuple[str, ...]  # N image ids, in the labels' order
    truths: tuple[Float64Array, ...]  # per image (n, 4), in canonical order
    boxes: tuple[Float64Array, ...]  # per image (k, 4), in descending score
    scores: tuple[Float64Array, ...]  # per image (k,), descending
    sizes: IntArray  # (N, 2) width and height of the image as scored, pixels
    scales: Float64Array  # (N, 2) frame pixels per image pixel, in x and y
    patients: IntArray  # (N,) patient number
    cohort: Cohort  # attributes of the images
    coverage: LabelCoverage  # counts of labelled, scored and evaluated images

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def positive(self) -> BoolArray:
        """(N,) whether the image has a truth box."""
        return np.array([len(rows) > 0 for rows in self.truths], dtype=bool)

    @property
    def image_score(self) -> Float64Array:
        """(N,) highest box score, 0 for an image without boxes."""
        return np.array([rows[0] if len(rows) else 0.0 for rows in self.scores])

    @property
    def n_truths(self) -> IntArray:
        """(N,) truth boxes per image."""
        return np.array([len(rows) for rows in self.truths], dtype=np.intp)

    def fact(self, name: str) -> tuple[str, ...]:
        """An attribute of every image, empty where not known."""
        return tuple(self.cohort.get(image_id, name) for image_id in self.ids)

    def negatives_of_class(self, name: str) -> BoolArray:
        """(N,) negative images of a class (`Normal`, `No Lung Opacity / Not Normal`)."""
        return np.array([value == name for value in self.fact("class")], dtype=bool) & ~(
            self.positive
        )

    @property
    def classes_known(self) -> bool:
        """Whether every negative image is known to be Normal or Not Normal."""
        known = self.negatives_of_class(NORMAL) | self.negatives_of_class(NOT_NORMAL)
        return bool(known[~self.positive].all()) and not bool(self.positive.all())

    def truth_by_id(self) -> dict[str, Float64Array]:
        """Image id -> truth boxes."""
        return dict(zip(self.ids, self.truths, strict=True))

    def boxes_by_id(self) -> dict[str, tuple[Float64Array, Float64Array]]:
        """Image id -> (boxes, scores)."""
        pairs = zip(self.boxes, self.scores, strict=True)
        return dict(zip(self.ids, pairs, strict=True))


def join(
    labels: TruthLabels,
    predictions: Sequence[Prediction],
    cohort: Cohort | None = None,
    subset: Iterable[str] | None = None,
    only_scored: bool = False,
) -> EvaluationCases:
    """Bring predictions into the labels' frame and pair them by image id.

    Args:
        labels: Truth boxes, in pixels of `labels.frame`.
        predictions: One per image, in pixels of the image as given.
        subset: Evaluate only these ids; None = all.
        only_scored: Leave out labelled images that were not scored, instead of an error.

    Raises:
        DataError: An image is predicted twice, none is both labelled and scored, a labelled image
            was not scored (unless `only_scored`), a score is outside 0..1, or a truth lies
            outside its frame.
    """
    by_id = {item.image_id: item for item in predictions}
    if len(by_id) != len(predictions):
        raise DataError("Predictions name an image twice", found=f"{len(predictions)} entries")
    if subset is not None:
        labels = labels.select(subset)
    ids = tuple(image_id for image_id in labels.ids if image_id in by_id)
    n_missing = len(labels.ids) - len(ids)
    if not ids:
        raise DataError(
            "Labels and predictions share no image",
            found=f"{len(labels.ids)} labelled, {len(by_id)} scored",
            fix="Check that image_id is the labels' patientId",
        )
    if n_missing and not only_scored:
        raise DataError(
            "Labelled images were not scored",
            expected="a row for every labelled image (empty when nothing was found)",
            found=f"{n_missing} of {len(labels.ids)} missing",
            fix="Score them, name a --subset, or leave them out with --only-scored",
        )
    cohort = cohort or Cohort()
    chosen = [by_id[image_id] for image_id in ids]
    _check_scores(chosen)
    sizes = np.array([(item.width, item.height) for item in chosen], dtype=np.intp)
    scales = np.ones((len(ids), 2)) if labels.frame is None else labels.frame / sizes
    truths = tuple(
        _truths(labels.boxes[image_id], size * scale)
        for image_id, size, scale in zip(ids, sizes, scales, strict=True)
    )
    found = [_scaled(item, scale) for item, scale in zip(chosen, scales, strict=True)]
    patients, known = _patients(ids, cohort)
    return EvaluationCases(
        ids=ids,
        truths=truths,
        boxes=tuple(boxes for boxes, _ in found),
        scores=tuple(scores for _, scores in found),
        sizes=sizes,
        scales=scales,
        patients=patients,
        cohort=cohort,
        coverage=LabelCoverage(
            n_labelled=len(labels.ids),
            n_scored=len(by_id),
            n_evaluated=len(ids),
            n_missing=n_missing,
            n_unlabelled=len(by_id) - len(ids),
            n_boxes=sum(len(item.scores) for item in chosen),
            n_boxes_outside=sum(_n_outside(item) for item in chosen),
            n_patients=len(np.unique(patients)),
            patients_known=known,
        ),
    )


def select(cases: EvaluationCases, keep: BoolArray) -> EvaluationCases:
    """The cases of some images; their patients keep their numbers."""
    index = np.flatnonzero(keep)
    return replace(
        cases,
        ids=tuple(cases.ids[i] for i in index),
        truths=tuple(cases.truths[i] for i in index),
        boxes=tuple(cases.boxes[i] for i in index),
        scores=tuple(cases.scores[i] for i in index),
        sizes=cases.sizes[index],
        scales=cases.scales[index],
        patients=cases.patients[index],
    )


def _truths(boxes: NDArray[np.float32], extent: Float64Array) -> Float64Array:
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    low, high = rows[:, :2], rows[:, 2:]
    if (low < -EDGE_PX).any() or (high > extent + EDGE_PX).any():
        raise DataError(
            "A truth box lies outside its frame",
            expected=f"0..{extent[0]:g} x 0..{extent[1]:g}",
            found=f"up to {high[:, 0].max():g} x {high[:, 1].max():g}",
            fix="Give the frame of the labels: --frame SIDE in pixels, or --frame image",
        )
    return rows[order_truths(rows)]


def _check_scores(predictions: Sequence[Prediction]) -> None:
    """Raise DataError for scores outside 0..1, which thresholds and calibration need."""
    wrong = [item for item in predictions if not _in_unit_range(item.scores)]
    if wrong:
        values = np.concatenate([np.asarray(item.scores).reshape(-1) for item in wrong])
        raise DataError(
            "A score is outside 0..1",
            expected="probabilities, not logits or percentages",
            found=f"{values.min():.4g} to {values.max():.4g} on {len(wrong)} images",
        )


def _in_unit_range(scores: NDArray[np.float32]) -> bool:
    values = np.asarray(scores)
    return bool(((values >= 0) & (values <= 1)).all())


def _scaled(item: Prediction, scale: Float64Array) -> tuple[Float64Array, Float64Array]:
    boxes = np.asarray(item.boxes, dtype=np.float64).reshape(-1, 4) * np.tile(scale, 2)
    scores = np.asarray(item.scores, dtype=np.float64).reshape(-1)
    order = order_boxes(boxes, scores)
    return boxes[order], scores[order]


def _n_outside(item: Prediction) -> int:
    boxes = np.asarray(item.boxes).reshape(-1, 4)
    extent = np.array([item.width, item.height]) + EDGE_PX
    return int(((boxes[:, :2] < -EDGE_PX) | (boxes[:, 2:] > extent)).any(axis=1).sum())


def _patients(ids: Sequence[str], cohort: Cohort) -> tuple[IntArray, bool]:
    """(N,) patient numbers; an image whose patient is not known is its own patient."""
    names = [cohort.get(image_id, "patient") for image_id in ids]
    known = all(names)
    keys = [f"patient {name}" if name else f"image {i}" for name, i in zip(names, ids, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.intp), known
