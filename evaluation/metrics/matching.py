"""Matching of predicted boxes to truth boxes: IoU, COCO's rule and the RSNA challenge's rule.

IoU is computed in float64 here (not by `pneumonia.runtime.model.boxes`): the RSNA score asks for
IoU *strictly above* 0.40, and float32(0.4) > 0.4 would turn an exact tie into a hit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
BLOCK_IMAGES = 256  # images matched at once: bounds the padded arrays to a few megabytes


def iou(a: ArrayLike, b: ArrayLike) -> Float64Array:
    """Pairwise IoU in float64.

    Args:
        a: (..., n, 4) xyxy.
        b: (..., m, 4) xyxy.

    Returns:
        (..., n, m) in 0..1; boxes without area have IoU 0 with everything.
    """
    left = np.asarray(a, dtype=np.float64)[..., :, None, :]
    right = np.asarray(b, dtype=np.float64)[..., None, :, :]
    low = np.maximum(left[..., :2], right[..., :2])
    high = np.minimum(left[..., 2:], right[..., 2:])
    extent = np.clip(high - low, 0.0, None)
    intersection = extent[..., 0] * extent[..., 1]
    union = area(left) + area(right) - intersection
    return np.asarray(
        np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    )


def area(boxes: ArrayLike) -> Float64Array:
    """Area of xyxy boxes (..., 4) -> (...); negative extents count as zero."""
    values = np.asarray(boxes, dtype=np.float64)
    extent = np.clip(values[..., 2:] - values[..., :2], 0.0, None)
    return np.asarray(extent[..., 0] * extent[..., 1])


def order_truths(boxes: ArrayLike) -> IntArray:
    """Canonical order of truth boxes (by x1, y1, x2, y2): results do not depend on file order."""
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))


def order_boxes(boxes: ArrayLike, scores: ArrayLike) -> IntArray:
    """Order of predicted boxes: descending score, ties by x1, y1, x2, y2."""
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    return np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0], -values))


def match_by_score(overlaps: ArrayLike, iou_threshold: float) -> IntArray:
    """COCO's rule: boxes in order of score, each takes the free truth of highest IoU.

    Args:
        overlaps: (n truths, k boxes) IoU; boxes already in descending score.
        iou_threshold: A hit needs IoU >= this (COCO's convention).

    Returns:
        (k,) index of the truth each box hits, -1 = none. Because boxes are taken in order of score,
        the matching of the first j boxes does not depend on the later ones.
    """
    table = np.asarray(overlaps, dtype=np.float64)
    n_truths, n_boxes = table.shape
    matched = np.full(n_boxes, -1, dtype=np.intp)
    if n_truths == 0 or not (table >= iou_threshold).any():
        return matched
    free = np.ones(n_truths, dtype=bool)
    for box in np.flatnonzero((table >= iou_threshold).any(axis=0)):
        candidates = np.where(free, table[:, box], -1.0)
        # the last of equal IoUs wins, as in pycocotools
        best = n_truths - 1 - int(np.argmax(candidates[::-1]))
        if candidates[best] >= iou_threshold:
            matched[box] = best
            free[best] = False
    return matched


def match_by_truth(overlaps: ArrayLike, iou_thresholds: Sequence[float]) -> NDArray[np.intp]:
    """The RSNA challenge's rule for many images: per truth, the first free box above t.

    Truths are taken in order, and of the boxes (in descending score) the first free one with IoU
    *greater than* t wins, not the one of highest IoU: both public implementations of the metric do
    so. As a box only wins when every earlier one is taken or too far, leaving out the boxes below a
    score threshold never changes how the others match.

    Args:
        overlaps: (images, truths, boxes) IoU, padded with 0.
        iou_thresholds: The values of t.

    Returns:
        (images, truths, len(iou_thresholds)) index of the matched box, -1 = missed.
    """
    table = np.asarray(overlaps, dtype=np.float64)
    n_images, n_truths, n_boxes = table.shape
    limits = np.asarray(iou_thresholds, dtype=np.float64)
    matched = np.full((n_images, n_truths, len(limits)), -1, dtype=np.intp)
    if n_boxes == 0:
        return matched
    free = np.ones((n_images, n_boxes, len(limits)), dtype=bool)
    for truth in range(n_truths):
        hits = free & (table[:, truth, :, None] > limits)
        first = hits.argmax(axis=1)
        found = np.take_along_axis(hits, first[:, None, :], axis=1)[:, 0, :]
        matched[:, truth, :] = np.where(found, first, -1)
        image, limit = np.nonzero(found)
        free[image, first[image, limit], limit] = False
    return matched


def pad_boxes(rows: Sequence[ArrayLike]) -> Float64Array:
    """Stack box arrays (n_i, 4) to (len(rows), max n, 4) float64, padded with 0."""
    arrays = [np.asarray(row, dtype=np.float64).reshape(-1, 4) for row in rows]
    longest = max((len(array) for array in arrays), default=0)
    padded = np.zeros((len(arrays), longest, 4))
    for index, array in enumerate(arrays):
        padded[index, : len(array)] = array
    return padded
