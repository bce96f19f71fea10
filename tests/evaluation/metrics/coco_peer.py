"""COCO average precision and recall by faster-coco-eval: what our own numbers are held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.metrics.ranking import COCO_THRESHOLDS
from evaluation.metrics.rsna import IOU_THRESHOLDS as RSNA_THRESHOLDS
from evaluation.metrics.rsna import Boxes, ScoredBoxes, check_same_ids

ALL_THRESHOLDS = tuple(sorted({*COCO_THRESHOLDS, *RSNA_THRESHOLDS}))
MAX_BOXES = (1, 10, 100)


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's numbers over all images; NaN when there is no truth at all.

    Attributes:
        ap_50_95: Mean average precision over IoU 0.50, 0.55, ... 0.95.
        ap_40_75: The same over the RSNA challenge's thresholds 0.40, 0.45, ... 0.75.
        ap50, ap75: Average precision at IoU 0.50 and 0.75.
        ar_1, ar_10, ar_100: Recall with at most so many boxes per image, mean over .50:.95.
    """

    ap_50_95: float
    ap_40_75: float
    ap50: float
    ap75: float
    ar_1: float
    ar_10: float
    ar_100: float


def coco_metrics(truths: Boxes, predictions: ScoredBoxes) -> CocoMetrics:
    """Evaluate with faster-coco-eval; images without truth count, so that their alarms do.

    Args:
        truths: Image id -> (n, 4) xyxy.
        predictions: Image id -> ((k, 4) xyxy in the same pixels, (k,) scores); the same ids.

    Raises:
        DataError: The ids of the two sides differ.
    """
    check_same_ids(truths, predictions)
    if not any(len(np.asarray(boxes)) for boxes in truths.values()):
        return CocoMetrics(*[float("nan")] * 7)
    precision, recall = _evaluate(truths, predictions)

    def ap(thresholds: Sequence[float]) -> float:
        rows = [ALL_THRESHOLDS.index(value) for value in thresholds]
        return float(precision[rows].mean())

    coco = [ALL_THRESHOLDS.index(value) for value in COCO_THRESHOLDS]
    return CocoMetrics(
        ap_50_95=ap(COCO_THRESHOLDS),
        ap_40_75=ap(RSNA_THRESHOLDS),
        ap50=ap((0.50,)),
        ap75=ap((0.75,)),
        ar_1=float(recall[coco, 0].mean()),
        ar_10=float(recall[coco, 1].mean()),
        ar_100=float(recall[coco, 2].mean()),
    )


def _evaluate(truths: Boxes, predictions: ScoredBoxes) -> tuple[Any, Any]:
    """Precision (T, 101) with at most 100 boxes and recall (T, 3)."""
    from faster_coco_eval import COCO, COCOeval_faster

    numbers = {image_id: index + 1 for index, image_id in enumerate(truths)}
    found = [
        {"image_id": numbers[image_id], "category_id": 1, "bbox": box, "score": float(score)}
        for image_id in truths
        for box, score in zip(
            _xywh(predictions[image_id][0]), np.asarray(predictions[image_id][1]), strict=True
        )
    ]
    boxes = [(number, box) for i, number in numbers.items() for box in _xywh(truths[i])]
    truth = COCO(
        {
            "images": [{"id": number} for number in numbers.values()],
            "categories": [{"id": 1, "name": "opacity"}],
            "annotations": [
                {
                    "id": index + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                for index, (number, box) in enumerate(boxes)
            ],
        }
    )
    judge = COCOeval_faster(truth, truth.loadRes(found), iouType="bbox")
    judge.params.iouThrs = np.array(ALL_THRESHOLDS)
    judge.params.maxDets = list(MAX_BOXES)
    judge.params.areaRng = [[0.0, 1e10]]  # opacities are large: COCO's size classes say nothing
    judge.params.areaRngLbl = ["all"]
    judge.evaluate()
    judge.accumulate()
    result = judge.eval
    return np.asarray(result["precision"])[:, :, 0, 0, -1], np.asarray(result["recall"])[:, 0, 0]


def _xywh(boxes: Any) -> list[list[float]]:
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in rows.tolist()]
