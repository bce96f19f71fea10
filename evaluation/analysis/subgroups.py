"""Metrics of groups of images and their gap to all images; small cells are suppressed.

The RSNA score grows with the prevalence, and groups differ in prevalence more than in anything else
(bedside images are taken of sicker patients). A group's score is therefore computed at the
prevalence of the images that it is compared with: its positives and its negatives are weighted.
Sensitivity, specificity and AUROC do not depend on the prevalence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from evaluation.analysis.catalogue import MatchedStudy, masked_auroc, share
from evaluation.metrics.bootstrap import (
    AnyStatistic,
    Estimate,
    RatioStatistic,
    Resampler,
    Statistic,
    count_patients,
    draw_all,
    image_weight,
    summarise,
)
from evaluation.metrics.intervals import NONE, PAIRED, difference_interval, standard_error
from evaluation.metrics.matching import BoolArray, Float64Array, area
from evaluation.metrics.multiplicity import holm, two_sided_p
from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.age_text import age_band, age_years
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL
from pneumonia.runtime.progress import Progress

CELL_MIN = 30  # metrics over fewer positive (or negative) images are suppressed
METRICS = ("rsna", "auroc", "sensitivity", "specificity")
SUPPRESSED = f"suppressed: computed from fewer than {CELL_MIN} positive (or negative) images"
NOT_APPLICABLE = "not applicable: the group has none of the images that the metric needs"


@dataclass(frozen=True)
class Subgroup:
    """A group of images."""

    facet: str  # the attribute that divides the images, for example `view`
    name: str  # its value, for example `AP`
    mask: BoolArray  # (N,) images of the group
    # (N,) images that the group is compared with: all, or all positives (negatives) when only these
    # can be in the facet
    base: BoolArray


@dataclass(frozen=True)
class SubgroupResult:
    """Numbers of one group."""

    # facet, name: the group
    facet: str
    name: str
    # n, n_positive: images, positive images
    n: int
    n_positive: int
    # metric -> estimate; NaN with method `SUPPRESSED` in small cells
    values: Mapping[str, Estimate] = field(default_factory=dict)
    # metric -> (group minus its base), with its interval from the same draws
    gaps: Mapping[str, Estimate] = field(default_factory=dict)
    # metric -> P value of a gap of 0, not corrected; absent where nothing is compared
    p_values: Mapping[str, float] = field(default_factory=dict)
    # metrics whose gap remains after Holm's correction over all groups and metrics
    survives: frozenset[str] = frozenset()


def find_groups(cases: EvaluationCases) -> tuple[list[Subgroup], dict[str, int]]:
    """Groups by every attribute with at least two known values.

    Returns:
        The groups, and facet -> number of images whose value is absent or implausible.
    """
    groups: list[Subgroup] = []
    left_out: dict[str, int] = {}
    positive = cases.positive
    facets = {
        "view": list(cases.fact("view")),
        "sex": list(cases.fact("sex")),
        "age": [age_band(age_years(value)) for value in cases.fact("age")],
        "photometric": list(cases.fact("photometric")),
        "manufacturer": list(cases.fact("manufacturer")),
        "opacity area": _area_terciles(cases),
        "number of opacities": [_count_name(len(rows)) for rows in cases.truths],
        "kind of negative": [
            value if value in (NORMAL, NOT_NORMAL) and not is_positive else ""
            for value, is_positive in zip(cases.fact("class"), positive, strict=True)
        ],
    }
    for facet, names in facets.items():
        column = np.array(names, dtype=object)
        known = sorted({name for name in names if name})
        if len(known) < 2:
            continue
        counted = _counted(facet, positive)
        groups += [
            Subgroup(facet, name, np.asarray(column == name, dtype=bool), counted) for name in known
        ]
        absent = int((np.asarray(column == "", dtype=bool) & counted).sum())
        if absent:
            left_out[facet] = absent
    return groups, left_out


def _counted(facet: str, positive: BoolArray) -> BoolArray:
    if facet in ("opacity area", "number of opacities"):
        return positive
    return ~positive if facet == "kind of negative" else np.ones_like(positive)


def group_statistics(
    study: MatchedStudy, point: str, group: BoolArray, base: BoolArray | None = None
) -> dict[str, AnyStatistic]:
    """Metric -> statistic over the images of a group; absent where a cell is too small.

    Args:
        point: Operating point of RSNA score, sensitivity and specificity.
        group: (N,) images of the group.
        base: (N,) images to whose prevalence the RSNA score is weighted; None = the group itself.
    """
    cases = study.cases
    positive, called = cases.positive, cases.image_score >= study.thresholds[point]
    n_positive, n_negative = int((positive & group).sum()), int((~positive & group).sum())
    items: dict[str, AnyStatistic] = {}
    base = group if base is None else base
    has_negatives = bool((~positive & base).any())
    if n_positive >= CELL_MIN:
        if n_negative >= CELL_MIN or not has_negatives:
            items["rsna"] = _rsna_at_prevalence(study, point, group, base)
        items["sensitivity"] = share("sensitivity", called, positive & group)
    if n_negative >= CELL_MIN:
        items["specificity"] = share("specificity", ~called, ~positive & group)
    if min(n_positive, n_negative) >= CELL_MIN:
        compute = partial(masked_auroc, positive, cases.image_score, group.astype(np.float64))
        masks = (positive & group, ~positive & group)
        items["auroc"] = Statistic("auroc", n_positive + n_negative, compute, rests_on=masks)
    return items


def _rsna_at_prevalence(
    study: MatchedStudy, point: str, group: BoolArray, base: BoolArray
) -> RatioStatistic:
    """The challenge score of a group, its positives weighted to the prevalence of the base."""
    positive = study.cases.positive
    scores = study.table.image_scores(study.thresholds[point])
    counted = np.isfinite(scores) & group
    weights = np.zeros(len(positive))
    for label in (positive, ~positive):
        share_of_base = (label & base).sum() / base.sum()
        share_of_group = (label & group).sum() / group.sum()
        if share_of_group > 0:
            weights[label & group] = share_of_base / share_of_group
    return RatioStatistic(
        "rsna",
        int(counted.sum()),
        np.where(counted, scores, 0.0) * weights,
        counted * weights,
    )


def evaluate_groups(
    study: MatchedStudy,
    point: str,
    groups: Sequence[Subgroup],
    resampler: Resampler,
    progress: Progress | None = None,
) -> list[SubgroupResult]:
    """Values and gaps of every group at one operating point.

    All groups share the bootstrap draws: the interval of a gap is a paired one.
    """
    bases = [
        np.asarray(row, dtype=bool) for row in {g.base.tobytes(): g.base for g in groups}.values()
    ]
    places = {base.tobytes(): index for index, base in enumerate(bases)}
    sets = [group_statistics(study, point, base) for base in bases]
    sets += [group_statistics(study, point, group.mask, group.base) for group in groups]
    drawn = DrawnSets(sets, resampler, progress)
    results = []
    for index, group in enumerate(groups, start=len(bases)):
        base = places[group.base.tobytes()]
        n_positive = int((group.mask & study.cases.positive).sum())
        values, gaps, p_values = {}, {}, {}
        for metric in METRICS:
            if not drawn.have_statistic(metric, index, base):
                n = int(group.mask.sum())
                values[metric] = gaps[metric] = withheld(metric, n_positive, n - n_positive)
                continue
            values[metric] = drawn.estimate(metric, index)
            gaps[metric], p_values[metric] = drawn.estimate_difference(
                metric, index, base, same_images=False
            )
        results.append(
            SubgroupResult(
                group.facet, group.name, int(group.mask.sum()), n_positive, values, gaps, p_values
            )
        )
    return _mark_survivors(results)


def _mark_survivors(results: Sequence[SubgroupResult]) -> list[SubgroupResult]:
    """Holm's correction over all gaps of all groups."""
    keys = [(place, metric) for place, item in enumerate(results) for metric in item.p_values]
    rejected = holm([results[place].p_values[metric] for place, metric in keys])
    kept = [key for key, is_rejected in zip(keys, rejected, strict=True) if is_rejected]
    return [
        replace(item, survives=frozenset(metric for index, metric in kept if index == place))
        for place, item in enumerate(results)
    ]


