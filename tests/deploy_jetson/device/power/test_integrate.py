"""Energy from samples, against integrals known by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_jetson.device.power.integrate import (
    clean_series,
    largest_gap,
    rail_quality,
    window_energy,
)

MW, MJ = "mw", "mj"


def energy(stamps, values, window, interval=1.0, unit=MW):
    stamps, values = np.array(stamps, float), np.array(values, float)
    return window_energy(stamps, values, window, interval, unit)


def test_constant_power_is_exact_whatever_the_stamps():
    stamps = np.sort(np.random.default_rng(0).uniform(0, 10, 60))
    found = energy(stamps, np.full(60, 4000.0), (1.0, 9.0))
    assert found.energy_j == pytest.approx(32.0, rel=1e-12)
    assert (found.mean_w, found.peak_w) == (pytest.approx(4.0), 4.0)
    assert found.void is None
    assert found.samples == int(((stamps >= 1) & (stamps <= 9)).sum())


def test_ramp_is_exact_with_interpolated_edges():
    # p(t) = 1 + t watts from 0.5 s to 3.3 s: 2.8 + (3.3^2 - 0.5^2) / 2 = 8.12 J
    stamps = [0.0, 0.4, 1.1, 1.9, 3.0, 4.0]
    found = energy(stamps, [1e3 * (1 + t) for t in stamps], (0.5, 3.3))
    assert found.energy_j == pytest.approx(8.12, rel=1e-12)


def test_square_wave_of_known_duty():
    # 11 W for 48 ms, 4 W for 20 ms, sampled every 2 ms: mean 8.941 W; an edge is one sample wide
    stamps = np.arange(0, 6.8, 0.002)
    watts = np.where((stamps * 1e3 + 1e-6) % 68 < 48, 11.0, 4.0)
    found = energy(stamps, watts * 1e3, (0.068, 6.732), 0.002)
    assert found.mean_w == pytest.approx((11 * 48 + 4 * 20) / 68, rel=0.002)
    assert found.peak_w == 11.0


@given(
    st.lists(st.floats(0.001, 0.9), min_size=3, max_size=60),
    st.floats(0, 20),
    st.floats(-3, 3),
    st.floats(0.0, 0.3),
    st.floats(0.0, 0.3),
)
def test_any_line_on_any_stamps_is_exact(steps, level, slope, cut_front, cut_back):
    stamps = np.cumsum(steps)
    span = stamps[-1] - stamps[0]
    start, end = stamps[0] + cut_front * span, stamps[-1] - cut_back * span
    values = 1e3 * (level + slope * stamps)
    found = energy(stamps, values, (start, end))
    expected = level * (end - start) + slope * (end**2 - start**2) / 2
    assert found.energy_j == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(0, 9e3), min_size=5, max_size=40), st.floats(0.1, 0.9))
def test_windows_add_up(values, share):
    stamps = np.arange(len(values), dtype=float)
    middle = share * stamps[-1]
    whole = energy(stamps, values, (0.0, stamps[-1])).energy_j
    parts = [energy(stamps, values, w).energy_j for w in ((0.0, middle), (middle, stamps[-1]))]
    assert sum(parts) == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_counter_of_energy():
    found = energy([0, 1, 2, 3], [0, 5000, 9000, 20000], (0.5, 2.5), unit=MJ)
    # counter at 0.5 s: 2.5 J, at 2.5 s: 14.5 J; the steepest stretch inside is 11 J in a second
    assert found.energy_j == pytest.approx(12.0)
    assert found.peak_w == pytest.approx(11.0)


def test_gap_of_more_than_five_intervals_voids_the_window():
    stamps = [0, 1, 2, 7, 8]
    assert energy(stamps, [1e3] * 5, (0, 8)).void is None  # exactly five
    stamps = [0, 1, 2, 7.001, 8]
    found = energy(stamps, [1e3] * 5, (0, 8))
    assert found.void == "gap of 5 s"
    assert (found.energy_j, found.mean_w, found.peak_w) == (None, None, None)
    assert energy(stamps, [1e3] * 5, (0, 2)).void is None  # the hole lies outside


def test_missing_readings_are_gaps_and_never_zero():
    values = [2e3, math.nan, math.nan, 2e3, 2e3]
    assert energy(range(5), values, (0, 4)).energy_j == pytest.approx(8.0)
    assert energy(range(5), [math.nan] * 5, (0, 4)).void == "no reading"
    far = [2e3] + [math.nan] * 8 + [2e3]
    assert "gap" in energy(range(10), far, (0, 9)).void


def test_rail_that_is_lost_voids_what_lies_behind():
    stamps = np.arange(0, 100, 0.1)
    values = np.where(stamps < 50, 3e3, np.nan)
    assert energy(stamps, values, (10, 40), 0.1).energy_j == pytest.approx(90.0)
    assert energy(stamps, values, (45, 60), 0.1).void is not None


def test_edges_without_samples_beyond_count_as_gaps():
    assert largest_gap(np.array([3.0, 4.0]), 0.0, 5.0) == 3.0
    assert energy([10, 11, 12], [1e3] * 3, (0, 12)).void == "gap of 10 s"
    # Up to five intervals the nearest reading stands for the edge.
    assert energy([2, 3, 4], [1e3] * 3, (0, 4)).energy_j == pytest.approx(4.0)


def test_duplicate_stamps_keep_the_last_reading():
    stamps, values = clean_series(np.array([0.0, 1.0, 1.0, 2.0]), np.array([1.0, 7.0, 3.0, 1.0]))
    assert stamps.tolist() == [0, 1, 2]
    assert values.tolist() == [1, 3, 1]
    found = energy([0, 1, 1, 2], [1e3, 9e3, 1e3, 1e3], (0, 2))
    assert found.energy_j == pytest.approx(2.0)


def test_empty_window():
    assert energy([0, 1], [1e3, 1e3], (0.5, 0.5)).void == "empty window"


def test_quality_of_a_sensor_is_measured():
    # Steps of 38 mW, one new value every third sample of 0.1 s.
    levels = np.repeat([3800, 3838, 3914, 3838, 3800], 3).astype(float)
    found = rail_quality(np.arange(15) * 0.1, levels)
    assert found.resolution_mw == 38.0
    assert found.refresh_ms == pytest.approx(300.0)
    assert found.identical_share == pytest.approx(10 / 14)
    assert found.missing == 0
    stuck = rail_quality(np.arange(4) * 0.1, np.array([5.0, 5.0, np.nan, 5.0]))
    assert stuck == (None, None, 1.0, 1)
    assert rail_quality(np.zeros(0), np.zeros(0)) == (None, None, None, 0)


def test_sampling_error_of_an_inference_load():
    """48 ms at 11 W, 20 ms at 4 W, 60 s at 10 Hz with 15 % jitter and 38 mW steps: within 4 %."""
    errors = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        stamps = np.cumsum(0.1 * (1 + random.normal(0, 0.15, 640)))
        watts = np.where((stamps + random.uniform(0, 0.068)) % 0.068 < 0.048, 11.0, 4.0)
        found = energy(stamps, np.round(watts * 1e3 / 38) * 38, (1.0, 61.0), 0.1)
        errors.append(found.energy_j / (60 * (11 * 48 + 4 * 20) / 68) - 1)
    assert abs(np.mean(errors)) < 0.005
    assert np.std(errors) < 0.02
    assert np.abs(errors).max() < 0.04
