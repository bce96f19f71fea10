"""Every number of metrics.json as a statistic that is computed on bootstrap draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from evaluation.metrics.bootstrap import AnyStatistic, RatioStatistic, Statistic
from evaluation.metrics.calibration import calibration_statistics, recalibrated_statistics
from evaluation.metrics.image_level import auprc, auroc
from evaluation.metrics.matching import BoolArray, Float64Array, IntArray
from evaluation.metrics.ranking import (
    COCO_THRESHOLDS,
    BoxRanking,
    RankedCounts,
    count_draws,
    mean_average_precision,
    rank_boxes,
    sensitivity_at,
)
from evaluation.metrics.rsna import IOU_THRESHOLDS as RSNA_THRESHOLDS
from evaluation.metrics.rsna import RsnaTable, rsna_table
from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL

FROC_IOU = (0.10, 0.40, 0.50)
FROC_PRIMARY_IOU = 0.40
FROC_RATES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # false positives per image
PREVALENCES = (0.01, 0.05, 0.225)  # screening, out-patients, RSNA stage 2
MATCH_THRESHOLDS = tuple(sorted({*COCO_THRESHOLDS, *RSNA_THRESHOLDS, *FROC_IOU}))


@dataclass(frozen=True)
class MatchedStudy:
    """Evaluated images with their matching, computed once."""

    cases: EvaluationCases  # the images
    ranking: BoxRanking  # all boxes in descending score, matched at `MATCH_THRESHOLDS`
    table: RsnaTable  # matching by the challenge's rule
    thresholds: Mapping[str, float]  # operating point -> score threshold
    # slope and intercept fitted on validation images, None = not available
    platt: tuple[float, float] | None = None


def match_study(
    cases: EvaluationCases,
    thresholds: Mapping[str, float],
    platt: tuple[float, float] | None = None,
) -> MatchedStudy:
    """Match predicted boxes to truth boxes, by COCO's rule and by the challenge's.

    Args:
        thresholds: Operating point -> score threshold.
        platt: Slope and intercept fitted on validation images; None = not available.
    """
    ranking = rank_boxes(cases.truths, cases.boxes, cases.scores, MATCH_THRESHOLDS)
    table = rsna_table(cases.truth_by_id(), cases.boxes_by_id())
    return MatchedStudy(cases, ranking, table, dict(thresholds), platt)


def all_statistics(study: MatchedStudy) -> list[AnyStatistic]:
    """Every statistic of the report."""
    positive, scores = study.cases.positive, study.cases.image_score
    items = [
        *rsna_statistics(study),
        *box_statistics(study),
        *image_statistics(study.cases),
    ]
    for name, threshold in study.thresholds.items():
        items += point_statistics(study, name, threshold)
    items += calibration_statistics(positive, scores)
    if study.platt is not None:
        items += recalibrated_statistics(positive, scores, *study.platt)
    return items


def headline_statistics(study: MatchedStudy) -> list[AnyStatistic]:
    """The statistics by which two models are compared: without FROC, calibration slope, Platt."""
    items = [*rsna_statistics(study), *box_statistics(study, froc=False)]
    items += image_statistics(study.cases)
    for name, threshold in study.thresholds.items():
        items += point_statistics(study, name, threshold)
    return items + calibration_statistics(study.cases.positive, study.cases.image_score)[:2]


def rsna_statistics(study: MatchedStudy) -> list[AnyStatistic]:
    """`rsna.P`: the challenge score at each operating point P."""
    items: list[AnyStatistic] = []
    for name, threshold in study.thresholds.items():
        scores = study.table.image_scores(threshold)
        counted = np.isfinite(scores)
        items.append(
            RatioStatistic(
                f"rsna.{name}",
                int(counted.sum()),
                np.where(counted, scores, 0.0),
                counted.astype(np.float64),
            )
        )
    return items


def image_statistics(cases: EvaluationCases) -> list[AnyStatistic]:
    """`image.auroc` and `image.auprc`, and AUROC against each kind of negative."""
    positive, scores, n = cases.positive, cases.image_score, len(cases)
    items: list[AnyStatistic] = [
        Statistic(
            "image.auroc", n, partial(auroc, positive, scores), rests_on=(positive, ~positive)
        ),
        Statistic(
            "image.auprc", n, partial(auprc, positive, scores), rests_on=(positive, ~positive)
        ),
    ]
    if cases.classes_known:
        for key, name in (("normal", NORMAL), ("not_normal", NOT_NORMAL)):
            mask = positive | cases.negatives_of_class(name)
            items.append(
                Statistic(
                    f"image.auroc_{key}",
                    int(mask.sum()),
                    partial(masked_auroc, positive, scores, mask.astype(np.float64)),
                    rests_on=(positive, mask & ~positive),
                )
            )
    return items


def point_statistics(study: MatchedStudy, name: str, threshold: float) -> list[AnyStatistic]:
    """Rates of images and boxes at one operating point P: `P.sensitivity`, `P.ppv`, ..."""
    cases = study.cases
    called, positive = cases.image_score >= threshold, cases.positive
    hit, cleared = called & positive, ~called & ~positive
    items: list[AnyStatistic] = [
        share(f"{name}.sensitivity", called, positive),
        share(f"{name}.specificity", ~called, ~positive),
        share(f"{name}.ppv", positive, called),
        share(f"{name}.npv", ~positive, ~called),
    ]
    if cases.classes_known:
        items += [
            share(f"{name}.specificity_normal", ~called, cases.negatives_of_class(NORMAL)),
            share(f"{name}.specificity_not_normal", ~called, cases.negatives_of_class(NOT_NORMAL)),
        ]
    sums = np.stack([hit, positive, cleared, ~positive], axis=1).astype(np.float64)
    for prevalence in PREVALENCES:
        for index, key in enumerate(("ppv", "npv")):
            compute = partial(_predictive, sums, prevalence, index)
            items.append(
                Statistic(
                    f"{name}.{key}_at_{prevalence:g}",
                    len(cases),
                    compute,
                    rests_on=(positive, ~positive),
                )
            )
    return items + _shown_boxes(study, name, threshold)


def share(name: str, hits: BoolArray, among: BoolArray) -> RatioStatistic:
    """Share of the images of `among` that are in `hits`."""
    return RatioStatistic(
        name, int(among.sum()), (hits & among).astype(np.float64), among.astype(np.float64)
    )


def _shown_boxes(study: MatchedStudy, name: str, threshold: float) -> list[AnyStatistic]:
    """Share of truth boxes hit and false boxes per image at one operating point, IoU 0.4."""
    ranking, n = study.ranking, len(study.cases)
    shown = ranking.score >= threshold
    hit = ranking.hits(FROC_PRIMARY_IOU) & shown
    hits = np.bincount(ranking.image[hit], minlength=n).astype(np.float64)
    alarms = np.bincount(ranking.image[shown & ~hit], minlength=n).astype(np.float64)
    truths = study.cases.n_truths.astype(np.float64)
    return [
        RatioStatistic(f"{name}.box_sensitivity", int(truths.sum()), hits, truths),
        RatioStatistic(f"{name}.false_boxes_per_image", n, alarms, np.ones(n), highest=np.inf),
    ]


class _SharedCounts:
    """Cumulative counts of the latest block, shared by all statistics that read them.

    Counting takes most of the time of AP and FROC, all of which are computed for the same block.
    """

    def __init__(self, ranking: BoxRanking, shown_on: Float64Array | None = None) -> None:
        self.alarms_only = shown_on is not None
        self._ranking = ranking
        self._shown_on = shown_on  # (N,) images whose boxes count as shown; None = all
        self._block: Float64Array | None = None
        self._counts: RankedCounts | None = None

    def of(self, weights: Float64Array) -> RankedCounts:
        """Counts of a block; the same array gives the same object."""
        if self._counts is None or self._block is not weights:
            shown = None if self._shown_on is None else weights * self._shown_on
            self._counts = count_draws(self._ranking, weights, shown)
            self._block = weights
        return self._counts


def box_statistics(study: MatchedStudy, froc: bool = True) -> list[AnyStatistic]:
    """`coco.*` (AP and average recall) and, unless `froc` is False, `froc.*`."""
    ranking = study.ranking
    n = len(ranking.truth_image)
    shared = _SharedCounts(ranking)
    items: list[AnyStatistic] = [
        Statistic(
            f"coco.{name}",
            n,
            partial(_mean_ap, ranking, shared, thresholds),
            inflated=True,
            rests_on=(study.cases.positive,),
        )
        for name, thresholds in (
            ("ap_50_95", COCO_THRESHOLDS),
            ("ap_40_75", RSNA_THRESHOLDS),
            ("ap50", (0.50,)),
            ("ap75", (0.75,)),
        )
    ]
    items += [_recall(study, most) for most in (1, 10, 100)]
    if froc:
        items += _froc_statistics(study, shared)
    return items


def _froc_statistics(study: MatchedStudy, shared: _SharedCounts) -> list[AnyStatistic]:
    ranking, n = study.ranking, len(study.ranking.truth_image)
    ones = np.ones(len(study.cases))
    with_truth = (study.cases.positive,)
    items: list[AnyStatistic] = []
    for overlap in FROC_IOU:
        for rate in FROC_RATES:
            compute = partial(_froc, ranking, shared, overlap, (rate,), ones)
            items.append(
                Statistic(f"froc.iou_{overlap:.2f}.fp_{rate:g}", n, compute, rests_on=with_truth)
            )
        compute = partial(_froc, ranking, shared, overlap, FROC_RATES, ones)
        items.append(Statistic(f"froc.iou_{overlap:.2f}.mean", n, compute, rests_on=with_truth))
    if study.cases.classes_known:
        normal = study.cases.negatives_of_class(NORMAL).astype(np.float64)
        on_normal = _SharedCounts(ranking, normal)
        for rate in FROC_RATES:
            compute = partial(_froc, ranking, on_normal, FROC_PRIMARY_IOU, (rate,), normal)
            items.append(
                Statistic(
                    f"froc.iou_{FROC_PRIMARY_IOU:.2f}.fp_per_normal_{rate:g}",
                    n,
                    compute,
                    rests_on=(*with_truth, normal > 0),
                )
            )
    return items


def _recall(study: MatchedStudy, most: int) -> RatioStatistic:
    """COCO's average recall over IoU .50:.95 with the `most` highest-scored boxes per image."""
    ranking, n = study.ranking, len(study.cases)
    place = _place_in_image(ranking.image, n)
    hits = np.zeros(n)
    for threshold in COCO_THRESHOLDS:
        chosen = ranking.hits(threshold) & (place < most)
        hits += np.bincount(ranking.image[chosen], minlength=n) / len(COCO_THRESHOLDS)
    truths = study.cases.n_truths.astype(np.float64)
    return RatioStatistic(f"coco.ar_{most}", int(truths.sum()), hits, truths)


