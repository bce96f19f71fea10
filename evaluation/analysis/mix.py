"""Results at a stated mix of image classes.

A study often holds other shares of opacity, not normal and normal images than the population it
is read for. Specificity, predictive values, AUROC and the RSNA score depend on these shares, above
all on how many negatives are normal, because normal negatives are easier. With the class of every
image known, each image of class c gets the weight

    share of c in the mix / share of c in the study

and every statistic is computed with these weights. Results per class are unchanged. The draws of
the bootstrap hold each class apart (`class_strata`), so that the intervals are those of a study
designed with fixed class counts (case-control).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.analysis.catalogue import (
    MatchedStudy,
    box_statistics,
    image_statistics,
    point_statistics,
    rsna_statistics,
)
from evaluation.analysis.paired import check_same_images
from evaluation.metrics.bootstrap import (
    AnyStatistic,
    Estimate,
    RatioStatistic,
    Resampler,
    Statistic,
    draw_all,
    estimate_all,
    percentile_interval,
    summarise,
)
from evaluation.metrics.calibration import calibration_statistics
from evaluation.metrics.matching import Float64Array, IntArray
from evaluation.study.cases import EvaluationCases
from evaluation.study.cohort import LUNG_OPACITY, NORMAL, NOT_NORMAL
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.progress import Progress

CLASS_ORDER = (NORMAL, NOT_NORMAL, LUNG_OPACITY)  # stratum 0, 1, 2
PREFIX = "mix."  # of a statistic's name when it is computed at the mix


@dataclass(frozen=True)
class ClassMix:
    """Shares of the three classes of a population; any positive scale.

    Attributes:
        opacity, not_normal, normal: Images, or shares.
        name: Of the population, for the reader.
    """

    opacity: float
    not_normal: float
    normal: float
    name: str = "stated mix"

    @property
    def shares(self) -> Float64Array:
        """(3,) shares in `CLASS_ORDER`, sum 1."""
        counts = np.array([self.normal, self.not_normal, self.opacity], dtype=np.float64)
        return np.asarray(counts / counts.sum())

    @property
    def text(self) -> str:
        """For the reader: `RSNA stage 2 (22.5 % opacity, 44.3 % not normal, 33.2 % normal)`."""
        normal, not_normal, opacity = 100 * self.shares
        return (
            f"{self.name} ({opacity:.1f} % opacity, {not_normal:.1f} % not normal, "
            f"{normal:.1f} % normal)"
        )


RSNA_MIX = ClassMix(6012, 11821, 8851, "RSNA stage 2")  # images of its training set


def parse_mix(text: str) -> ClassMix:
    """`rsna`, or `OPACITY:NOT_NORMAL:NORMAL` as counts or shares.

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
    strata = np.where(cases.of_class(NOT_NORMAL), 1, 0)
    strata[cases.positive] = 2
    unknown = ~cases.positive & ~cases.of_class(NORMAL) & ~cases.of_class(NOT_NORMAL)
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
        DataError: The mix holds a class of which the study has no image.
    """
    counts = np.bincount(strata, minlength=len(CLASS_ORDER))
    missing = [
        name
        for name, n, share in zip(CLASS_ORDER, counts, mix.shares, strict=True)
        if share > 0 and n == 0
    ]
    if missing:
        raise DataError(
            "The study holds no image of a class of the mix",
            expected=mix.text,
            found="no image of class " + ", ".join(missing),
        )
    by_class = mix.shares * len(strata) / np.maximum(counts, 1)
    return np.asarray(by_class[strata])


class _WeightedBlocks:
    """Blocks of draws times the weights; one block is multiplied once for all its statistics."""

    def __init__(self, weights: Float64Array) -> None:
        self._weights = weights
        self._block: Float64Array | None = None
        self._product: Float64Array | None = None

    def of(self, block: Float64Array) -> Float64Array:
        """(D, N) block * weights; the same block gives the same array."""
        if self._product is None or self._block is not block:
            self._block, self._product = block, block * self._weights
        return self._product


def reweight(statistics: Sequence[AnyStatistic], weights: Float64Array) -> list[AnyStatistic]:
    """The same statistics with a weight for every image, their names prefixed with `mix.`."""
    blocks = _WeightedBlocks(weights)

    def weighted(item: AnyStatistic) -> AnyStatistic:
        if isinstance(item, RatioStatistic):
            return RatioStatistic(
                PREFIX + item.name, item.n, item.numerator * weights, item.denominator * weights
            )
        compute = item.compute
        return Statistic(PREFIX + item.name, item.n, lambda block: compute(blocks.of(block)))

    return [weighted(item) for item in statistics]


def study_statistics(study: MatchedStudy) -> list[AnyStatistic]:
    """The statistics that depend on the mix: RSNA score, boxes, image level, operating points.

    The predictive values at stated prevalences are left out (they have a prevalence of their own),
    and so is the calibration error, whose bins are those of the study.
    """
    items = [
        *rsna_statistics(study),
        *box_statistics(study, froc=False),
        *image_statistics(study.cases),
    ]
    for name, threshold in study.thresholds.items():
        items += [
            item for item in point_statistics(study, name, threshold) if "_at_" not in item.name
        ]
    return [*items, calibration_statistics(study.cases.positive, study.cases.image_score)[0]]


def mix_statistics(study: MatchedStudy, mix: ClassMix) -> list[AnyStatistic]:
    """`mix.*`: `study_statistics` at a mix.

    Raises:
        DataError: A class is not known, or absent.
    """
    return reweight(study_statistics(study), mix_weights(class_strata(study.cases), mix))


@dataclass(frozen=True)
class MixResult:
    """One model at a mix.

    Attributes:
        as_found: Metric -> estimate with the study's own shares of the classes.
        at_mix: Metric -> estimate at the mix; names as in `as_found`, without the prefix.
        differences: Metric -> model minus reference at the mix, interval from the same draws;
            empty for the reference.
        effective_images: Images of equal weight that would be as precise (Kish).
    """

    as_found: Mapping[str, Estimate]
    at_mix: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    effective_images: float


def evaluate_at_mix(
    studies: Mapping[str, MatchedStudy],
    mix: ClassMix = RSNA_MIX,
    draws: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, MixResult]:
    """Models on the same images, as found and at a mix, with paired differences to the first.

    Args:
        studies: Name -> study of the same images in the same order (`catalogue.open_study` of
            `cases.join(labels, predictions, cohort)`); the first is the reference.
        mix: Shares of the classes.
        draws: Draws of the bootstrap over patients, each class drawn apart.
        seed: Seed of the draws.
        progress: Called with the draws done.

    Raises:
        DataError: The images differ, or a class is not known or absent.
    """
    check_same_images([study.cases for study in studies.values()])
    cases = next(iter(studies.values())).cases
    strata = class_strata(cases)
    weights = mix_weights(strata, mix)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    resampler = Resampler(cases.patients, strata, draws, seed)
    results: dict[str, MixResult] = {}
    first: dict[str, Float64Array] = {}
    for name, study in studies.items():
        own = study_statistics(study)
        at_mix = [replace(item, name=item.name.removeprefix(PREFIX))
                  for item in reweight(own, weights)]  # fmt: skip
        drawn = draw_all(at_mix, resampler, progress)
        estimates = {item.name: summarise(item, drawn[item.name], resampler) for item in at_mix}
        differences = {}
        for metric, values in drawn.items():
            if results and metric in first:
                reference = next(iter(results.values())).at_mix[metric]
                low, high = percentile_interval(values - first[metric])
                differences[metric] = Estimate(
                    estimates[metric].value - reference.value, low, high, len(cases),
                    "paired percentile bootstrap over patients, classes drawn apart",
                )  # fmt: skip
        results[name] = MixResult(
            estimate_all(own, resampler, progress), estimates, differences, effective
        )
        first = first or drawn
    return results
