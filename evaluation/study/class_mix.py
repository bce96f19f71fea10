"""Mix of the three image classes, and image weights that give a study a stated mix.

Normal negatives are easier than not normal ones, so that specificity, predictive values, AUROC and
the RSNA score depend on the share of each in a study.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.metrics.matching import Float64Array, IntArray
from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.label_table import LUNG_OPACITY, NORMAL, NOT_NORMAL

CLASS_ORDER = (NORMAL, NOT_NORMAL, LUNG_OPACITY)  # stratum 0, 1, 2


@dataclass(frozen=True)
class ClassMix:
    """Shares of the three classes in a population."""

    # opacity, not_normal, normal: counts of images, or shares (they need not sum to 1)
    opacity: float
    not_normal: float
    normal: float
    name: str = "stated mix"  # name of the population in reports

    @property
    def shares(self) -> Float64Array:
        """(3,) float64 shares in `CLASS_ORDER`, with sum 1."""
        counts = np.array([self.normal, self.not_normal, self.opacity], dtype=np.float64)
        return np.asarray(counts / counts.sum())

    @property
    def text(self) -> str:
        """Text for reports: `RSNA stage 2 (22.5 % opacity, 44.3 % not normal, 33.2 % normal)`."""
        normal, not_normal, opacity = 100 * self.shares
        return (
            f"{self.name} ({opacity:.1f} % opacity, {not_normal:.1f} % not normal, "
            f"{normal:.1f} % normal)"
        )


RSNA_MIX = ClassMix(6012, 11821, 8851, "RSNA stage 2")  # images of its training set


def parse_mix(text: str) -> ClassMix:
    """Parse `rsna`, or `OPACITY:NOT_NORMAL:NORMAL` as counts or shares.

    Raises:
        ConfigError: Not three finite numbers >= 0, or no opacity, or no negative.
    """
    if text == "rsna":
        return RSNA_MIX
    try:
        opacity, not_normal, normal = (float(part) for part in text.split(":"))
    except ValueError:
        opacity = not_normal = normal = float("nan")
    parts = (opacity, not_normal, normal)
    if not np.isfinite(parts).all() or min(parts) < 0 or opacity == 0 or not_normal + normal == 0:
        raise ConfigError(
            "Mix of classes is not valid",
            expected="`rsna`, or OPACITY:NOT_NORMAL:NORMAL such as 6012:11821:8851",
            found=repr(text),
        )
    return ClassMix(opacity, not_normal, normal, text)


def class_strata(cases: EvaluationCases) -> IntArray:
    """(N,) index into `CLASS_ORDER` of every image; an image with a truth box is an opacity.

    Raises:
        DataError: The class of a negative image is not known.
    """
    strata = np.where(cases.negatives_of_class(NOT_NORMAL), 1, 0)
    strata[cases.positive] = 2
    unknown = (
        ~cases.positive & ~cases.negatives_of_class(NORMAL) & ~cases.negatives_of_class(NOT_NORMAL)
    )
    if unknown.any():
        raise DataError(
            "The class of negative images is not known",
            expected=f"{NORMAL} or {NOT_NORMAL} for every image without an opacity",
            found=f"{int(unknown.sum())} of {len(cases)} images without a class",
            fix="Give the csv of classes with --classes",
        )
    return np.asarray(strata, dtype=np.intp)


def mix_weights(strata: IntArray, mix: ClassMix) -> Float64Array:
    """(N,) weight of each image, mean 1: share in the mix / share in the study.

    Raises:
        DataError: The mix has a class of which the study has no image.
    """
    counts = np.bincount(strata, minlength=len(CLASS_ORDER))
    missing = [
        name
        for name, n, share in zip(CLASS_ORDER, counts, mix.shares, strict=True)
        if share > 0 and n == 0
    ]
    if missing:
        raise DataError(
            "The study has no image of a class of the mix",
            expected=mix.text,
            found="no image of class " + ", ".join(missing),
        )
    by_class = mix.shares * len(strata) / np.maximum(counts, 1)
    return np.asarray(by_class[strata])


def why_no_mix(cases: EvaluationCases, mix: ClassMix) -> str:
    """The reason why results at a mix cannot be computed; empty when they can."""
    try:
        mix_weights(class_strata(cases), mix)
    except DataError as error:
        return str(error)
    return ""
