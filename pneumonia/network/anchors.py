"""Anchor sizes from the training boxes: k-means with the distance 1 - IoU."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.runtime.errors import DataError

Sizes = NDArray[np.float64]
MAX_ITERATIONS = 300
RESTARTS = 10


def size_iou(a: Sizes, b: Sizes) -> Sizes:
    """IoU of boxes that share a centre: (n, 2), (m, 2) -> (n, m)."""
    intersection = np.minimum(a[:, None], b[None]).prod(axis=2)
    areas: Sizes = a.prod(axis=1)[:, None] + b.prod(axis=1)[None] - intersection
    overlap: Sizes = intersection / areas
    return overlap


def mean_best_iou(sizes: ArrayLike, anchors: ArrayLike) -> float:
    """Mean over boxes of the IoU with the best anchor; what `kmeans_anchors` maximises."""
    overlap = size_iou(_sizes(sizes), _sizes(anchors))
    return float(overlap.max(axis=1).mean())


def kmeans_anchors(sizes: ArrayLike, k: int, seed: int = 0) -> Sizes:
    """Cluster box sizes into k anchors (Redmon and Farhadi 2017, section 2).

    k-means++ starts, medians as centres (they lower 1 - IoU more reliably than means), the best
    of several starts, and never an empty cluster.

    Args:
        sizes: (n, 2) widths and heights in pixels of the network input.
        k: Number of anchors.
        seed: Of the starts; equal seeds give equal anchors.

    Returns:
        (k, 2) sorted by area.

    Raises:
        DataError: Fewer different boxes than anchors, or a size that is not positive.
    """
    boxes = _sizes(sizes)
    distinct = len(np.unique(boxes, axis=0))
    if k < 1 or distinct < k:
        raise DataError(
            "Too few different boxes for the anchors",
            expected=f">= {max(k, 1)}",
            found=str(distinct),
            fix="Label more boxes, or take the published anchors (model.anchors: zoo)",
        )
    generator = np.random.default_rng(seed)
    runs = [_lloyd(boxes, _plus_plus(boxes, k, generator)) for _ in range(RESTARTS)]
    best = max(runs, key=lambda anchors: mean_best_iou(boxes, anchors))
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def _sizes(sizes: ArrayLike) -> Sizes:
    array = np.asarray(sizes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not (np.isfinite(array) & (array > 0)).all():
        raise DataError(
            "Box sizes are not usable", expected="(n, 2) positive numbers", found=str(array.shape)
        )
    return array


def _plus_plus(boxes: Sizes, k: int, generator: np.random.Generator) -> Sizes:
    chosen = [int(generator.integers(len(boxes)))]
    while len(chosen) < k:
        distance = 1.0 - size_iou(boxes, boxes[chosen]).max(axis=1)
        weight = np.square(np.maximum(distance, 0.0))
        weight[chosen] = 0.0
        if weight.sum() == 0.0:  # different sizes whose distance rounds to zero
            weight = np.ones(len(boxes))
            weight[chosen] = 0.0
        chosen.append(int(generator.choice(len(boxes), p=weight / weight.sum())))
    return boxes[chosen].copy()


def _lloyd(boxes: Sizes, anchors: Sizes) -> Sizes:
    best, best_score = anchors, mean_best_iou(boxes, anchors)
    for _ in range(MAX_ITERATIONS):
        owner = size_iou(boxes, anchors).argmax(axis=1)
        moved = anchors.copy()
        for index in range(len(anchors)):
            if (owner == index).any():
                moved[index] = np.median(boxes[owner == index], axis=0)
        if np.array_equal(moved, anchors):
            break
        anchors = moved
        score = mean_best_iou(boxes, anchors)
        if score > best_score:  # medians do not lower the distance in every step
            best, best_score = anchors, score
    return best
