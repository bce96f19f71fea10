import numpy as np
import pytest

from evaluation.analysis.catalogue import (
    FROC_RATES,
    all_statistics,
    headline_statistics,
    match_study,
)
from evaluation.metrics.bootstrap import Resampler, estimate_all
from evaluation.metrics.image_level import auroc
from evaluation.metrics.ranking import froc_curve
from evaluation.metrics.rsna import rsna_score
from evaluation.study.cases import EvaluationCases
from tests.evaluation.metrics.coco_peer import coco_metrics
from tests.evaluation.studies import make_cases, study_cases

CASES = study_cases(5)
THRESHOLDS = {"kaggle": 0.4, "low": 0.1}


def _values(cases: EvaluationCases, thresholds: dict[str, float] = THRESHOLDS) -> dict[str, float]:
    statistics = all_statistics(match_study(cases, thresholds))
    assert len({item.name for item in statistics}) == len(statistics)
    once = np.ones((1, len(cases)))
    return {item.name: float(item.compute(once)[0]) for item in statistics}


def test_values_agree_with_the_definitions() -> None:
    values = _values(CASES)
    truths, found = CASES.truth_by_id(), CASES.boxes_by_id()
    peer = coco_metrics(truths, found)
    for name in ("ap_50_95", "ap_40_75", "ap50", "ap75", "ar_1", "ar_10", "ar_100"):
        assert values[f"coco.{name}"] == pytest.approx(getattr(peer, name), abs=1e-9), name
    for name, threshold in THRESHOLDS.items():
        assert values[f"rsna.{name}"] == pytest.approx(rsna_score(truths, found, threshold).value)
        called = CASES.image_score >= threshold
        sensitivity, specificity = called[CASES.positive].mean(), 1 - called[~CASES.positive].mean()
        assert values[f"{name}.sensitivity"] == pytest.approx(sensitivity)
        assert values[f"{name}.specificity"] == pytest.approx(specificity)
        assert values[f"{name}.ppv"] == pytest.approx(CASES.positive[called].mean())
        assert values[f"{name}.npv"] == pytest.approx(1 - CASES.positive[~called].mean())
        ill, alarms = 0.05 * sensitivity, 0.95 * (1 - specificity)  # of all people, called positive
        ppv = ill / (ill + alarms)
        npv = 0.95 * specificity / (1 - ill - alarms)
        assert values[f"{name}.ppv_at_0.05"] == pytest.approx(ppv)
        assert values[f"{name}.npv_at_0.05"] == pytest.approx(npv)
    assert values["image.auroc"] == auroc(CASES.positive, CASES.image_score)[0]


def test_froc_values_lie_on_the_curve() -> None:
    values = _values(CASES)
    ranking = match_study(CASES, THRESHOLDS).ranking
    for overlap in (0.10, 0.40, 0.50):
        rate, sensitivity, _ = froc_curve(ranking, overlap)
        points = [float(np.max(sensitivity[rate <= r], initial=0.0)) for r in FROC_RATES]
        for r, expected in zip(FROC_RATES, points, strict=True):
            assert values[f"froc.iou_{overlap:.2f}.fp_{r:g}"] == pytest.approx(expected)
        assert values[f"froc.iou_{overlap:.2f}.mean"] == pytest.approx(np.mean(points))
    normal = CASES.negatives_of_class("Normal")
    rate, sensitivity, _ = froc_curve(ranking, 0.40, normal)
    expected = float(np.max(sensitivity[rate <= 0.25], initial=0.0))
    assert values["froc.iou_0.40.fp_per_normal_0.25"] == pytest.approx(expected)


def test_specificity_by_kind_of_negative() -> None:
    values = _values(CASES)
    called = CASES.image_score >= 0.4
    for key, name in (("normal", "Normal"), ("not_normal", "No Lung Opacity / Not Normal")):
        assert values[f"kaggle.specificity_{key}"] == pytest.approx(
            1 - called[CASES.negatives_of_class(name)].mean()
        )


def test_intervals_hold_their_value() -> None:
    resampler = Resampler(CASES.patients, CASES.positive, 300, 0)
    for name, item in estimate_all(
        all_statistics(match_study(CASES, THRESHOLDS)), resampler
    ).items():
        if np.isfinite(item.ci_low):
            assert item.ci_low <= item.value + 1e-9, name
            assert item.value - 1e-9 <= item.ci_high, name


def test_a_draw_equals_evaluating_the_drawn_images() -> None:
    """The heart of the vectorised bootstrap: weights are repetitions."""
    weights = next(Resampler(CASES.patients, CASES.positive, 2, 3).blocks())
    statistics = all_statistics(match_study(CASES, THRESHOLDS))
    drawn = {item.name: item.compute(weights) for item in statistics}
    for draw in range(2):
        truths, found, facts = {}, {}, {}
        for index, image_id in enumerate(CASES.ids):
            for copy in range(int(weights[draw, index])):
                name = f"{image_id}-{copy}"
                truths[name] = CASES.truths[index]
                found[name] = CASES.boxes[index], CASES.scores[index]
                facts[name] = dict(CASES.cohort.facts[image_id])
        repeated = _values(make_cases(truths, found, facts))
        for name, value in repeated.items():
            if name.startswith(("calibration.slope", "calibration.intercept", "calibration.ece")):
                continue  # one-step fits and fixed bins are approximations by design
            assert drawn[name][draw] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_an_empty_study_is_not_available_rather_than_wrong() -> None:
    empty = np.zeros((0, 4)), np.zeros(0)
    negatives = _values(make_cases({"a": empty[0], "b": empty[0]}, {"a": empty, "b": empty}))
    assert np.isnan([negatives[k] for k in ("rsna.kaggle", "coco.ap50", "image.auroc")]).all()
    assert negatives["kaggle.specificity"] == 1.0
    box = np.array([[10.0, 10, 50, 50]])
    blind = _values(make_cases({"a": box, "b": empty[0]}, {"a": empty, "b": empty}))
    assert (blind["rsna.kaggle"], blind["coco.ap50"], blind["kaggle.sensitivity"]) == (0, 0, 0)
    assert blind["image.auroc"] == 0.5
    assert np.isnan(blind["kaggle.ppv"])


def test_headline_is_a_part_of_all() -> None:
    study = match_study(CASES, THRESHOLDS)
    names = {item.name for item in all_statistics(study)}
    assert {item.name for item in headline_statistics(study)} < names
