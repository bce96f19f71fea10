"""Bit-serial arithmetic is exact; bit planning fits the memory."""

import pytest

from pneumonia.compression.quantize.bit_serial import (
    fixed_point,
    plan_bits,
)
from pneumonia.compression.sets.levels import BINARY
from pneumonia.runtime.errors import PruneError


def test_fixed_point_levels():
    assert fixed_point(1) == BINARY
    assert fixed_point(4).values == tuple(float(m) for m in range(-7, 8))
    with pytest.raises(PruneError, match="SOT-MRAM"):
        fixed_point(9)


def test_bits_are_taken_where_they_cost_least():
    weights = {"stem": 10, "body": 100}
    loss = {"stem": {8: 0.0, 4: 0.05}, "body": {8: 0.0, 4: 0.01, 2: 0.5}}
    assert plan_bits(weights, loss, 880) == {"stem": 8, "body": 8}
    assert plan_bits(weights, loss, 500) == {"stem": 8, "body": 4}
    assert plan_bits(weights, loss, 470) == {"stem": 4, "body": 4}
    assert plan_bits(weights, loss, 240) == {"stem": 4, "body": 2}
    with pytest.raises(PruneError, match="memory"):
        plan_bits(weights, loss, 239)
