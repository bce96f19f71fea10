"""Content of a result: facts of the model and findings at its operating point."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.storage.bundle import Bundle

POSITIVE = "positive"
NEGATIVE = "negative"
INDETERMINATE = "indeterminate"


class ResultFacts(NamedTuple):
    """Facts of the model, part of every result."""

    model_name: str  # name of the bundle's model
    model_version: str  # release of this software that exported the model
    model_hash: str  # hex identity of its network and weights
    threshold_name: str  # operating point
    threshold: float  # score from which a box counts, 0..1

    @classmethod
    def from_bundle(cls, bundle: Bundle, threshold_name: str) -> "ResultFacts":
        """The facts of a bundle at one of its operating points.

        Raises:
            ConfigError: No operating point of that name.
        """
        versions = bundle.manifest.get("versions")
        version = versions.get("pneumonia") if isinstance(versions, dict) else None
        return cls(
            bundle.model_name,
            str(version or "unknown"),
            bundle.model_hash,
            threshold_name,
            bundle.threshold(threshold_name),
        )

    def caption(self) -> str:
        """One line for pictures and tables."""
        return "{} {} ({}), threshold {} {:.3f}".format(
            self.model_name,
            self.model_version,
            self.model_hash[:12],
            self.threshold_name,
            self.threshold,
        )


class Finding(NamedTuple):
    """One box at or above the threshold."""

    # edges in pixels of the source image; 0, 0 is the corner of its first pixel
    box_xyxy: Tuple[float, float, float, float]
    score: float  # the model's score, 0..1
    size_mm: Optional[Tuple[float, float]]  # width and height, None where the header has no spacing


class ImageResult(NamedTuple):
    """Content that all result objects of one image share."""

    findings: List[Finding]  # by descending score
    max_score: float  # the best score of any box, also below the threshold; 0 without a box
    flag: str  # `positive`, `negative` or `indeterminate` (nothing found in a damaged image)
    warnings: Tuple[str, ...]  # codes of warnings about the image

    def sentence(self) -> str:
        """The result as a sentence for the reader."""
        if self.findings:
            number = len(self.findings)
            return "{} region{} suspicious of lung opacity".format(number, "s"[: number > 1])
        if self.flag == INDETERMINATE:
            return "No region flagged, but the image is damaged: not a negative result"
        return "No region flagged at this threshold; this does not exclude disease"


def result_of(
    prediction: Prediction,
    threshold: float,
    spacing_mm: Optional[Sequence[float]],
    warnings: Sequence[str],
) -> ImageResult:
    """Apply the threshold.

    Args:
        prediction: Boxes above the score floor, in pixels of the source image.
        threshold: Compared in float32, as everywhere else.
        spacing_mm: Row and column spacing, None where unknown.
        warnings: Codes of warnings; `degraded` makes an image without a box indeterminate.
    """
    order = np.argsort(-prediction.scores, kind="mergesort")  # "stable" needs NumPy 1.15
    limit = np.array([prediction.width, prediction.height] * 2, dtype=np.float32)
    findings = []
    for index in order[prediction.scores[order] >= np.float32(threshold)]:
        x1, y1, x2, y2 = np.clip(prediction.boxes[index], 0, limit).tolist()
        size = None
        if spacing_mm is not None:
            size = ((x2 - x1) * float(spacing_mm[1]), (y2 - y1) * float(spacing_mm[0]))
        findings.append(Finding((x1, y1, x2, y2), float(prediction.scores[index]), size))
    flag = POSITIVE if findings else INDETERMINATE if "degraded" in warnings else NEGATIVE
    best = float(prediction.scores.max()) if len(prediction.scores) else 0.0
    return ImageResult(findings, best, flag, tuple(warnings))
