"""Box scale: predicted boxes resized about their centres before matching.

Winning entries of the RSNA challenge shrank their boxes by 12.5 % and 17 %. This adapts boxes to
how the truth was drawn and does not improve the detector: the default is 1.0 (off); another value
is tuned on validation images only, stored with the thresholds and shown in the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.study.cases import EvaluationCases
from evaluation.study.operating_points import choose
from pneumonia.runtime.errors import ArtefactError, ConfigError, DataError

UNSCALED = 1.0
RANGE = (0.5, 1.5)
CANDIDATES = tuple(round(0.70 + 0.025 * step, 3) for step in range(19))  # 0.70 .. 1.15


@dataclass(frozen=True)
class ScaleChoice:
    """The best box scale of a study."""

    scale: float  # factor of width and height
    rsna_score: float  # highest challenge score with it, over all thresholds
    unscaled: float  # highest challenge score without it


def scale_boxes(cases: EvaluationCases, scale: float) -> EvaluationCases:
    """The same cases with every predicted box resized about its centre; truths are unchanged.

    Args:
        scale: Factor of width and height; 1 = unchanged.

    Raises:
        ConfigError: Outside `RANGE`.
    """
    if not RANGE[0] <= scale <= RANGE[1]:
        raise ConfigError(
            "Box scale is out of range",
            expected=f"{RANGE[0]:g}..{RANGE[1]:g}",
            found=repr(scale),
        )
    if scale == UNSCALED:
        return cases
    boxes = []
    for rows in cases.boxes:
        centre = np.tile((rows[:, :2] + rows[:, 2:]) / 2, 2)
        boxes.append(centre + (rows - centre) * scale)
    return replace(cases, boxes=tuple(boxes))


def tune_box_scale(cases: EvaluationCases) -> ScaleChoice:
    """The scale of the highest challenge score at its best threshold; validation images only.

    Among equal scores the scale nearest to 1 is taken.

    Raises:
        DataError: No challenge score can be computed on these images.
    """
    found: dict[float, float] = {}
    for scale in CANDIDATES:
        point = choose(scale_boxes(cases, scale)).get("kaggle")
        if point is None or point.rsna_score is None:
            raise DataError(
                "Box scale cannot be tuned",
                expected="boxes, and images with an opacity",
                found=f"{cases.coverage.n_boxes} boxes",
            )
        found[scale] = point.rsna_score
    best = min(CANDIDATES, key=lambda scale: (-found[scale], abs(scale - UNSCALED)))
    return ScaleChoice(best, found[best], found[UNSCALED])


def read_box_scale(document: Mapping[str, Any], where: str) -> float:
    """The scale stored with operating points; 1 when none is stored.

    Raises:
        ArtefactError: It is not a number in `RANGE`.
    """
    value = document.get("box_scale", UNSCALED)
    sound = isinstance(value, int | float) and not isinstance(value, bool)
    if not sound or not RANGE[0] <= value <= RANGE[1]:
        raise ArtefactError(
            "Box scale is not valid",
            expected=f"a number {RANGE[0]:g}..{RANGE[1]:g}",
            found=repr(value)[:40],
            where=where,
        )
    return float(value)
