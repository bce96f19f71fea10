"""Irregular pruning: top-k with exact ties, per layer and over a network."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.sets.constraint import top_k_mask
from pneumonia.compression.sets.units import GlobalIrregular, Irregular
from pneumonia.runtime.errors import PruneError
from tests.compression.sets.tensors import (
    assert_sparse_projection,
    energy,
    grid,
    matrices,
    weights,
)


@given(st.lists(grid(-3, 3), min_size=1, max_size=30), st.integers(0, 31))
def test_selection_is_the_sorted_choice(values, k):
    scores = torch.tensor(values)
    first = torch.sort(scores, descending=True, stable=True).indices[:k]
    expected = torch.zeros(len(scores), dtype=torch.bool)
    expected[first] = True
    assert torch.equal(top_k_mask(scores, k), expected)


@given(weights(), st.integers(1, 60))
def test_keeps_the_largest(v, n_keep):
    z = assert_sparse_projection(Irregular(n_keep), v)
    squares = v.double().square().reshape(-1).sort(descending=True).values
    assert energy(z) == squares[:n_keep].sum()


@given(matrices(2, 3), matrices(2, 3), st.integers(0, 10), st.integers(1, 2))
def test_global_budget_equals_brute_force(a, b, extra, floor):
    n_keep = 2 * floor + extra
    v = {"a": a, "b": b}
    points = GlobalIrregular(("a", "b"), n_keep, floor).project(v)
    sizes = {name: int(point.mask.sum()) for name, point in points.items()}
    assert sum(sizes.values()) == min(n_keep, a.numel() + b.numel())
    assert all(sizes[n] >= min(floor, v[n].numel()) for n in v)
    flat = torch.cat([a.reshape(-1), b.reshape(-1)]).double().square().tolist()
    best = 0.0
    for chosen in combinations(range(len(flat)), min(n_keep, len(flat))):
        in_a = sum(place < a.numel() for place in chosen)
        enough = in_a >= min(floor, a.numel()) and len(chosen) - in_a >= min(floor, b.numel())
        if enough:
            best = max(best, sum(flat[place] for place in chosen))
    assert sum(energy(point.z) for point in points.values()) == best


def test_a_budget_below_the_floors_is_refused():
    with pytest.raises(PruneError, match="floor"):
        GlobalIrregular(("a", "b"), 3, floor=2)
    with pytest.raises(PruneError, match="weights"):
        Irregular(0)


def test_storage_takes_the_cheapest_index():
    z = torch.zeros(10, 100)
    z[0, 0] = 1.0
    bits = Irregular(1).storage_bits(z)
    assert bits == (32, 1)  # one relative entry of one bit
    full = torch.from_numpy(np.ones((10, 100), dtype=np.float32))
    assert Irregular(1000).storage_bits(full).indices == 1000  # a bitmap