def _place_in_image(image: IntArray, n_images: int) -> IntArray:
    """(K,) number of boxes of the same image with a higher rank."""
    order = np.argsort(image, kind="stable")
    starts = np.searchsorted(image[order], np.arange(n_images))
    place = np.empty(len(image), dtype=np.intp)
    place[order] = np.arange(len(image)) - starts[image[order]]
    return place


def _mean_ap(
    ranking: BoxRanking, shared: _SharedCounts, thresholds: Sequence[float], weights: Float64Array
) -> Float64Array:
    return mean_average_precision(ranking, shared.of(weights), thresholds)


def _froc(
    ranking: BoxRanking,
    shared: _SharedCounts,
    overlap: float,
    rates: Sequence[float],
    counted: Float64Array,
    weights: Float64Array,
) -> Float64Array:
    """Mean sensitivity at rates of false positives per counted image."""
    images = weights @ counted
    counts = shared.of(weights)
    values = [
        sensitivity_at(ranking, counts, overlap, rate * images, shared.alarms_only)
        for rate in rates
    ]
    return np.asarray(np.mean(values, axis=0))


def masked_auroc(
    positive: BoolArray, scores: Float64Array, mask: Float64Array, weights: Float64Array
) -> Float64Array:
    """(D,) AUROC over the images of a mask (N,) of 0 and 1; `weights` (D, N)."""
    return auroc(positive, scores, weights * mask)


def _predictive(
    sums: Float64Array, prevalence: float, index: int, weights: Float64Array
) -> Float64Array:
    """PPV (index 0) or NPV (1) at a stated prevalence, by Bayes from sensitivity, specificity."""
    hits, positives, cleared, negatives = (weights @ sums).T
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, specificity = hits / positives, cleared / negatives
        if index == 0:
            right = sensitivity * prevalence
            wrong = (1 - specificity) * (1 - prevalence)
        else:
            right = specificity * (1 - prevalence)
            wrong = (1 - sensitivity) * prevalence
        return np.asarray(right / (right + wrong))
