import numpy as np
import pytest
from scipy import stats

from evaluation.metrics.bootstrap import (
    RatioStatistic,
    Resampler,
    Statistic,
    count_patients,
    draw_all,
    estimate_all,
    image_weight,
)
from evaluation.metrics.intervals import EXACT, NONE, ONE_PATIENT, PLAIN_T


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
    values = np.random.default_rng(1).normal(3.0, 2.0, 40)
    resampler = Resampler(np.arange(40), np.zeros(40, dtype=bool), 8000, 0)
    mean = Statistic("mean", 40, lambda w: w @ values / 40, lowest=-np.inf, highest=np.inf)
    item = estimate_all([mean], resampler)["mean"]
    peer = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert item.value == pytest.approx(values.mean())
    assert (item.ci_low, item.ci_high) == pytest.approx((peer.low, peer.high), abs=0.03)
    assert item.method == PLAIN_T


def test_a_cohort_draws_the_prevalence_and_a_case_control_study_keeps_it() -> None:
    positive = np.arange(60) < 15
    prevalence = _mean(positive.astype(float))
    kept = draw_all([prevalence], Resampler(np.arange(60), positive, 200, 0))["mean"]
    drawn = draw_all([prevalence], Resampler(np.arange(60), np.zeros(60, bool), 2000, 0))["mean"]
    assert set(kept) == {0.25}
    assert drawn.std() == pytest.approx(np.sqrt(0.25 * 0.75 / 60), rel=0.1)


def test_strata_may_be_more_than_two() -> None:
    strata = np.repeat([0, 1, 2], [5, 3, 2])
    draws = np.concatenate(list(Resampler(np.arange(10), strata, 150, 0).blocks()))
    for level, n in ((0, 5), (1, 3), (2, 2)):
        assert (draws[:, strata == level].sum(axis=1) == n).all()


def test_images_of_one_patient_are_not_independent() -> None:
    """Ten copies of each patient must not narrow the interval."""
    values = np.random.default_rng(3).random(40)
    alone = Resampler(np.arange(40), np.zeros(40, dtype=bool), 2000, 0)
    copies = Resampler(np.repeat(np.arange(40), 10), np.zeros(400, dtype=bool), 2000, 0)
    one = estimate_all([_mean(values)], alone)["mean"]
    ten = estimate_all([_mean(np.repeat(values, 10))], copies)["mean"]
    assert ten.ci_high - ten.ci_low == pytest.approx(one.ci_high - one.ci_low, rel=0.02)


def test_a_perfect_share_has_the_exact_bound_of_its_patients() -> None:
    item = estimate_all(
        [_mean(np.ones(30))], Resampler(np.arange(30), np.zeros(30, dtype=bool), 200, 0)
    )["mean"]
    assert (item.value, item.ci_high, item.method) == (1.0, 1.0, EXACT)
    peer = stats.binomtest(30, 30).proportion_ci(0.95, "exact")
    assert item.ci_low == pytest.approx(peer.low)
    two = estimate_all(
        [_mean(np.ones(30))], Resampler(np.arange(30) // 15, np.zeros(30, dtype=bool), 200, 0)
    )["mean"]
    assert two.ci_low == pytest.approx(stats.binomtest(2, 2).proportion_ci(0.95, "exact").low)


def test_one_patient_has_no_interval() -> None:
    shares = _mean(np.repeat([1.0, 0.0], [6, 2]))
    item = estimate_all([shares], Resampler(np.zeros(8, int), np.zeros(8, bool), 100, 0))["mean"]
    assert item.value == 0.75
    assert np.isnan([item.ci_low, item.ci_high]).all()
    assert item.method == ONE_PATIENT


def test_a_statistic_rests_on_the_patients_of_its_smallest_set() -> None:
    patients = np.array([0, 0, 1, 2, 3, 3])
    few, many = patients < 1, patients > 0
    both = Statistic("both", 6, lambda w: w.sum(axis=1), rests_on=(few, many))
    assert count_patients(both, patients) == 1
    ratio = RatioStatistic("ratio", 4, np.ones(6), many.astype(float))
    assert count_patients(ratio, patients) == 3
    assert count_patients(_mean(np.ones(6)), patients) == 4


def test_weight_of_an_image() -> None:
    patients = np.arange(4)
    share = _mean(np.array([1.0, 1.0, 0.0, 0.0]))
    assert image_weight(share, 0.5, patients) == pytest.approx(0.25)  # one hit of four images
    scores = _mean(np.array([0.9, 0.3, 0.0, 0.0]))
    assert image_weight(scores, 0.3, patients) == pytest.approx((0.81 + 0.09) / 1.2 / 4)


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
