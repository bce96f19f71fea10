"""The RSNA Pneumonia Detection Challenge score, exactly (Kaggle, stage 2).

Per image and IoU threshold t: precision(t) = TP / (TP + FP + FN); a hit needs IoU strictly above t;
the image's score is the mean over t; the result is the mean over images. An image without truth
scores 0 as soon as it has one box, and is left out of the mean when it has none (as in the public
implementations; only then are leaderboard values reproduced). Every submitted box counts: the score
threshold is part of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics.matching import (
    BLOCK_IMAGES,
    Float64Array,
    iou,
    match_by_truth,
    order_boxes,
    order_truths,
    pad_boxes,
)
from pneumonia.runtime.errors import DataError

# literals: repeated addition gives rounding errors (0.6000000000000001)
IOU_THRESHOLDS = (0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75)

Boxes = Mapping[str, ArrayLike]
ScoredBoxes = Mapping[str, tuple[ArrayLike, ArrayLike]]


@dataclass(frozen=True)
class RsnaScore:
    """The challenge score at one score threshold."""

    value: float  # the score, 0..1; NaN when no image counts (no truth and no box anywhere)
    per_image: dict[str, float]  # image id -> its score; images that do not count are absent
    n: int  # images that count


@dataclass(frozen=True)
class RsnaTable:
    """Matching of every image, from which the challenge score at any threshold is computed."""

    ids: tuple[str, ...]  # image ids
    n_truths: NDArray[np.intp]  # (N,) truth boxes per image
    box_scores: Float64Array  # (N, B) scores in descending order, padded with -inf
    # (P, G, 8) score of the box that hits each truth at each IoU threshold, for the images with
    # truth only; -inf = missed or padding
    hit_scores: Float64Array

    def image_scores(self, threshold: float) -> Float64Array:
        """(N,) score of each image when boxes of score >= `threshold` count; NaN = left out."""
        n_boxes = (self.box_scores >= threshold).sum(axis=1)
        scores = np.where(n_boxes > 0, 0.0, np.nan)
        positive = self.n_truths > 0
        hits = (self.hit_scores >= threshold).sum(axis=1)  # (P, 8)
        union = (self.n_truths + n_boxes)[positive, None] - hits
        scores[positive] = (hits / union).mean(axis=1)
        return scores

    def sweep(
        self, thresholds: Sequence[float] | Float64Array, weights: Float64Array | None = None
    ) -> Float64Array:
        """Challenge score at each score threshold.

        Args:
            thresholds: (T,).
            weights: (N,) of the images; None = 1 each.

        Returns:
            (T,) float64; NaN where no image counts.
        """
        return np.array([_mean(self.image_scores(float(value)), weights) for value in thresholds])


def rsna_table(truths: Boxes, predictions: ScoredBoxes) -> RsnaTable:
    """Match predictions to truths.

    Args:
        truths: Image id -> (n, 4) xyxy.
        predictions: Image id -> ((k, 4) xyxy in the same pixels, (k,) scores).

    Raises:
        DataError: Truths and predictions have different ids, boxes and scores differ in number, or
            a value is not finite.
    """
    check_same_ids(truths, predictions)
    ids = tuple(truths)
    truth_rows, box_rows, score_rows = [], [], []
    for image_id in ids:
        truth, boxes, scores = _check_image(truths[image_id], *predictions[image_id])
        order = order_boxes(boxes, scores)
        truth_rows.append(truth[order_truths(truth)])
        box_rows.append(boxes[order])
        score_rows.append(scores[order])
    n_truths = np.array([len(rows) for rows in truth_rows], dtype=np.intp)
    widest = max((len(rows) for rows in score_rows), default=0)
    box_scores = np.full((len(ids), widest), -np.inf)
    for index, scores in enumerate(score_rows):
        box_scores[index, : len(scores)] = scores
    positive = np.flatnonzero(n_truths)
    hit_scores = np.full(
        (len(positive), int(n_truths.max(initial=0)), len(IOU_THRESHOLDS)), -np.inf
    )
    for start in range(0, len(positive), BLOCK_IMAGES):
        block = positive[start : start + BLOCK_IMAGES]
        overlaps = iou(
            pad_boxes([truth_rows[index] for index in block]),
            pad_boxes([box_rows[index] for index in block]),
        )
        matched = match_by_truth(overlaps, IOU_THRESHOLDS)
        image = np.arange(len(block))[:, None, None]
        found = (
            np.where(matched >= 0, box_scores[block][image, matched], -np.inf)
            if widest
            else np.full(matched.shape, -np.inf)
        )
        hit_scores[start : start + len(block), : found.shape[1]] = found
    return RsnaTable(ids, n_truths, box_scores, hit_scores)


def rsna_score(truths: Boxes, predictions: ScoredBoxes, threshold: float = 0.0) -> RsnaScore:
    """The challenge score when the boxes of score >= `threshold` are submitted.

    Args:
        truths: Image id -> (n, 4) xyxy.
        predictions: Image id -> ((k, 4) xyxy in the same pixels, (k,) scores); the same ids.
        threshold: Score below which a box is not submitted.

    Raises:
        DataError: See `rsna_table`.
    """
    table = rsna_table(truths, predictions)
    scores = table.image_scores(threshold)
    counted = np.isfinite(scores)
    per_image = {
        image_id: float(score)
        for image_id, score, counts in zip(table.ids, scores, counted, strict=True)
        if counts
    }
    return RsnaScore(_mean(scores), per_image, int(counted.sum()))


def _mean(scores: Float64Array, weights: Float64Array | None = None) -> float:
    counts = np.isfinite(scores)
    if not counts.any():
        return float("nan")
    return float(np.average(scores[counts], weights=None if weights is None else weights[counts]))


def check_same_ids(truths: Boxes, predictions: ScoredBoxes) -> None:
    """Check that truths and predictions have the same image ids.

    Raises:
        DataError: An id is missing on one side; the message has their number, not the ids.
    """
    unscored = sum(1 for image_id in truths if image_id not in predictions)
    unlabelled = sum(1 for image_id in predictions if image_id not in truths)
    if unscored or unlabelled:
        raise DataError(
            "Truths and predictions are not of the same images",
            expected="the same ids on both sides",
            found=f"{unscored} without a prediction, {unlabelled} without a truth",
        )


def _check_image(
    truth: ArrayLike, boxes: ArrayLike, scores: ArrayLike
) -> tuple[Float64Array, Float64Array, Float64Array]:
    truth_array = np.asarray(truth, dtype=np.float64).reshape(-1, 4)
    box_array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    score_array = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(box_array) != len(score_array):
        raise DataError(
            "Boxes and scores of an image differ in number",
            found=f"{len(box_array)} boxes, {len(score_array)} scores",
        )
    for name, array in (("truth", truth_array), ("box", box_array), ("score", score_array)):
        if not np.isfinite(array).all():
            raise DataError(f"A {name} is not finite", expected="numbers", found="NaN or infinity")
    return truth_array, box_array, score_array
