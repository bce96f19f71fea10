"""Patterns and connectivity against brute force, hand-computed values and the FKW formula."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.sets.pattern import (
    FIXED_8,
    PatternConnectivity,
    Patterns,
    choose_kernels,
    kernel_codes,
    mine_patterns,
    natural_patterns,
    pattern_mask,
)
from pneumonia.runtime.errors import PruneError
from tests.compression.sets.tensors import (
    assert_sparse_projection,
    distance,
    energy,
    weights,
)


def code_of(removed: str) -> int:
    gone = {3 * int(rc[0]) + int(rc[1]) for rc in removed.split()}
    return sum(1 << bit for bit in range(9) if bit not in gone)


def test_natural_patterns_are_the_56_with_the_centre():
    codes = natural_patterns()
    assert len(codes) == 56
    assert all(pattern_mask([c])[0, 4] and pattern_mask([c]).sum() == 4 for c in codes)


def test_fixed_set_is_the_published_table():
    table = [
        "00 01 02 10 20", "00 01 02 12 22", "00 10 20 21 22", "02 12 20 21 22",
        "00 02 20 21 22", "00 01 02 20 22", "00 02 10 20 22", "00 02 12 20 22",
    ]  # fmt: skip
    assert set(FIXED_8) == {code_of(removed) for removed in table}
    corners = {code_of(removed) for removed in table[:4]}
    assert set(FIXED_8[:4]) == corners, "a set of four is the four corner blocks"


def test_mining_counts_kernels_and_breaks_ties_by_code():
    kernel = torch.zeros(3, 2, 3, 3)
    kernel[:, :, 1, 1] = 0.1  # the centre is kept however small
    kernel[0, 0, 0, 1] = kernel[0, 0, 1, 0] = kernel[0, 0, 2, 1] = 1
    kernel[0, 1] = kernel[0, 0]
    kernel[1, 0, 0, 0] = kernel[1, 0, 0, 1] = kernel[1, 0, 0, 2] = 1
    kernel[1, 1, 2, 0] = kernel[1, 1, 2, 1] = kernel[1, 1, 2, 2] = -1
    kernel[2] = 0  # empty kernels do not vote
    twice = (1 << 4) | (1 << 1) | (1 << 3) | (1 << 7)
    low, high = (1 << 4) | 7, (1 << 4) | (7 << 6)
    assert mine_patterns([torch.ones(1, 1, 1, 1), kernel], 3) == (twice, low, high)
    assert mine_patterns([kernel], 1) == (twice,)
    assert int(kernel_codes(torch.ones(1, 1, 3, 3))) == (1 << 4) | 7, "ties: lower position"


def test_mining_needs_a_kernel():
    with pytest.raises(PruneError, match="3x3"):
        mine_patterns([torch.ones(2, 2, 1, 1)], 8)


@pytest.mark.parametrize("codes", [(), (511,), (FIXED_8[0], FIXED_8[0]), (15,)])
def test_bad_pattern_sets_are_refused(codes):
    with pytest.raises(PruneError, match="Pattern set"):
        Patterns(codes)


@given(weights(), st.integers(1, 8))
def test_pattern_projection_is_the_best_of_all(v, k):
    codes = FIXED_8[:k]
    z = assert_sparse_projection(Patterns(codes), v)
    best = (v.reshape(-1, 1, 9) * pattern_mask(codes)).double().square().sum(2).max(1).values
    assert energy(z) == best.sum()


def shared_brute_force(v, codes, group_size):
    total = 0.0
    for first in range(0, v.shape[0], group_size):
        for i in range(v.shape[1]):
            group = v[first : first + group_size, i].reshape(-1, 9)
            total += max(float((group * m).double().square().sum()) for m in pattern_mask(codes))
    return total


@given(weights(max_filters=5), st.sampled_from([1, 2, 3, 8]))
def test_shared_patterns_are_shared_and_best(v, group_size):
    z = assert_sparse_projection(Patterns(FIXED_8, group_size), v)
    assert energy(z) == pytest.approx(shared_brute_force(v, FIXED_8, group_size))
    mask = Patterns(FIXED_8, group_size).project(v).mask
    for first in range(0, v.shape[0], group_size):
        assert (mask[first : first + group_size] == mask[first]).all()


@given(weights(max_filters=3, max_channels=2), st.integers(1, 6))
def test_joint_projection_equals_brute_force(v, n_keep):
    codes = FIXED_8[:3]
    z = assert_sparse_projection(PatternConnectivity(n_keep, codes), v)
    kernels = v.reshape(-1, 9)
    options = (kernels.unsqueeze(1) * pattern_mask(codes)).double().square().sum(2)
    best = 0.0
    for alive in combinations(range(len(kernels)), min(n_keep, len(kernels))):
        for choice in product(range(len(codes)), repeat=len(alive)):
            best = max(best, sum(float(options[k, c]) for k, c in zip(alive, choice, strict=True)))
    assert energy(z) == best
    assert int((z.reshape(-1, 9) != 0).any(1).sum()) <= n_keep


@given(weights(max_filters=5, max_channels=2), st.integers(1, 6), st.sampled_from([2, 3, 4]))
def test_joint_projection_of_groups_equals_brute_force(v, n_keep, group_size):
    """Filters of a group share the pattern and the presence of each input channel."""
    codes = FIXED_8[4:7]
    z = assert_sparse_projection(PatternConnectivity(n_keep, codes, group_size), v)
    masks = pattern_mask(codes)
    options = [
        [
            energy(v[first : first + group_size, i].reshape(-1, 9) * places) for places in masks
        ]
        for first in range(0, v.shape[0], group_size)
        for i in range(v.shape[1])
    ]  # fmt: skip
    best = 0.0
    for alive in combinations(options, min(n_keep, len(options))):
        best = max(best, *(sum(chosen) for chosen in product(*alive)))
    assert energy(z) == best


def test_joint_keeps_more_than_norm_first():
    """A kernel of large norm spread over nine places loses to one a pattern holds whole."""
    v = torch.zeros(1, 2, 3, 3)
    v[0, 0] = 0.7  # energy 4.41, any pattern keeps 1.96
    v[0, 1, 1, 1] = 2.0  # energy 4.00, kept whole
    z = PatternConnectivity(1).project(v).z
    assert torch.equal(z[0, 0], torch.zeros(3, 3))
    assert energy(z) == 4.0


@given(weights(), st.integers(1, 12))
def test_connectivity_is_top_k_of_kernel_norms(v, n_keep):
    z = assert_sparse_projection(PatternConnectivity(n_keep, ()), v)
    norms = v.double().square().sum((2, 3)).reshape(-1)
    assert energy(z) == norms.sort(descending=True).values[:n_keep].sum()


@given(weights(max_filters=4, max_channels=4), st.integers(1, 16), st.randoms())
def test_balanced_connectivity_is_level_and_optimal(v, n_keep, random):
    z = assert_sparse_projection(PatternConnectivity(n_keep, (), spread="balanced"), v)
    norms = v.double().square().sum((2, 3))
    alive = choose_kernels(norms, n_keep, "balanced")
    lengths = alive.sum(1)
    assert int(lengths.sum()) == min(n_keep, norms.numel())
    assert int(lengths.max() - lengths.min()) <= 1
    base, extra = divmod(min(n_keep, norms.numel()), v.shape[0])
    longer = set(random.sample(range(v.shape[0]), extra))
    y = torch.zeros_like(v)
    for o in range(v.shape[0]):
        for i in random.sample(range(v.shape[1]), base + (o in longer)):
            y[o, i] = v[o, i]
    assert distance(v, z) <= distance(v, y)


def test_one_by_one_kernels_and_linear_layers_have_connectivity_only():
    v = torch.tensor([[1.0, 3.0], [2.0, -4.0]])
    expected = torch.tensor([[0.0, 3.0], [0.0, -4.0]])
    assert torch.equal(PatternConnectivity(2).project(v).z, expected)
    conv = PatternConnectivity(2).project(v.reshape(2, 2, 1, 1)).z
    assert torch.equal(conv.reshape(2, 2), expected)
    assert PatternConnectivity(2).storage_bits(expected).weights == 2 * 32


def test_patterns_leave_other_kernels_alone():
    v = torch.randn(2, 2, 5, 5)
    assert torch.equal(Patterns().project(v).z, v)


def test_storage_follows_the_fkw_formula():
    v = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 5, 3, 3)).astype(np.float32))
    constraint = PatternConnectivity(11)
    bits = constraint.storage_bits(constraint.project(v).z)
    assert bits.weights == 4 * 11 * 32
    # K*ceil(log2 5) + O*ceil(log2 6) + (O+1)*ceil(log2 12) + O*(8+1)*ceil(log2 6)
    assert bits.indices == 11 * 3 + 6 * 3 + 7 * 4 + 6 * 9 * 3


def test_shared_patterns_store_their_lists_once():
    v = torch.randn(32, 16, 3, 3)
    free = PatternConnectivity(256, group_size=1)
    shared = PatternConnectivity(16, group_size=16)
    bits = [c.storage_bits(c.project(v).z) for c in (free, shared)]
    assert bits[0].weights == bits[1].weights == 256 * 4 * 32
    assert bits[1].indices * 8 < bits[0].indices


def test_infinite_weights_are_refused():
    v = torch.full((1, 1, 3, 3), torch.nan)
    with pytest.raises(PruneError, match="finite"):
        Patterns().project(v)
