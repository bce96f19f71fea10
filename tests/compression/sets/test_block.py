"""BMWM and DARB against brute force and the published sanity figures."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.sets.block import (
    BlockMax,
    DensityAdaptiveBlocks,
    block_count,
    block_mask,
    largest_exponent,
    level_energies,
    rowwise_mask,
)
from pneumonia.compression.sets.units import Irregular
from pneumonia.runtime.errors import PruneError
from tests.compression.sets.tensors import assert_sparse_projection, energy, matrices


@given(matrices(max_columns=11), st.integers(0, 4))
def test_block_max_keeps_the_largest_of_each_block(v, exponent):
    z = assert_sparse_projection(BlockMax(exponent), v)
    size = 2 ** min(exponent, largest_exponent(v.shape[1]))
    best = 0.0
    for row in v:
        for first in range(0, len(row), size):
            best += float(row[first : first + size].abs().max()) ** 2
    assert energy(z) == best
    mask = BlockMax(exponent).project(v).mask
    assert int(mask.sum()) == v.shape[0] * -(-v.shape[1] // size), "one per block, even of zeros"


def test_padding_never_wins_and_ties_take_the_first():
    mask = block_mask(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0, 0.0]]), 2)
    assert mask.tolist() == [[True, False, False, False, True]] * 2


@given(matrices(max_columns=13))
def test_level_energies_are_those_of_the_masks(v):
    energies = level_energies(v)
    for e in range(largest_exponent(v.shape[1]) + 1):
        expected = (v * block_mask(v, e)).double().square().sum(1).numpy()
        assert np.array_equal(energies[:, e], expected)


def brute_force(v, budget):
    n = v.shape[1]
    energies, levels = level_energies(v), range(largest_exponent(n) + 1)
    best = -1.0
    for choice in product(levels, repeat=v.shape[0]):
        if sum(block_count(n, e) for e in choice) <= budget:
            best = max(best, sum(float(energies[i, e]) for i, e in enumerate(choice)))
    return best


@given(matrices(max_rows=4, max_columns=9), st.data())
def test_energy_selector_is_feasible_and_near_the_optimum(v, data):
    least = v.shape[0] * block_count(v.shape[1], largest_exponent(v.shape[1]))
    budget = data.draw(st.integers(least, v.numel()))
    constraint = DensityAdaptiveBlocks(budget)
    z = assert_sparse_projection(constraint, v)
    assert int(constraint.project(v).mask.sum()) <= budget
    assert energy(z) >= 0.7 * brute_force(v, budget)
    assert energy(z) <= brute_force(v, budget)


def test_energy_selector_equals_brute_force_nearly_always():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        v = torch.from_numpy(rng.normal(size=(4, 8)).astype(np.float32))
        budget = int(rng.integers(4, 28))
        shares.append(energy(DensityAdaptiveBlocks(budget).project(v).z) / brute_force(v, budget))
    assert max(shares) <= 1 + 1e-12
    assert np.mean(shares) > 0.985
    assert np.mean(np.array(shares) > 1 - 1e-9) > 0.55


@given(matrices(max_rows=6, max_columns=16), st.data())
def test_density_selector_meets_the_budget(v, data):
    least = v.shape[0] * block_count(v.shape[1], largest_exponent(v.shape[1]))
    budget = data.draw(st.integers(least, v.numel()))
    constraint = DensityAdaptiveBlocks(budget, "density")
    z, mask = constraint.project(v)
    assert int(mask.sum()) <= budget
    assert torch.equal(z, v * mask)
    fixed = DensityAdaptiveBlocks(budget, exponents=constraint.choose(v))
    assert torch.equal(fixed.project(v).z, z)
    assert torch.equal(fixed.project(z).z, z)


def shares(v: torch.Tensor, rate: float) -> list[float]:
    keep = round(v.numel() / rate)
    sets = [
        BlockMax(int(np.log2(rate))), DensityAdaptiveBlocks(keep, "density"),
        DensityAdaptiveBlocks(keep, "energy"), Irregular(keep),
    ]  # fmt: skip
    return [energy(c.project(v).z) / energy(v) for c in sets]


def test_row_adaptivity_recovers_most_of_the_gap():
    """64 x 256 Gaussian rows of log-normal scale at 16x: 0.28, 0.56, 0.56, 0.66 (methods 4.3)."""
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(8):
        rows = rng.lognormal(0, 0.85, size=(64, 1))
        draws.append(
            shares(torch.from_numpy((rng.normal(size=(64, 256)) * rows).astype(np.float32)), 16)
        )
    uniform, density, best, irregular = np.mean(draws, axis=0)
    assert uniform == pytest.approx(0.28, abs=0.03)
    assert density == pytest.approx(0.56, abs=0.04)
    assert best == pytest.approx(0.56, abs=0.04)
    assert best >= density
    assert irregular == pytest.approx(0.66, abs=0.04)


def test_rows_of_equal_scale_gain_nothing():
    v = torch.from_numpy(np.random.default_rng(2).normal(size=(64, 256)).astype(np.float32))
    uniform, _, best, _ = shares(v, 16)
    assert uniform <= best < uniform * 1.06


@given(matrices(max_rows=3, max_columns=16), st.integers(0, 3))
def test_larger_blocks_are_nested(v, exponent):
    fine = rowwise_mask(v, np.full(v.shape[0], min(exponent, largest_exponent(v.shape[1]))))
    coarse_e = min(exponent + 1, largest_exponent(v.shape[1]))
    coarse = rowwise_mask(v, np.full(v.shape[0], coarse_e))
    assert not (coarse & ~fine & (v != 0)).any()


def test_storage_follows_the_formula():
    v = torch.randn(2, 16)
    fixed = DensityAdaptiveBlocks(6, exponents=np.array([2, 3]))
    bits = fixed.storage_bits(fixed.project(v).z)
    assert bits.weights == (4 + 2) * 32
    assert bits.indices == 4 * 2 + 2 * 3 + 2 * 3  # places, and ceil(log2 5) bits of e per row


def test_impossible_rates_are_refused():
    with pytest.raises(PruneError, match="row blocks"):
        DensityAdaptiveBlocks(3).project(torch.ones(4, 8))
    with pytest.raises(PruneError, match="exponent"):
        BlockMax(-1)
