"""Results at a stated mix of image classes.

A study often has other shares of opacity, not normal and normal images than the population to which
its results are applied. Specificity, predictive values, AUROC and the RSNA score depend on these
shares, above all on how many negatives are normal, because normal negatives are easier. With the
class of every image known, each image of class c gets the weight

    share of c in the mix / share of c in the study

and every statistic is computed with these weights. Results per class are unchanged. Bootstrap
draws are stratified by class (`class_strata`): the intervals are those of a study designed with
fixed class counts (case-control).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaluation.analysis.catalogue import (
    MatchedStudy,
    box_statistics,
    image_statistics,
    point_statistics,
    rsna_statistics,
)
from evaluation.analysis.paired import ModelComparison, compare_studies
from evaluation.metrics.bootstrap import (
    AnyStatistic,
    Estimate,
    RatioStatistic,
    Resampler,
    estimate_all,
)
from evaluation.metrics.calibration import calibration_statistics
from evaluation.metrics.matching import Float64Array
from evaluation.study.class_mix import RSNA_MIX, ClassMix, class_strata, mix_weights
from pneumonia.runtime.progress import Progress


class _WeightedBlocks:
    """Blocks of draws times the image weights; the latest product is kept for all statistics."""

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
    """The same statistics with a weight for every image."""
    blocks = _WeightedBlocks(weights)

    def weighted(item: AnyStatistic) -> AnyStatistic:
        if isinstance(item, RatioStatistic):
            return replace(
                item,
                numerator=item.numerator * weights,
                denominator=item.denominator * weights,
            )
        compute = item.compute
        return replace(item, compute=lambda block: compute(blocks.of(block)))

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
    """`study_statistics` at a mix.

    Raises:
        DataError: A class is not known, or absent.
    """
    return reweight(study_statistics(study), mix_weights(class_strata(study.cases), mix))


@dataclass(frozen=True)
class MixEstimates:
    """One study at a mix."""

    mix: ClassMix  # shares of the classes
    estimates: Mapping[str, Estimate]  # metric -> estimate at the mix
    effective_images: float  # images of equal weight that would be as precise (Kish)


def estimate_at_mix(
    study: MatchedStudy,
    mix: ClassMix = RSNA_MIX,
    draws: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> MixEstimates:
    """`study_statistics` at a mix; intervals from draws of patients stratified by class.

    Raises:
        DataError: A class is not known, or absent.
    """
    strata = class_strata(study.cases)
    weights = mix_weights(strata, mix)
    items = reweight(study_statistics(study), weights)
    resampler = Resampler(study.cases.patients, strata, draws, seed)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return MixEstimates(mix, estimate_all(items, resampler, progress), effective)


def compare_at_mix(
    studies: Mapping[str, MatchedStudy],
    mix: ClassMix,
    resampler: Resampler,
    margins: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    tuned_here: Mapping[str, bool] | None = None,
) -> list[ModelComparison]:
    """`paired.compare_studies` at a mix.

    The draws are stratified by class; the strata of `resampler` are not used.
    """
    cases = next(iter(studies.values())).cases
    by_class = replace(resampler, strata=class_strata(cases))
    return compare_studies(
        studies, by_class, margins, progress, tuned_here, lambda study: mix_statistics(study, mix)
    )
