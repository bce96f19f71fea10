import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from evaluation.metrics.bootstrap import Resampler, estimate_all
from evaluation.metrics.calibration import (
    calibration_statistics,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    logit,
    mass_bins,
    recalibrated_statistics,
    reliability,
    sigmoid,
)


def _sample(slope: float, intercept: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.beta(1.2, 2.0, n)
    return rng.random(n) < sigmoid(intercept + slope * logit(scores)), scores


def test_platt_finds_the_truth_and_agrees_with_scikit_learn() -> None:
    positive, scores = _sample(1.7, -0.4)
    slope, intercept = fit_platt(positive, scores)
    peer = LogisticRegression(C=np.inf, tol=1e-8).fit(logit(scores)[:, None], positive)
    assert slope == pytest.approx(peer.coef_[0, 0], abs=1e-4)
    assert intercept == pytest.approx(peer.intercept_[0], abs=1e-4)
    assert (slope, intercept) == (pytest.approx(1.7, abs=0.08), pytest.approx(-0.4, abs=0.08))


def test_temperature_is_the_inverse_slope() -> None:
    positive, scores = _sample(0.5, 0.0)
    assert fit_temperature(positive, scores) == pytest.approx(2.0, abs=0.1)


def test_one_class_or_separated_classes_have_no_fit() -> None:
    for positive in ([1, 1, 1], [0, 0, 1]):
        assert np.isnan(fit_platt(positive, [0.1, 0.2, 0.9])).all()
    assert np.isnan(fit_temperature([0, 0], [0.1, 0.2]))


def test_hand_computed_ece_and_brier() -> None:
    scores = np.array([0.1, 0.1, 0.8, 0.8])
    positive = np.array([0, 1, 1, 1])
    # two bins: |0.1 - 0.5| and |0.8 - 1.0|, two images each
    ece = expected_calibration_error(positive, scores, 2).compute(np.ones((1, 4)))[0]
    assert ece == pytest.approx(0.3)
    brier = calibration_statistics(positive, scores)[0].compute(np.ones((1, 4)))[0]
    assert brier == pytest.approx((0.01 + 0.81 + 0.04 + 0.04) / 4)


def test_bins_hold_equal_mass_and_never_split_equal_scores() -> None:
    bins = mass_bins(np.array([0.0] * 25 + list(np.linspace(0.1, 1, 75))), 10)
    assert [len(part) for part in bins] == [25, 5, *[10] * 7]
    even = mass_bins(np.arange(100) / 100, 10)
    assert [len(part) for part in even] == [10] * 10


def test_reliability_of_a_calibrated_score_lies_on_the_diagonal() -> None:
    positive, scores = _sample(1.0, 0.0)
    for item in reliability(positive, scores):
        assert item.observed == pytest.approx(item.mean_score, abs=0.04)


def test_slope_interval_covers_the_fit_and_platt_repairs() -> None:
    positive, scores = _sample(1.7, -0.4, 1500)
    resampler = Resampler(np.arange(1500), positive, 400, 0)
    found = estimate_all(calibration_statistics(positive, scores), resampler)
    slope = found["calibration.slope"]
    assert slope.ci_low < slope.value < slope.ci_high
    assert slope.ci_low < 1.7 < slope.ci_high
    fitted = fit_platt(positive, scores)
    repaired = estimate_all(recalibrated_statistics(positive, scores, *fitted), resampler)
    ece = repaired["calibration.ece_platt"]
    assert ece.value < found["calibration.ece"].value / 2
    assert ece.ci_low <= ece.value <= ece.ci_high
    assert repaired["calibration.brier_platt"].value < found["calibration.brier"].value


def test_one_newton_step_matches_a_full_fit_of_the_draw() -> None:
    positive, scores = _sample(1.3, 0.2, 800)
    weights = next(Resampler(np.arange(800), positive, 3, 7).blocks())
    steps = calibration_statistics(positive, scores)[2].compute(weights)
    for draw, weight in enumerate(weights):
        index = np.repeat(np.arange(800), weight.astype(int))
        assert steps[draw] == pytest.approx(fit_platt(positive[index], scores[index])[0], abs=0.05)
