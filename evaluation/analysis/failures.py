"""Error types of boxes and truths, image by image, and the worst cases.

At one operating point, with IoU 0.4 for a hit (the loosest of the challenge):

truth     found          a box hits it
          mislocalised   the best free box overlaps it with IoU 0.1 to 0.4
          merged         one box covers it together with another truth
          split          two or more boxes lie mostly inside it, none hits
          missed         none of the above
box       hit, mislocalised, merged, split: the counterpart of the truth's type
          duplicate      overlaps a truth that a better box has hit
          on_normal, on_not_normal, on_negative, beside: a false box on a Normal image, on a
                         Not Normal one, on a negative of unknown class, beside a true opacity
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics.matching import Float64Array, area, iou, match_by_score
from evaluation.metrics.rsna import rsna_table
from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL

HIT_IOU = 0.40
NEAR_IOU = 0.10
MOSTLY = 0.5  # share of an area that counts as "mostly inside"
MOST_SHOWN = 12  # worst cases of each kind
TRUTH_TYPES = ("found", "mislocalised", "merged", "split", "missed")
BOX_TYPES = (
    "hit",
    "duplicate",
    "mislocalised",
    "merged",
    "split",
    "beside",
    "on_normal",
    "on_not_normal",
    "on_negative",
)
EXPLANATIONS = {
    "found": "a box hits it (IoU of at least 0.4)",
    "mislocalised": "a box is near but fits badly (IoU 0.1 to 0.4)",
    "merged": "one box covers two opacities",
    "split": "several boxes lie inside one opacity, none hits it",
    "missed": "no box near it",
    "hit": "marks an opacity",
    "duplicate": "second box on an opacity already marked",
    "beside": "false box on an image that does have an opacity elsewhere",
    "on_normal": "false box on a Normal image",
    "on_not_normal": "false box on an image with other findings (Not Normal)",
    "on_negative": "false box on a negative image of unknown class",
}


@dataclass(frozen=True)
class ImageErrors:
    """Errors of one image."""

    image: int  # index of the case
    truth_types: tuple[str, ...]  # per truth one of `TRUTH_TYPES`
    box_types: tuple[str, ...]  # per shown box one of `BOX_TYPES`


@dataclass(frozen=True)
class WorstCases:
    """The cases to look at first, as indices of cases, the worst first."""

    missed: tuple[int, ...]  # positive images below the threshold, lowest score first
    alarms: tuple[int, ...]  # negative images above the threshold, highest score first
    # positive images above the threshold with the lowest challenge score
    misplaced: tuple[int, ...]


def find_errors(cases: EvaluationCases, threshold: float) -> list[ImageErrors]:
    """Classify every truth and every box of score >= `threshold`."""
    normal, not_normal = cases.negatives_of_class(NORMAL), cases.negatives_of_class(NOT_NORMAL)
    result = []
    for index in range(len(cases)):
        boxes = cases.boxes[index][cases.scores[index] >= threshold]
        truths = cases.truths[index]
        if len(truths):
            truth_types, box_types = classify(truths, boxes)
        else:
            kind = "on_normal" if normal[index] else "on_negative"
            kind = "on_not_normal" if not_normal[index] else kind
            truth_types, box_types = (), (kind,) * len(boxes)
        result.append(ImageErrors(index, truth_types, box_types))
    return result


def classify(truths: Float64Array, boxes: Float64Array) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Types of the truths (n, 4) and of the boxes (k, 4, descending score) of a positive image."""
    overlaps = iou(truths, boxes)
    of_truth, of_box = _shares(truths, boxes, overlaps)
    matched = match_by_score(overlaps, HIT_IOU)
    truth_types = ["missed"] * len(truths)
    box_types = ["beside"] * len(boxes)
    for hit in np.flatnonzero(matched >= 0):
        truth_types[matched[hit]], box_types[hit] = "found", "hit"
    for box in np.flatnonzero(matched < 0):
        covered = [int(truth) for truth in np.flatnonzero(of_truth[:, box] >= MOSTLY)]
        if len(covered) >= 2:
            box_types[box] = "merged"
            for truth in covered:
                if truth_types[truth] == "missed":
                    truth_types[truth] = "merged"
        elif any(overlaps[t, box] >= HIT_IOU for t in range(len(truths))):
            box_types[box] = "duplicate"
    for truth in range(len(truths)):
        if truth_types[truth] == "missed":
            truth_types[truth] = _explain_miss(overlaps[truth], of_box[truth], box_types)
    return tuple(truth_types), tuple(box_types)


def _explain_miss(overlaps: Float64Array, inside: Float64Array, box_types: list[str]) -> str:
    """Type of a truth that no box hits; marks the boxes that explain it."""
    free = np.array([kind == "beside" for kind in box_types], dtype=bool)
    pieces = np.flatnonzero(free & (inside >= MOSTLY))
    if len(pieces) >= 2:
        for box in pieces:
            box_types[box] = "split"
        return "split"
    near = np.flatnonzero(free & (overlaps >= NEAR_IOU))
    if len(near):
        box_types[near[int(np.argmax(overlaps[near]))]] = "mislocalised"
        return "mislocalised"
    return "missed"


def _shares(
    truths: Float64Array, boxes: Float64Array, overlaps: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Intersection as a share of the truth's area and of the box's area, both (n, k)."""
    truth_area, box_area = area(truths)[:, None], area(boxes)[None, :]
    common = overlaps * (truth_area + box_area) / (1 + overlaps)
    tiny = np.finfo(np.float64).tiny
    return common / np.maximum(truth_area, tiny), common / np.maximum(box_area, tiny)


def count_errors(errors: Sequence[ImageErrors]) -> dict[str, dict[str, int]]:
    """Counts by type, for truths and for boxes, in the order of the report."""
    truths = Counter(kind for item in errors for kind in item.truth_types)
    boxes = Counter(kind for item in errors for kind in item.box_types)
    return {
        "truths": {kind: truths[kind] for kind in TRUTH_TYPES},
        "boxes": {kind: boxes[kind] for kind in BOX_TYPES},
    }


def worst_cases(cases: EvaluationCases, threshold: float) -> WorstCases:
    """The worst misses, false alarms and misplaced boxes, ties in the order of the labels."""
    positive, scores = cases.positive, cases.image_score
    called = scores >= threshold
    table = rsna_table(cases.truth_by_id(), cases.boxes_by_id()).image_scores(threshold)

    def first(mask: np.ndarray, key: Float64Array) -> tuple[int, ...]:
        index = np.flatnonzero(mask)
        return tuple(int(i) for i in index[np.argsort(key[index], kind="stable")][:MOST_SHOWN])

    return WorstCases(
        missed=first(positive & ~called, scores),
        alarms=first(~positive & called, -scores),
        misplaced=first(positive & called & (table < 0.5), table),
    )
