"""Two models on the same images: differences with paired intervals, and non-inferiority.

Every draw holds the same patients for all models, so that the hardness of images cancels out.
A model is *non-inferior* when the lower end of the 95 % interval of (model minus reference) lies
above minus the margin; the margin has to be stated before looking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.analysis.catalogue import MatchedStudy, headline_statistics
from evaluation.analysis.subgroups import (
    METRICS,
    Subgroup,
    draw_sets,
    group_statistics,
    interval,
    withheld,
)
from evaluation.metrics.bootstrap import Estimate, Resampler, summarise
from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.progress import Progress

DEFAULT_MARGINS = {"rsna": 0.02, "image.auroc": 0.02}
LOWER_IS_BETTER = ("calibration.", ".false_boxes_per_image")
UNJUDGED = "not judged"


@dataclass(frozen=True)
class MetricDifference:
    """One metric of a model against the reference.

    Attributes:
        metric: Key of metrics.json.
        value: The model's own estimate.
        reference: The reference's estimate.
        delta: Model minus reference, interval from the same draws.
        margin: Non-inferiority margin; None = none stated.
        verdict: `non-inferior`, `inferior`, `inconclusive` or `not judged`.
    """

    metric: str
    value: Estimate
    reference: Estimate
    delta: Estimate
    margin: float | None
    verdict: str


@dataclass(frozen=True)
class SubgroupDelta:
    """One metric of a model against the reference in a group of images.

    Attributes:
        facet, name: The group; n images of which n_positive are positive.
        metric: One of `subgroups.METRICS`.
        delta: Model minus reference.
    """

    facet: str
    name: str
    n: int
    n_positive: int
    metric: str
    delta: Estimate


@dataclass(frozen=True)
class ModelComparison:
    """A model against the reference.

    Attributes:
        model, reference: Names.
        differences: Metric -> difference.
        groups: Deltas by group.
    """

    model: str
    reference: str
    differences: Mapping[str, MetricDifference]
    groups: Sequence[SubgroupDelta] = field(default_factory=tuple)


def check_same_images(cases: Sequence[EvaluationCases]) -> None:
    """Refuse prediction files of different images.

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
) -> list[ModelComparison]:
    """Compare every study with the first.

    Args:
        studies: Name -> study, of the same images in the same order; the first is the reference.
        resampler: Draws shared by all.
        margins: Metric or prefix of metrics (`rsna` means every `rsna.*`) -> margin.
        progress: Told the draws done.

    Raises:
        DataError: The images differ, or fewer than two studies.
    """
    if len(studies) < 2:
        raise DataError("Nothing to compare", expected="two or more prediction files")
    check_same_images([study.cases for study in studies.values()])
    names = list(studies)
    sets = [{item.name: item for item in headline_statistics(study)} for study in studies.values()]
    drawn, once = draw_sets(sets, resampler, progress)
    own = [
        {key: summarise(item, drawn[f"{i}.{key}"], resampler) for key, item in group.items()}
        for i, group in enumerate(sets)
    ]
    comparisons = []
    for index in range(1, len(names)):
        differences = {}
        for metric in sets[0]:
            if metric not in sets[index]:
                continue
            here, there = f"{index}.{metric}", f"0.{metric}"
            delta = interval(
                once[here] - once[there], drawn[here] - drawn[there], own[index][metric].n
            )
            margin = find_margin(metric, DEFAULT_MARGINS if margins is None else margins)
            differences[metric] = MetricDifference(
                metric,
                own[index][metric],
                own[0][metric],
                delta,
                margin,
                judge(metric, delta, margin),
            )
        comparisons.append(ModelComparison(names[index], names[0], differences))
    return comparisons


def find_margin(metric: str, margins: Mapping[str, float]) -> float | None:
    """The margin stated for a metric or for its family; None when there is none."""
    if metric in margins:
        return margins[metric]
    return margins.get(metric.partition(".")[0])


def judge(metric: str, delta: Estimate, margin: float | None) -> str:
    """Non-inferiority of a difference (model minus reference)."""
    if margin is None or not np.isfinite(delta.ci_low):
        return UNJUDGED
    low, high = delta.ci_low, delta.ci_high
    if any(part in metric for part in LOWER_IS_BETTER):
        low, high = -high, -low
    if low > -margin:
        return "non-inferior"
    return "inferior" if high < -margin else "inconclusive"


def compare_groups(
    studies: Mapping[str, MatchedStudy],
    point: str,
    groups: Sequence[Subgroup],
    resampler: Resampler,
    progress: Progress | None = None,
) -> dict[str, list[SubgroupDelta]]:
    """How the difference to the first study varies over groups, by model.

    Args:
        studies: As for `compare_studies`.
        point: Operating point of sensitivity, specificity and challenge score.
        groups: Groups of the images (they are the same for all studies).
        resampler: Draws shared by all.
        progress: Told the draws done.
    """
    sets = [
        group_statistics(study, point, group.mask) for study in studies.values() for group in groups
    ]
    drawn, once = draw_sets(sets, resampler, progress)
    result: dict[str, list[SubgroupDelta]] = {}
    for index, name in enumerate(studies):
        if index == 0:
            continue
        rows = []
        for number, group in enumerate(groups):
            mine = index * len(groups) + number
            n_positive = int((group.mask & next(iter(studies.values())).cases.positive).sum())
            for metric in METRICS:
                here, there = f"{mine}.{metric}", f"{number}.{metric}"
                known = here in once and there in once
                delta = (
                    interval(
                        once[here] - once[there],
                        drawn[here] - drawn[there],
                        sets[number][metric].n,
                    )
                    if known
                    else withheld(metric, n_positive, int(group.mask.sum()) - n_positive)
                )
                rows.append(
                    SubgroupDelta(
                        group.facet, group.name, int(group.mask.sum()), n_positive, metric, delta
                    )
                )
        result[name] = rows
    return result
