"""Purification on small networks: what goes, what stays, and the budget."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.prune.purify import (
    PurifyThresholds,
    purified_masks,
    purify,
    weak_channels,
    weak_filters,
)
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import PruneError


def test_channel_needs_both_to_be_weak():
    """Channel 0 strong and full, 1 weak and thin, 2 weak but full, 3 thin but strong, 4 empty."""
    w = torch.zeros(1, 5, 3, 3)
    w[0, 0] = 1.0
    w[0, 1, 0, 0] = 0.3
    w[0, 2] = 0.3
    w[0, 3, 1, 1] = 2.0
    found = weak_channels(w, PurifyThresholds(), 1.0)
    assert found.tolist() == [False, True, False, False, True]


def test_columns_below_the_first_threshold_count_as_empty():
    w = torch.zeros(1, 2, 3, 3)
    w[0, 0] = 1.0
    w[0, 1] = 0.01  # full of scraps: Th1 empties it
    assert weak_channels(w, PurifyThresholds(), 1.0).tolist() == [False, True]
    assert weak_channels(w, PurifyThresholds(column=0.0), 1.0).tolist() == [False, False]


def test_features_of_one_map_are_one_channel(lenet):
    """The 16 features that flattening makes of a map go together, if few and weak."""
    weights = {n: torch.ones_like(w) for n, w in lenet.weights().items()}
    fc = weights["linear_005"].reshape(500, 50, 16)
    fc[:, 3] = 0
    fc[:, 3, :4] = 0.1  # 4 of 16 features, weak: goes
    fc[:, 4] = 0.1  # weak, but all 16: stays
    fc[:, 5, 1:] = 0  # 1 of 16, but strong: stays
    graph = ChannelGraph(lenet.spec)
    masks, removed = purified_masks(graph, weights, {}, PurifyThresholds(column=0.0), 1.0)
    assert removed == 1
    assert not masks["conv_002"][3].any()
    assert not masks["linear_005"].reshape(500, 50, 16)[:, 3].any()
    assert masks["linear_005"].reshape(500, 50, 16)[:, [2, 4, 5]].all()


@given(st.integers(0, 999), st.sampled_from([0.5, 1.0, 8.0, 40.0]))
def test_a_one_by_one_map_is_judged_as_a_convolution(seed, multiplier):
    """A linear layer over features of K places = a convolution of K places per channel."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 6, 3, 3, generator=generator)
    weight *= torch.rand(1, 6, 3, 3, generator=generator) ** 4
    weight = weight * (torch.rand(1, 6, 3, 3, generator=generator) < 0.4)
    flat = weight.reshape(5, 54)
    channel = torch.arange(6).repeat_interleave(9)
    expected = weak_channels(weight, PurifyThresholds(), multiplier).repeat_interleave(9)
    assert torch.equal(weak_channels(flat, PurifyThresholds(), multiplier, channel), expected)


def test_weak_filters():
    w = torch.tensor([[1.0, 1.0], [0.01, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert weak_filters(w, PurifyThresholds(), 1.0).tolist() == [False, True, True, False]
    assert weak_filters(w, PurifyThresholds(), 0.0).tolist() == [False, False, True, False]


@pytest.fixture
def lenet():
    network = Network(build("lenet5"))
    generator = torch.Generator().manual_seed(0)
    for tensor in network.tensors().values():
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
    return network


def test_scraps_go_with_producer_and_consumer(lenet):
    weights = {n: w.detach().clone() for n, w in lenet.weights().items()}
    weights["conv_002"][:, 3] *= 1e-4  # nobody listens to filter 3 of the first layer
    weights["conv_000"][7] *= 1e-4  # a filter that says nothing
    weights["linear_006"][:, 11] = 0
    graph = ChannelGraph(lenet.spec)
    masks, removed = purified_masks(graph, weights, {}, PurifyThresholds(), 1.0)
    gone = [i for i in range(20) if not masks["conv_000"][i].any()]
    assert gone == [3, 7]
    assert not masks["conv_002"][:, [3, 7]].any()
    assert masks["conv_002"][:, [0, 1, 2, 4]].all()
    assert not masks["linear_005"][11].any()
    assert removed == 3
    again, more = purified_masks(graph, weights, masks, PurifyThresholds(), 1.0)
    assert more == 0, "idempotent"
    assert all(torch.equal(again[n], masks[n]) for n in masks)
    assert masks["linear_006"].any(1).all(), "outputs are never removed"


def test_purified_masks_compact_to_the_same_function(lenet):
    graph = ChannelGraph(lenet.spec)
    weights = {n: w.detach() for n, w in lenet.weights().items()}
    masks, removed = purified_masks(graph, weights, {}, PurifyThresholds(filter=0.9), 1.0)
    assert removed > 0
    tensors = {n: t.detach().clone() for n, t in lenet.tensors().items()}
    spec, small = compact(lenet.spec, tensors, masks)
    smaller, dense = Network(spec), Network(lenet.spec)
    smaller.load_tensors(small)
    dense.load_tensors(masked_tensors(graph, tensors, masks))
    image = torch.rand(2, 1, 28, 28)
    output = lenet.spec.outputs[0]
    with torch.no_grad():
        expected = dense(image)[output]
        assert torch.allclose(smaller(image)[output], expected, rtol=1e-4, atol=1e-3)
    assert spec.weighted()[0].out_channels < 20


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.5])
def test_budget_is_kept_and_used(lenet, budget):
    graph = ChannelGraph(lenet.spec)
    weights = {n: w.detach() for n, w in lenet.weights().items()}
    calls = []

    def share_left(masks) -> float:
        value = sum(float((weights[n].square() * m).sum()) for n, m in masks.items())
        calls.append(value)
        return value / sum(float(w.square().sum()) for w in weights.values())

    found = purify(graph, weights, {}, share_left, budget)
    assert found.metric >= 1 - budget - 1e-9
    assert len(calls) <= 13
    if budget == 0:
        assert found.removed == 0
    else:
        assert found.removed > 0
    with pytest.raises(PruneError, match="Budget"):
        purify(graph, weights, {}, share_left, -1.0)
