"""Two models on the same images: differences with paired intervals, and non-inferiority.

Every bootstrap draw has the same patients for all models, so that the difficulty of the images
cancels out. A model is *non-inferior* when the lower end of the 95 % interval of (model minus
reference) lies above minus the margin, which has to be fixed before the results are seen. No
verdict is given

* on too few patients (`PATIENTS_MIN`, `POSITIVES_MIN`), where no interval can be trusted,
* on a metric that depends on the threshold, when the threshold of one model was chosen on these
  images and that of the other was not: the first model's result is optimistic.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evaluation.analysis.catalogue import MatchedStudy, headline_statistics
from evaluation.analysis.subgroups import (
    METRICS,
    DrawnSets,
    Subgroup,
    gap_estimate,
    group_statistics,
    withheld,
)
from evaluation.metrics.bootstrap import (
    AnyStatistic,
    Estimate,
    Resampler,
    count_patients,
    image_weight,
)
from evaluation.metrics.intervals import difference_reach, standard_error
from evaluation.metrics.matching import Float64Array
from evaluation.metrics.multiplicity import holm
from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.progress import Progress

DEFAULT_MARGINS = {"rsna": 0.02, "image.auroc": 0.02}
LOWER_IS_BETTER = ("calibration.", ".false_boxes_per_image")
PATIENTS_MIN = 30
POSITIVES_MIN = 10
NON_INFERIOR = "non-inferior"
INFERIOR = "inferior"
INCONCLUSIVE = "inconclusive"
UNJUDGED = "not judged"
TOO_FEW = "too few"
UNEQUAL = "not judged: one threshold was chosen on these images"
RANKING_FAMILIES = ("coco.", "image.", "calibration.", "froc.")  # do not depend on a threshold
POWER_Z = 0.8416212335729143  # 80 % point of the normal distribution
MOST_PATIENTS = 10_000_000


def patients_needed(
    error: float, n_patients: int, weight: float, margin: float, all_patients: int | None = None
) -> int | None:
    """Patients at which two equal models get the verdict `non-inferior` in 80 % of studies.

    The standard error scales with 1 / sqrt(patients), the effect of one image with 1 / patients.

    Args:
        error: Standard error of the paired difference over patients.
        n_patients: Patients the difference rests on (>= 2).
        weight: Change of the statistic when one image is lost (`bootstrap.image_weight`).
        margin: Largest loss that is accepted, > 0.
        all_patients: All patients of the study, of which the difference rests on `n_patients`; the
            result is scaled by this ratio. None = `n_patients`.

    Returns:
        The number of patients; None when it cannot be computed or is above ten million.
    """
    if n_patients < 2 or not math.isfinite(error + weight):
        return None
    per_patient = (all_patients or n_patients) / n_patients

    def reached(n: int) -> bool:
        spread, one = error * math.sqrt(n_patients / n), weight * n_patients / n
        return difference_reach(spread, n, one) + POWER_Z * spread < margin

    low, high = 2, 4
    while not reached(high):
        low, high = high, 2 * high
        if high > MOST_PATIENTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return math.ceil(high * per_patient)


@dataclass(frozen=True)
class MetricDifference:
    """One metric of a model against the reference."""

    metric: str  # key of metrics.json
    value: Estimate  # the model's own estimate
    reference: Estimate  # the reference's estimate
    delta: Estimate  # model minus reference, interval from the same draws
    margin: float | None  # non-inferiority margin; None = none stated
    # `non-inferior`, `inferior`, `inconclusive`, `too few` or `not judged`, with the reason where
    # there is one
    verdict: str
    # patients for a non-inferiority verdict with a probability of 80 % if the models are equal;
    # None without a margin
    patients_needed: int | None = None


@dataclass(frozen=True)
class SubgroupDelta:
    """One metric of a model against the reference in a group of images."""

    # facet, name: the group; n images of which n_positive are positive
    facet: str
    name: str
    n: int
    n_positive: int
    metric: str  # one of `subgroups.METRICS`
    delta: Estimate  # model minus reference
    # of a difference of 0, not corrected; NaN where nothing is compared
    p_value: float = float("nan")
    survives: bool = False  # whether it remains after Holm's correction over all groups and metrics


@dataclass(frozen=True)
class ModelComparison:
    """A model against the reference."""

    # model, reference: names
    model: str
    reference: str
    differences: Mapping[str, MetricDifference]  # metric -> difference
    groups: Sequence[SubgroupDelta] = field(default_factory=tuple)  # deltas by group


def check_same_images(cases: Sequence[EvaluationCases]) -> None:
    """Check that all studies have the same images.

    Raises:
        DataError: The evaluated ids differ.
    """
    for other in cases[1:]:
        if other.ids != cases[0].ids:
            alone = len(set(other.ids) ^ set(cases[0].ids))
            raise DataError(
                "Prediction files are not of the same images",
                expected="the same labelled ids in every file",
                found=f"{alone} ids in one of two files only",
                fix="Score the same folder with every model, or name a --subset",
            )


def compare_studies(
    studies: Mapping[str, MatchedStudy],
    resampler: Resampler,
    margins: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    tuned_here: Mapping[str, bool] | None = None,
    statistics: Callable[[MatchedStudy], Sequence[AnyStatistic]] = headline_statistics,
) -> list[ModelComparison]:
    """Compare every study with the first.

    Args:
        studies: Name -> study, of the same images in the same order; the first is the reference.
        resampler: Draws shared by all.
        margins: Metric or prefix of metrics (`rsna` means every `rsna.*`) -> margin.
        tuned_here: Name -> whether its thresholds were chosen on these images; None = of no model.
        statistics: Study -> statistics to compare; `mix.mix_statistics` for a mix of classes.

    Raises:
        DataError: The images differ, or fewer than two studies.
    """
    if len(studies) < 2:
        raise DataError("Nothing to compare", expected="two or more prediction files")
    check_same_images([study.cases for study in studies.values()])
    names = list(studies)
    sets = [{item.name: item for item in statistics(study)} for study in studies.values()]
    drawn = DrawnSets(sets, resampler, progress)
    references = {metric: drawn.estimate(metric, 0) for metric in sets[0]}
    margins = DEFAULT_MARGINS if margins is None else margins
    too_few = _too_few(next(iter(studies.values())).cases)
    tuned = tuned_here or {}
    comparisons = []
    for index in range(1, len(names)):
        unequal = tuned.get(names[index], False) != tuned.get(names[0], False)
        differences = {}
        for metric in sets[0]:
            if metric not in sets[index]:
                continue
            here, there = f"{index}.{metric}", f"0.{metric}"
            pair = (sets[0][metric], sets[index][metric])
            margin = find_margin(metric, margins)
            values = (drawn.values[there], drawn.values[here])
            gap = drawn.draws[here] - drawn.draws[there]
            delta, needed = _difference(pair, values, gap, resampler, margin)
            verdict = judge(metric, delta, margin, too_few, unequal)
            differences[metric] = MetricDifference(
                metric,
                drawn.estimate(metric, index),
                references[metric],
                delta,
                margin,
                verdict,
                needed,
            )
        comparisons.append(ModelComparison(names[index], names[0], differences))
    return comparisons


def _too_few(cases: EvaluationCases) -> bool:
    n_positive = len(np.unique(cases.patients[cases.positive]))
    return len(np.unique(cases.patients)) < PATIENTS_MIN or n_positive < POSITIVES_MIN


def _difference(
    pair: tuple[AnyStatistic, AnyStatistic],
    values: tuple[float, float],
    drawn: Float64Array,
    resampler: Resampler,
    margin: float | None,
) -> tuple[Estimate, int | None]:
    """Difference (model minus reference) and the patients needed for a verdict at the margin."""
    patients = resampler.patients
    n_patients = min(count_patients(item, patients) for item in pair)
    weight = max(image_weight(*both, patients) for both in zip(pair, values, strict=True))
    delta, _ = gap_estimate(values[1] - values[0], drawn, pair[1].n, n_patients, weight)
    if margin is None:
        return delta, None
    all_patients = len(np.unique(patients))
    error = standard_error(drawn)
    return delta, patients_needed(error, n_patients, weight, margin, all_patients)


def find_margin(metric: str, margins: Mapping[str, float]) -> float | None:
    """The margin of a metric, or of its family (the name up to the first dot); None = none."""
    return margins.get(metric, margins.get(metric.partition(".")[0]))


def judge(
    metric: str,
    delta: Estimate,
    margin: float | None,
    too_few: bool = False,
    unequal: bool = False,
) -> str:
    """Verdict on the non-inferiority of a difference (model minus reference).

    Args:
        metric: Key of metrics.json; lower is better for those in `LOWER_IS_BETTER`.
        delta: The difference with its interval.
        margin: Largest loss that is accepted; None = no verdict.
        too_few: The study has too few patients for any verdict.
        unequal: The thresholds of only one of the models were chosen on these images.
    """
    if margin is None:
        return UNJUDGED
    if too_few:
        return TOO_FEW
    if unequal and not metric.startswith(RANKING_FAMILIES):
        return UNEQUAL
    if not np.isfinite(delta.ci_low):
        return UNJUDGED
    low, high = delta.ci_low, delta.ci_high
    if any(part in metric for part in LOWER_IS_BETTER):
        low, high = -high, -low
    if low > -margin:
        return NON_INFERIOR
    return INFERIOR if high < -margin else INCONCLUSIVE


def compare_groups(
    studies: Mapping[str, MatchedStudy],
    point: str,
    groups: Sequence[Subgroup],
    resampler: Resampler,
    progress: Progress | None = None,
) -> dict[str, list[SubgroupDelta]]:
    """Difference to the first study in every group, by model.

    Args:
        studies: As for `compare_studies`.
        point: Operating point of sensitivity, specificity and challenge score.
        groups: Groups of the images (they are the same for all studies).
    """
    sets = [
        group_statistics(study, point, group.mask, group.base)
        for study in studies.values()
        for group in groups
    ]
    drawn = DrawnSets(sets, resampler, progress)
    positive = next(iter(studies.values())).cases.positive
    result: dict[str, list[SubgroupDelta]] = {}
    for index, name in enumerate(studies):
        if index == 0:
            continue
        rows = []
        for number, group in enumerate(groups):
            n, n_positive = int(group.mask.sum()), int((group.mask & positive).sum())
            for metric in METRICS:
                place = index * len(groups) + number
                delta, p_value = withheld(metric, n_positive, n - n_positive), float("nan")
                if drawn.have_statistic(metric, place, number):
                    delta, p_value = drawn.estimate_difference(
                        metric, place, number, units_of=number
                    )
                rows.append(
                    SubgroupDelta(group.facet, group.name, n, n_positive, metric, delta, p_value)
                )
        rejected = holm([row.p_value for row in rows])
        result[name] = [
            replace(row, survives=survives) for row, survives in zip(rows, rejected, strict=True)
        ]
    return result
