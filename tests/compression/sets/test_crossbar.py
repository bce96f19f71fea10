"""Crossbar blocks, device levels and programming noise."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.sets.crossbar import (
    Blocks,
    conductance_step,
    conductances,
    linear_device,
    program,
    tile_energies,
    whole_arrays,
)
from pneumonia.compression.sets.levels import Quantized, best_scale, snap
from pneumonia.runtime.errors import PruneError
from tests.compression.sets.tensors import assert_sparse_projection, energy, matrices


@given(matrices(4, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
def test_blocks_equal_brute_force(v, n_keep, word_lines, bit_lines):
    z = assert_sparse_projection(Blocks(n_keep, word_lines, bit_lines), v)
    tiles = [
        energy(v[r : r + bit_lines, c : c + word_lines])
        for r in range(0, v.shape[0], bit_lines)
        for c in range(0, v.shape[1], word_lines)
    ]
    assert tile_energies(v, word_lines, bit_lines).reshape(-1).tolist() == tiles
    best = max(sum(chosen) for chosen in combinations(tiles, min(n_keep, len(tiles))))
    assert energy(z) == best


def test_budgets_are_whole_arrays():
    assert [whole_arrays(n, 300, 128) for n in (1, 100, 200, 260, 299)] == [128, 128, 256, 256, 256]
    assert whole_arrays(290, 290, 128) == 256
    assert whole_arrays(50, 60, 128) == 60


def test_short_edge_tiles_store_only_what_is_there():
    z = torch.zeros(3, 5)
    z[2, 4] = 1.0  # the corner tile of 2 x 4 tiles holds 1 x 1 places
    assert Blocks(1, word_lines=4, bit_lines=2).storage_bits(z) == (32, 1)


def test_ideal_device_has_no_zero_level():
    levels = linear_device(5)
    assert levels.magnitudes == tuple(float(m) for m in range(1, 17))
    assert 0.0 not in levels.values
    assert levels.bits == 5
    with pytest.raises(PruneError, match="bits"):
        linear_device(1)


def test_conductances_are_within_the_device_and_give_the_weight_back():
    levels = linear_device(5)
    v = torch.randn(50, generator=torch.Generator().manual_seed(1))
    scale = best_scale(v, levels)
    z, step = snap(v, levels, scale), conductance_step(5)
    assert step == pytest.approx((1e-6 - 1e-7) / 16)
    plus, minus = conductances(z, scale, step)
    assert float(torch.stack([plus, minus]).min()) >= 1e-7 * (1 - 1e-9)
    assert float(torch.stack([plus, minus]).max()) <= 1e-6 * (1 + 1e-9)
    assert torch.allclose((plus - minus) / step * scale, z.double())
    with pytest.raises(PruneError, match="device"):
        conductance_step(5, 10.0, 1.0)


def test_programming_errors_average_out():
    levels = linear_device(4)
    v = torch.randn(200, generator=torch.Generator().manual_seed(2))
    z = Quantized(levels, v.abs() > 0.3).project(v).z
    scale = best_scale(v[v.abs() > 0.3], levels)
    generator = torch.Generator().manual_seed(3)
    chips = torch.stack([program(z, levels, scale, 0.2, generator) for _ in range(400)])
    errors = chips - z
    assert float(errors.mean().abs()) < 0.01 * scale
    assert float(errors[:, z != 0].std()) == pytest.approx(0.2 * scale, rel=0.03)
    assert (chips[:, z == 0] == 0).all()
    assert np.isfinite(chips.numpy()).all()