class DrawnSets:
    """Several sets of statistics (name -> statistic) on the same bootstrap draws.

    Attributes:
        draws: `place of the set.name` -> (draws,).
        values: The same keys -> value on the study itself.
    """

    def __init__(
        self,
        sets: Sequence[Mapping[str, AnyStatistic]],
        resampler: Resampler,
        progress: Progress | None = None,
    ) -> None:
        self._sets = sets
        self._resampler = resampler
        named = [(f"{i}.{name}", item) for i, own in enumerate(sets) for name, item in own.items()]
        renamed = [Statistic(key, item.n, item.compute) for key, item in named]
        self.draws = draw_all(renamed, resampler, progress)
        once = np.ones((1, len(resampler.patients)))
        self.values = {key: float(item.compute(once)[0]) for key, item in named}

    def have_statistic(self, metric: str, *places: int) -> bool:
        """Whether all sets at these places have a statistic."""
        return all(metric in self._sets[place] for place in places)

    def estimate(self, metric: str, place: int) -> Estimate:
        """Value and interval of a statistic of one set."""
        item = self._sets[place][metric]
        return summarise(item, self.draws[f"{place}.{metric}"], self._resampler)

    def estimate_difference(
        self,
        metric: str,
        place: int,
        base: int,
        same_images: bool = True,
        units_of: int | None = None,
    ) -> tuple[Estimate, float]:
        """A statistic of one set minus that of another, with its interval, and its P value.

        Args:
            same_images: Both sets are of the same images: the interval is widened by the effect of
                losing one image.
            units_of: Place of the set whose images stand behind the gap; None = `place`.
        """
        here, there = f"{place}.{metric}", f"{base}.{metric}"
        item = self._sets[place if units_of is None else units_of][metric]
        patients = self._resampler.patients
        jump = image_weight(self._sets[base][metric], self.values[there], patients)
        return gap_estimate(
            self.values[here] - self.values[there],
            self.draws[here] - self.draws[there],
            item.n,
            count_patients(item, patients),
            jump if same_images else 0.0,
        )


