import numpy as np
import pytest

from evaluation.metrics.bootstrap import (
    BCA,
    NONE,
    WILSON,
    RatioStatistic,
    Resampler,
    Statistic,
    draw_all,
    estimate_all,
    wilson,
)


def _mean(values: np.ndarray, name: str = "mean") -> RatioStatistic:
    return RatioStatistic(name, len(values), values.astype(float), np.ones(len(values)))


def test_a_draw_keeps_patients_whole_and_strata_full() -> None:
    patients = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    positive = np.array([1, 0, 0, 1, 0, 0, 0, 0], dtype=bool)  # patients 0 and 2 are positive
    draws = np.concatenate(list(Resampler(patients, positive, 250, 1).blocks()))
    assert draws.shape == (250, 8)
    for patient in range(5):
        rows = draws[:, patients == patient]
        assert (rows == rows[:, :1]).all()
    per_patient = draws[:, [0, 2, 3, 6, 7]]
    assert (per_patient[:, [0, 2]].sum(axis=1) == 2).all()
    assert (per_patient[:, [1, 3, 4]].sum(axis=1) == 3).all()


def test_the_same_seed_gives_the_same_numbers() -> None:
    values = np.random.default_rng(0).random(50)
    ids, positive = np.arange(50), values > 0.5
    first, again, other = (
        estimate_all([_mean(values)], Resampler(ids, positive, 300, seed))["mean"]
        for seed in (4, 4, 5)
    )
    assert first == again
    assert first.ci_low != other.ci_low


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    resampler = Resampler(np.arange(400), np.zeros(400, dtype=bool), 4000, 0)
    item = estimate_all([_mean(values)], resampler)["mean"]
    half = 1.96 * values.std(ddof=1) / 20
    assert item.value == pytest.approx(values.mean())
    assert item.ci_low == pytest.approx(values.mean() - half, abs=0.03)
    assert item.ci_high == pytest.approx(values.mean() + half, abs=0.03)
    assert item.method == BCA


def test_bca_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).exponential(1.0, 60)
    resampler = Resampler(np.arange(60), np.zeros(60, dtype=bool), 10_000, 0)
    item = estimate_all([_mean(values)], resampler)["mean"]
    peer = stats.bootstrap((values,), np.mean, n_resamples=10_000, rng=0).confidence_interval
    assert item.ci_low == pytest.approx(peer.low, abs=0.02)
    assert item.ci_high == pytest.approx(peer.high, abs=0.02)


def test_images_of_one_patient_are_not_independent() -> None:
    """Ten copies of each patient must not narrow the interval."""
    values = np.random.default_rng(3).random(40)
    alone = Resampler(np.arange(40), np.zeros(40, dtype=bool), 2000, 0)
    copies = Resampler(np.repeat(np.arange(40), 10), np.zeros(400, dtype=bool), 2000, 0)
    one = estimate_all([_mean(values)], alone)["mean"]
    ten = estimate_all([_mean(np.repeat(values, 10))], copies)["mean"]
    assert ten.ci_high - ten.ci_low == pytest.approx(one.ci_high - one.ci_low, rel=0.02)


def test_a_perfect_share_has_no_zero_width_interval() -> None:
    item = estimate_all(
        [_mean(np.ones(30))], Resampler(np.arange(30), np.zeros(30, dtype=bool), 200, 0)
    )["mean"]
    assert (item.value, item.ci_high, item.method) == (1.0, 1.0, WILSON)
    assert item.ci_low == pytest.approx(30 / (30 + 1.959964**2))


def test_wilson_golden_values() -> None:
    # Newcombe 1998, table I: 81/263 and 15/148
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(15, 148) == (pytest.approx(0.0624, abs=1e-4), pytest.approx(0.1605, abs=1e-4))


def test_what_is_undefined_is_not_available() -> None:
    nothing = RatioStatistic("nothing", 0, np.zeros(9), np.zeros(9))
    nan = Statistic("nan", 9, lambda weights: np.full(len(weights), np.nan))
    found = estimate_all([nothing, nan], Resampler(np.arange(9), np.zeros(9, dtype=bool), 100, 0))
    for item in found.values():
        assert np.isnan([item.value, item.ci_low, item.ci_high]).all()
        assert item.method == NONE


def test_progress_reaches_the_end() -> None:
    seen = []
    resampler = Resampler(np.arange(5), np.zeros(5, dtype=bool), 230, 0)
    drawn = draw_all([_mean(np.arange(5))], resampler, lambda *step: seen.append(step[:2]))
    assert len(drawn["mean"]) == 230
    assert seen == [(100, 230), (200, 230), (230, 230)]
