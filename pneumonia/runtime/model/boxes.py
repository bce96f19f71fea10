"""Boxes: formats, overlap, non-maximum suppression.

Boxes are float32 arrays (n, 4) in pixels. `xyxy` is left, top, right, bottom with continuous
edges (width = right - left, no "+ 1"); `xywh` is left, top, width, height; `cxcywh` is centre.
"""

from typing import List, Optional

import numpy as np

from pneumonia.runtime.errors import DataError


def as_boxes(boxes: object) -> np.ndarray:
    """Any list or array of boxes as float32 (n, 4); an empty one as (0, 4).

    Raises:
        DataError: The last axis is not 4.
    """
    array = np.asarray(boxes, dtype=np.float32)
    if array.size == 0:
        return np.zeros((0, 4), dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise DataError("Not an array of boxes", expected="(n, 4)", found=str(array.shape))
    return array


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) left, top, right, bottom -> left, top, width, height."""
    boxes = as_boxes(boxes)
    return np.asarray(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1))


def cxcywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) centre x, centre y, width, height -> left, top, right, bottom."""
    boxes = as_boxes(boxes)
    half = boxes[:, 2:] * np.float32(0.5)
    return np.asarray(np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1))


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Move every edge of xyxy boxes into 0..width, 0..height; may leave empty boxes."""
    boxes = as_boxes(boxes)
    limit = np.array([width, height, width, height], dtype=np.float32)
    return np.asarray(np.clip(boxes, np.float32(0), limit))


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (n,) float64 in square pixels; a box with crossed edges has area 0."""
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair.

    Args:
        a: xyxy (n, 4).
        b: xyxy (m, 4).

    Returns:
        float32 (n, m), 0 where both boxes are empty.
    """
    a = as_boxes(a)
    b = as_boxes(b)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high.astype(np.float64) - low, 0.0)
    overlap = sides[..., 0] * sides[..., 1]
    union = box_areas(a)[:, None] + box_areas(b)[None, :] - overlap
    iou = np.zeros_like(overlap)
    np.divide(overlap, union, out=iou, where=union > 0)
    return np.asarray(iou, dtype=np.float32)


def nms(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, limit: Optional[int] = None
) -> np.ndarray:
    """Greedy non-maximum suppression.

    A box is dropped when its IoU with a kept box of higher score is above the threshold.

    Args:
        boxes: xyxy (n, 4).
        scores: (n,), finite.
        iou_threshold: 0..1.
        limit: Stop after so many kept boxes.

    Returns:
        Kept indices (k,), by descending score; among equal scores the lower index first.
    """
    boxes = as_boxes(boxes)
    scores = np.asarray(scores)
    order = np.argsort(-scores, kind="stable")
    keep: List[int] = []
    while order.size and (limit is None or len(keep) < limit):
        best, order = order[0], order[1:]
        keep.append(int(best))
        overlap = iou_matrix(boxes[best : best + 1], boxes[order])[0]
        order = order[overlap <= iou_threshold]
    return np.array(keep, dtype=np.int64)
