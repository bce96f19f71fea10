"""Quantizers against closed forms, brute force over all assignments, and random feasible points."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.sets.levels import (
    BINARY,
    MIN_SCALE,
    TERNARY,
    Quantized,
    best_scale,
    k_bit,
    power_of_two,
    snap,
    table,
)
from pneumonia.runtime.errors import PruneError
from tests.compression.sets.tensors import distance, matrices

LEVELS = {
    "binary": BINARY, "ternary": TERNARY, "3-bit": k_bit(3), "3-bit-coded": k_bit(3, "coded"),
    "4-bit-absent": k_bit(4, "absent"), "8-bit": k_bit(8), "pow2": power_of_two(4),
    "device": table([1.0, 1.37, 2.9, 7.77]),
}  # fmt: skip


def test_level_sets():
    assert BINARY.values == (-1.0, 1.0)
    assert TERNARY.values == (-1.0, 0.0, 1.0)
    assert k_bit(3).values == (-3, -2, -1, 0, 1, 2, 3)
    assert k_bit(3, "coded").values == (-3, -2, -1, 1, 2, 3)
    assert k_bit(3, "absent").values == (-4, -3, -2, -1, 1, 2, 3, 4)
    assert power_of_two(3).values == (-4, -2, -1, 0, 1, 2, 4)
    bits = {name: levels.bits for name, levels in LEVELS.items()}
    assert bits == {
        "binary": 1, "ternary": 2, "3-bit": 3, "3-bit-coded": 3, "4-bit-absent": 4, "8-bit": 8,
        "pow2": 4, "device": 3,
    }  # fmt: skip


@pytest.mark.parametrize("bits", [0, 13, -1])
def test_impossible_widths_are_refused(bits):
    with pytest.raises(PruneError, match="Bit width"):
        k_bit(bits)
    with pytest.raises(PruneError, match="levels"):
        table([1.0, 1.0])


def test_binary_is_the_closed_form():
    v = torch.tensor([0.5, -1.5, 0.0, 2.0])
    assert best_scale(v, BINARY) == 1.0
    assert Quantized(BINARY).project(v).z.tolist() == [1.0, -1.0, 1.0, 1.0]


def brute_force_error(v: torch.Tensor, values) -> float:
    """Best over every assignment of levels, each with its own least-squares scale."""
    flat = v.reshape(-1).double().numpy()
    best = float(flat @ flat) if 0.0 in values else np.inf
    for chosen in product(values, repeat=len(flat)):
        q = np.array(chosen)
        alpha = max(float(flat @ q) / max(float(q @ q), 1e-300), MIN_SCALE)
        best = min(best, float(((flat - alpha * q) ** 2).sum()))
    return best


@given(matrices(1, 6), st.sampled_from(["binary", "ternary"]))
def test_binary_and_ternary_equal_brute_force(v, name):
    z = Quantized(LEVELS[name]).project(v).z
    assert distance(v, z) == pytest.approx(brute_force_error(v, LEVELS[name].values), abs=1e-5)


@given(matrices(1, 4))
def test_three_bits_equal_brute_force(v):
    error = distance(v, Quantized(k_bit(3)).project(v).z)
    assert error <= brute_force_error(v, k_bit(3).values) + 1e-5


@given(matrices(4, 12), st.sampled_from(sorted(LEVELS)))
def test_projection_is_idempotent_and_on_levels(v, name):
    levels = LEVELS[name]
    z = Quantized(levels).project(v).z
    scale = best_scale(v, levels)
    allowed = torch.tensor(levels.values, dtype=torch.float64).mul(scale).float()
    assert torch.isin(z, allowed).all(), "100 % of the weights are on levels"
    assert torch.equal(Quantized(levels).project(z).z, z)


@given(matrices(3, 8), st.sampled_from(sorted(LEVELS)), st.integers(0, 2**32 - 1))
def test_no_random_feasible_point_is_nearer_at_the_same_scale(v, name, seed):
    levels, rng = LEVELS[name], np.random.default_rng(seed)
    scale = best_scale(v, levels)
    z = snap(v, levels, scale)
    for _ in range(10):
        y = torch.from_numpy(rng.choice(levels.values, size=tuple(v.shape)) * scale)
        assert distance(v, z) <= distance(v, y) + 1e-6


@pytest.mark.parametrize("name", ["3-bit", "4-bit-absent", "8-bit", "pow2", "device"])
def test_scale_is_the_best_of_a_fine_scan(name):
    levels = LEVELS[name]
    v = torch.from_numpy(np.random.default_rng(3).normal(size=2000).astype(np.float32))
    found = distance(v, Quantized(levels).project(v).z)
    top = float(v.abs().max()) / levels.magnitudes[0]
    scan = np.geomspace(top / levels.magnitudes[-1] / 100, top, 3000)
    assert found <= min(distance(v, snap(v, levels, s)) for s in scan) * (1 + 1e-3)


def test_pruned_places_stay_zero_and_do_not_vote():
    v = torch.tensor([[3.0, 0.0, -3.0, 0.0]])
    mask = v != 0
    z, kept = Quantized(BINARY, mask).project(v)
    assert torch.equal(z, v)
    assert torch.equal(kept, mask)
    assert best_scale(v, BINARY) == 1.5, "without the mask zeros would halve the scale"


def test_fixed_scale_and_ties():
    v = torch.tensor([0.5, 1.5, 2.5, -0.49, 9.0, -0.0])
    z = Quantized(k_bit(3), scale=1.0).project(v).z
    assert z.tolist() == [0.0, 1.0, 2.0, 0.0, 3.0, 0.0]
    assert not torch.signbit(z[-1])
    with pytest.raises(PruneError, match="scale"):
        Quantized(BINARY, scale=0.0)


def test_all_zero_weights_do_not_divide_by_zero():
    v = torch.zeros(3, 3)
    assert Quantized(TERNARY).project(v).z.abs().sum() == 0
    assert torch.equal(Quantized(BINARY).project(v).z, torch.full((3, 3), MIN_SCALE))


@pytest.mark.parametrize("name", ["3-bit", "8-bit", "ternary", "binary"])
def test_stored_codes_reproduce_float32_exactly(name):
    levels = LEVELS[name]
    v = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    scale = best_scale(v, levels)
    z = snap(v, levels, scale).double()
    assert torch.equal(z / scale, (z / scale).round())


def test_storage_bits():
    z = torch.randn(10, 10)
    assert Quantized(BINARY).storage_bits(z) == (100 + 32, 0)
    assert Quantized(TERNARY).storage_bits(z) == (200 + 32, 0)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[0, 0] = True
    assert Quantized(k_bit(4, "absent"), mask).storage_bits(z * mask) == (4 + 32, 1)
