"""All predicted boxes of a study in descending score: average precision and FROC.

Average precision (COCO's 101 points) and FROC of any number of bootstrap draws come from two
cumulative sums over this list: the truths hit so far and the boxes shown so far. Boxes of equal
score are counted together: both sums are read only at the last box of a score, so that the order of
the rows of a predictions file changes nothing. (COCO's own code reads them at every box; without
ties the two agree.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics.matching import Float64Array, IntArray, iou, match_by_score

COCO_THRESHOLDS = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
MAX_BOXES = 100  # boxes per image that count, as in COCO
RECALL_STEPS = 100
RECALL_GRID = np.linspace(0.0, 1.0, RECALL_STEPS + 1)  # where COCO reads the precision


@dataclass(frozen=True)
class BoxRanking:
    """Boxes of all images in descending score."""

    image: IntArray  # (K,) index of the image of each box
    score: Float64Array  # (K,) descending
    # (T, K) global index of the truth each box hits at each IoU threshold, -1 = none
    truth: IntArray
    truth_image: IntArray  # (M,) image of each truth
    n_images: int  # images, with and without truth
    iou_thresholds: tuple[float, ...]  # (T,) a hit needs IoU >= this

    def hits(self, iou_threshold: float) -> NDArray[np.bool_]:
        """(K,) which boxes hit a truth at one of the matched IoU thresholds."""
        return np.asarray(self.truth[self.iou_thresholds.index(iou_threshold)] >= 0)

    def last_of_score(self) -> IntArray:
        """(S,) position of the last box of each distinct score, ascending."""
        return np.flatnonzero(np.append(np.diff(self.score) != 0, True)[: len(self.score)])


def rank_boxes(
    truths: Sequence[ArrayLike],
    boxes: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    iou_thresholds: Sequence[float],
) -> BoxRanking:
    """Match every image by COCO's rule and merge the images into one list.

    Args:
        truths: Per image (n, 4) xyxy.
        boxes: Per image (k, 4) xyxy in descending score; the first 100 count.
        scores: Per image (k,) in descending order.
        iou_thresholds: A hit needs IoU >= t.
    """
    image, score, truth, truth_image = [], [], [], []
    n_truths = 0
    for index, (truth_rows, box_rows, values) in enumerate(zip(truths, boxes, scores, strict=True)):
        kept = np.asarray(values, dtype=np.float64)[:MAX_BOXES]
        overlaps = iou(
            np.asarray(truth_rows, dtype=np.float64).reshape(-1, 4),
            np.asarray(box_rows, dtype=np.float64).reshape(-1, 4)[:MAX_BOXES],
        )
        local = np.stack([match_by_score(overlaps, value) for value in iou_thresholds])
        image.append(np.full(len(kept), index, dtype=np.intp))
        score.append(kept)
        truth.append(np.where(local >= 0, local + n_truths, -1))
        truth_image.append(np.full(len(overlaps), index, dtype=np.intp))
        n_truths += len(overlaps)
    flat_score = np.concatenate([*score, np.zeros(0)])
    order = np.argsort(-flat_score, kind="stable")
    empty = np.zeros((len(iou_thresholds), 0), dtype=np.intp)
    return BoxRanking(
        image=np.concatenate([*image, np.zeros(0, dtype=np.intp)])[order],
        score=flat_score[order],
        truth=np.concatenate([*truth, empty], axis=1)[:, order],
        truth_image=np.concatenate([*truth_image, np.zeros(0, dtype=np.intp)]),
        n_images=len(truths),
        iou_thresholds=tuple(iou_thresholds),
    )


@dataclass(frozen=True)
class RankedCounts:
    """Cumulative counts of a block of draws at the distinct scores at which a truth is hit.

    Other scores are not needed: between two of these sensitivity is constant and precision falls.
    """

    # (H,) position of the last box of each score of which at least one box hits a truth at one of
    # the IoU thresholds
    position: IntArray
    shown: Float64Array  # (D, H) boxes shown down to and including each of them
    n_truths: Float64Array  # (D,) truths
    weights: Float64Array  # (D, N) weight of each image
    # IoU threshold -> (D, H) truths hit so far, filled on first use
    hits: dict[float, Float64Array] = field(default_factory=dict)
    # IoU threshold -> (D,) average precision, filled on first use
    precision: dict[float, Float64Array] = field(default_factory=dict)


def count_draws(
    ranking: BoxRanking, weights: Float64Array, shown_weights: Float64Array | None = None
) -> RankedCounts:
    """Cumulative counts for a block of draws.

    Args:
        weights: (D, N) occurrences of each image.
        shown_weights: (D, N) weights for the boxes shown, when only some images (the normal ones)
            count there; None = `weights`.
    """
    hitting = np.flatnonzero((ranking.truth >= 0).any(axis=0))
    ends = ranking.last_of_score()
    position = ends[np.unique(np.searchsorted(ends, hitting))]
    base = weights if shown_weights is None else shown_weights
    if len(position):
        # sums over the boxes after the previous position, up to and including this one
        starts = np.concatenate([[0], position[:-1] + 1])
        used = ranking.image[: position[-1] + 1]
        shown = np.cumsum(np.add.reduceat(base[:, used], starts, axis=1), axis=1)
    else:
        shown = np.zeros((len(weights), 0))
    n_truths = weights[:, ranking.truth_image].sum(axis=1)
    return RankedCounts(position, shown, n_truths, weights)


def _hits_so_far(ranking: BoxRanking, counts: RankedCounts, iou_threshold: float) -> Float64Array:
    """(D, H) truths hit down to each position."""
    if iou_threshold not in counts.hits:
        gained = np.zeros((len(counts.weights), len(counts.position)))
        hitting = np.flatnonzero(ranking.hits(iou_threshold))
        if len(hitting):
            column, starts = np.unique(np.searchsorted(counts.position, hitting), return_index=True)
            by_box = counts.weights[:, ranking.image[hitting]]
            gained[:, column] = np.add.reduceat(by_box, starts, axis=1)
        counts.hits[iou_threshold] = np.cumsum(gained, axis=1)
    return counts.hits[iou_threshold]


def average_precision(
    ranking: BoxRanking, counts: RankedCounts, iou_threshold: float
) -> Float64Array:
    """COCO's 101-point interpolated average precision.

    Returns:
        (D,); NaN where a draw holds no truth.
    """
    if iou_threshold not in counts.precision:
        counts.precision[iou_threshold] = _average_precision(ranking, counts, iou_threshold)
    return counts.precision[iou_threshold]


def _average_precision(
    ranking: BoxRanking, counts: RankedCounts, iou_threshold: float
) -> Float64Array:
    hits = _hits_so_far(ranking, counts, iou_threshold)
    no_truth = counts.n_truths <= 0
    if hits.shape[1] == 0:
        return np.where(no_truth, np.nan, 0.0)
    precision = np.divide(hits, counts.shown, out=np.zeros_like(hits), where=counts.shown > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    truths = np.where(no_truth, 1.0, counts.n_truths)
    # grid points of recall reached so far, compared in floating point just as COCO does
    recall = hits / truths[:, None]
    nearest = np.floor(recall * RECALL_STEPS + 0.5).astype(np.intp)
    reached = nearest + (RECALL_GRID[nearest] <= recall)
    reached[hits <= 0] = 0
    gained = np.diff(reached, axis=1, prepend=0)
    value = (envelope * gained).sum(axis=1) / (RECALL_STEPS + 1)
    return np.where(no_truth, np.nan, value)


def mean_average_precision(
    ranking: BoxRanking, counts: RankedCounts, iou_thresholds: Sequence[float]
) -> Float64Array:
    """Mean of `average_precision` over IoU thresholds: (D,)."""
    return np.asarray(
        np.mean([average_precision(ranking, counts, value) for value in iou_thresholds], axis=0)
    )


def average_precision_once(ranking: BoxRanking, iou_threshold: float) -> float:
    """`average_precision` of the study itself; NaN without any truth."""
    counts = count_draws(ranking, np.ones((1, ranking.n_images)))
    return float(average_precision(ranking, counts, iou_threshold)[0])


def sensitivity_at(
    ranking: BoxRanking,
    counts: RankedCounts,
    iou_threshold: float,
    false_positives: Float64Array,
    false_positives_only: bool = False,
) -> Float64Array:
    """FROC: the share of truths hit while at most `false_positives` are shown.

    Args:
        iou_threshold: One of those matched.
        false_positives: (D,) maximum number of false positives in each draw.
        false_positives_only: `counts.shown` already counts false positives only (normal images).

    Returns:
        (D,); NaN where a draw holds no truth.
    """
    no_truth = counts.n_truths <= 0
    hits = _hits_so_far(ranking, counts, iou_threshold)
    alarms = counts.shown if false_positives_only else counts.shown - hits
    allowed = alarms <= false_positives[:, None] + 1e-9
    best = np.max(np.where(allowed, hits, 0.0), axis=1, initial=0.0)
    return np.where(no_truth, np.nan, best / np.where(no_truth, 1.0, counts.n_truths))


def precision_recall(
    ranking: BoxRanking, iou_threshold: float
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """The study's precision-recall curve of boxes.

    Returns:
        (recall, precision, score), each with one point per distinct score at which a box hits.
    """
    ends = ranking.last_of_score()
    hits = np.cumsum(ranking.hits(iou_threshold))[ends].astype(np.float64)
    gains = np.diff(hits, prepend=0.0) > 0
    ends, hits = ends[gains], hits[gains]
    return hits / max(1, len(ranking.truth_image)), hits / (ends + 1.0), ranking.score[ends]


def froc_curve(
    ranking: BoxRanking, iou_threshold: float, counted: NDArray[np.bool_] | None = None
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """The study's FROC curve.

    Args:
        iou_threshold: One of those matched.
        counted: (N,) images whose false positives count (the normal ones); None = all.

    Returns:
        (false positives per counted image, sensitivity, score), one point per distinct score.
    """
    hit = ranking.hits(iou_threshold)
    images = np.ones(ranking.n_images, dtype=bool) if counted is None else counted
    alarms = np.cumsum(~hit & images[ranking.image])
    last = ranking.last_of_score()
    return (
        alarms[last] / max(1, int(images.sum())),
        np.cumsum(hit)[last] / max(1, len(ranking.truth_image)),
        ranking.score[last],
    )
