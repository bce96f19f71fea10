"""Bit-serial arithmetic is exact; bit planning fits the memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.quantize.bit_serial import (
    bit_planes,
    bit_serial_matmul,
    fixed_point,
    plan_bits,
)
from pneumonia.compression.sets.levels import BINARY
from pneumonia.runtime.errors import PruneError


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_bit_serial_product_is_the_whole_number_product(m, n, seed):
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.integers(0, 2**m, size=(3, 9)))
    if n == 1:
        w = torch.from_numpy(rng.choice([-1, 1], size=(4, 9)))
    else:
        w = torch.from_numpy(rng.integers(-(2 ** (n - 1)), 2 ** (n - 1), size=(4, 9)))
    assert torch.equal(bit_serial_matmul(inputs, w, m, n), inputs @ w.T)


def test_planes_are_twos_complement():
    assert bit_planes(torch.tensor([-1, 2, -4]), 3).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_numbers_out_of_range_are_refused():
    one = torch.ones(1, 1, dtype=torch.int64)
    with pytest.raises(PruneError, match="weights"):
        bit_serial_matmul(one, 2 * one, 1, 2)
    with pytest.raises(PruneError, match="activations"):
        bit_serial_matmul(-one, one, 2, 2)


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
