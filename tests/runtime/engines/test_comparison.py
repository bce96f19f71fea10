"""Differences of outputs, and times of functions that run in turn."""

import numpy as np
import pytest

from pneumonia.runtime.engines.comparison import (
    WARM_UP,
    interleaved_ms,
    relative_error,
    relative_rms,
)


def test_errors_are_relative_to_what_is_expected():
    expected = np.array([3.0, -4.0], np.float32)
    found = np.array([3.0, -3.0], np.float32)
    assert relative_error(found, expected) == pytest.approx(1 / 4)
    assert relative_rms(found, expected) == pytest.approx(1 / 5)
    assert relative_error(expected, expected) == relative_rms(expected, expected) == 0


@pytest.mark.parametrize("measure", [relative_error, relative_rms])
@pytest.mark.parametrize("found", [[np.nan, 1.0], [np.inf, 1.0], [1.0]])
def test_what_cannot_be_compared_differs_without_limit(measure, found):
    assert measure(np.array(found, np.float32), np.ones(2, np.float32)) == np.inf


def test_an_output_of_zeros_has_a_finite_error():
    assert relative_error(np.full(2, 1e-9), np.zeros(2)) == pytest.approx(1e-3)


def test_functions_run_in_turn():
    calls = []
    spent = interleaved_ms({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 4)
    assert calls == ["a", "b"] * (WARM_UP + 4)
    assert {name: len(times) for name, times in spent.items()} == {"a": 4, "b": 4}
