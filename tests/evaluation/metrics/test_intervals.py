"""Intervals against SciPy, known bounds and coverage on simulated studies."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.metrics.intervals import (
    EXACT,
    LOG_T,
    LOGIT_T,
    NONE,
    difference_interval,
    share_interval,
    standard_error,
    t_quantile,
    value_interval,
    wilson,
)
from evaluation.metrics.multiplicity import holm, two_sided_p


def test_quantiles_of_t_agree_with_scipy() -> None:
    assert t_quantile(0) == math.inf
    for degrees in (*range(1, 60), 100, 1000, 100_000):
        expected = stats.t.ppf(0.975, degrees)
        assert t_quantile(degrees) == pytest.approx(expected, rel=1e-4), degrees


def test_wilson_golden_values() -> None:
    # Newcombe 1998, table I: 81/263 and 15/148
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(15, 148) == (pytest.approx(0.0624, abs=1e-4), pytest.approx(0.1605, abs=1e-4))


def test_logit_interval_of_a_share_by_hand() -> None:
    low, high, method = value_interval(0.8, 0.05, 101)
    half = stats.t.ppf(0.975, 100) * 0.05 * math.sqrt(1.01) / (0.8 * 0.2)
    centre = math.log(4)
    assert low == pytest.approx(1 / (1 + math.exp(half - centre)), rel=1e-5)
    assert high == pytest.approx(1 / (1 + math.exp(-half - centre)), rel=1e-5)
    assert method == LOGIT_T


def test_bounds_where_nothing_varies() -> None:
    for n in (2, 12, 200):
        peer = stats.binomtest(n, n).proportion_ci(0.95, "exact")
        assert value_interval(1.0, 0.0, n) == (pytest.approx(peer.low), 1.0, EXACT)
        low, high, _ = value_interval(0.0, 0.0, n)
        assert (low, high) == (0.0, pytest.approx(1 - peer.low))
        upper = stats.chi2.ppf(0.975, 2) / 2 / n  # Poisson, no event
        assert value_interval(0.0, 0.0, n, highest=math.inf)[1] == pytest.approx(upper)
    assert value_interval(0.75, 0.0, 40)[:2] == wilson(30, 40)
    assert value_interval(math.nan, 0.1, 40)[2] == NONE
    assert value_interval(2.0, 0.1, 40, highest=math.inf)[2] == LOG_T


@given(
    st.floats(0.0, 1.0), st.floats(0.0, 0.5), st.integers(2, 400), st.sampled_from([1.0, math.inf])
)
def test_ends_hold_the_value_and_stay_in_range(
    value: float, error: float, n: int, highest: float
) -> None:
    low, high, _ = value_interval(value, error, n, 0.0, highest)
    assert 0.0 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= highest


def test_share_of_clustered_images_is_the_share_of_patients_when_they_agree() -> None:
    """Ten images a patient, all alike: as if each patient had one."""
    hits = np.arange(40) < 30
    alone = share_interval(hits, np.ones(40, bool), np.arange(40))
    ten = share_interval(np.repeat(hits, 10), np.ones(400, bool), np.repeat(np.arange(40), 10))
    assert ten[:2] == pytest.approx(alone[:2])
    textbook = stats.binomtest(30, 40).proportion_ci(0.95, "wilson")
    assert alone[:2] == pytest.approx((textbook.low, textbook.high), abs=0.03)


def test_a_difference_of_nothing_seen_is_the_bound_of_rare_losses() -> None:
    """No image of n differs: at most 3.7 of n are lost (Poisson), each weighing 1 / n."""
    for n in (60, 200, 1000):
        low, high = difference_interval(0.0, 0.0, n, 1 / n)
        assert low == -high
        assert low == pytest.approx(stats.chi2.ppf(0.025 + 0.95, 2) / 2 / -n, rel=0.1)


def test_many_differences_make_the_plain_t_interval() -> None:
    low, high = difference_interval(-0.01, 0.004, 5000, 1e-6)
    assert (low, high) == pytest.approx((-0.01 - 1.96 * 0.004, -0.01 + 1.96 * 0.004), abs=1e-5)


def test_draws_that_differ_by_rounding_do_not_differ() -> None:
    assert standard_error(np.array([0.3, 0.1 + 0.2, 0.3])) == 0.0
    assert math.isnan(standard_error(np.array([np.nan, np.nan, 1.0, 2.0, np.nan])))


def test_p_values_agree_with_scipy() -> None:
    for n, t in ((8, 2.5), (30, 2.0), (30, 3.5), (500, 1.0)):
        error = 1 / math.sqrt(n / (n - 1))
        assert two_sided_p(t, error, n) == pytest.approx(2 * stats.t.sf(t, n - 1), abs=1e-3)
    assert two_sided_p(0.0, 0.0, 9) == 1.0
    assert math.isnan(two_sided_p(0.1, math.nan, 9))


def test_holm_by_hand() -> None:
    # 0.01 <= 0.05/4, 0.013 <= 0.05/3, 0.03 > 0.05/2: two are rejected
    assert holm([0.03, 0.01, 0.013, 0.04]) == [False, True, True, False]
    assert holm([math.nan, 0.04]) == [False, True]
    assert holm([]) == []


def test_interval_of_a_sensitivity_covers_on_small_studies() -> None:
    """30 positive patients with one to three images each that resemble one another."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(600):
        sizes = rng.integers(1, 4, 30)
        chance = rng.beta(6, 2, 30)  # mean 0.75
        patients = np.repeat(np.arange(30), sizes)
        hits = rng.random(len(patients)) < chance[patients]
        low, high, _ = share_interval(hits, np.ones(len(hits), bool), patients)
        covered += low <= 0.75 <= high
    assert 0.93 <= covered / 600 <= 0.98