def gap_estimate(
    value: float, drawn: Float64Array, n: int, n_patients: int, jump: float = 0.0
) -> tuple[Estimate, float]:
    """A paired difference with its interval, and its P value.

    Args:
        value: The difference on the study.
        drawn: (draws,) the difference on every draw.
        n: Units (images, boxes ...) behind the value, shown in the report.
        n_patients: Patients behind the value.
        jump: Change of the statistic when one image is lost (`intervals.difference_interval`);
            0 for two groups.
    """
    error = standard_error(drawn)
    low, high = difference_interval(value, error, n_patients, jump)
    method = PAIRED if np.isfinite(low) else NONE
    return Estimate(value, low, high, n, method), two_sided_p(value, error, n_patients)


def withheld(metric: str, n_positive: int, n_negative: int) -> Estimate:
    """Estimate without a value, for a cell that is too small or not applicable to its group."""
    both = (n_positive, n_negative)
    rests_on = {
        "specificity": (n_negative,),
        "auroc": both,
        "rsna": both if min(both) else (n_positive,),
    }
    counts = rests_on.get(metric, (n_positive,))
    nan = float("nan")
    return Estimate(nan, nan, nan, min(counts), SUPPRESSED if min(counts) else NOT_APPLICABLE)


def _count_name(count: int) -> str:
    return "" if count == 0 else (str(count) if count < 3 else "3 or more")


def _area_terciles(cases: EvaluationCases) -> list[str]:
    """Per image, the tercile of its total opacity area; empty for a negative image."""
    totals = np.array([area(rows).sum() if len(rows) else 0.0 for rows in cases.truths])
    positive = totals > 0
    if positive.sum() < 3:
        return [""] * len(cases)
    first, second = np.quantile(totals[positive], [1 / 3, 2 / 3])
    names = ("1 small third", "2 middle third", "3 large third")
    return [
        "" if total <= 0 else names[int(total > first) + int(total > second)] for total in totals
    ]
