"""The set of whole branches: its projection is the nearest point, by trying all of them."""

from itertools import chain, combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.admm.engine import Admm
from pneumonia.compression.compact.branches import residual_branches
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.sets.branches import ResidualBranches, best_subset
from pneumonia.network.zoo import build

SPEC = build("yolov3", width=0.125, size=64)
GRAPH = ChannelGraph(SPEC)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), max_size=8), st.integers(0, 40))
def test_the_choice_is_the_best_of_all(items: list[tuple[int, int]], limit: int) -> None:
    sizes, values = [s for s, _ in items], [float(v) for _, v in items]
    numbers = range(len(items))
    every = chain.from_iterable(combinations(numbers, n) for n in range(len(items) + 1))
    fitting = [c for c in every if sum(sizes[i] for i in c) <= limit]
    best = max(sum(values[i] for i in c) for c in fitting)
    found = best_subset(sizes, values, limit)
    assert sum(sizes[i] for i in found) <= limit
    assert sum(values[i] for i in found) == best
    least = min(sum(sizes[i] for i in c) for c in fitting if sum(values[i] for i in c) == best)
    assert sum(sizes[i] for i in found) == least


def test_the_projection_is_whole_branches_and_idempotent() -> None:
    branches = residual_branches(GRAPH)
    torch.manual_seed(0)
    v = {
        name: torch.randn_like(torch.empty(layer.out_channels, layer.in_channels, 3, 3))
        for branch in branches
        for name in branch.layers
        for layer in (SPEC.layer(name),)
    }
    total = sum(tensor.numel() for tensor in v.values())
    part = ResidualBranches(GRAPH, branches, total // 2)
    z = {name: p.z for name, p in part.project(v).items()}
    assert 0.4 * total < sum(int((t != 0).sum()) for t in z.values()) <= total // 2
    for branch in branches:
        assert len({bool(z[name].any()) for name in branch.layers}) == 1
    assert all(torch.equal(p.z, z[name]) for name, p in part.project(z).items())
    masks = {name: p.mask for name, p in part.project(v).items()}
    settled = part.remove_dead_paths(v, masks)
    assert all(torch.equal(settled[name], masks[name]) for name in masks)


def test_residuals_of_a_layer_that_goes_to_zero_go_to_zero() -> None:
    branches = residual_branches(GRAPH)[:2]
    layers = [name for branch in branches for name in branch.layers]
    weights = {name: torch.nn.Parameter(torch.ones(2, 2)) for name in layers}
    for name in branches[1].layers:
        weights[name].data.fill_(0.5)
    engine = Admm([ResidualBranches(GRAPH, branches, 8)], 1.0)
    engine.start(weights)
    for _ in range(12):
        engine.pull(weights, 1.0)
        found = {r.layer: r.primal for r in engine.update(weights)}
    assert max(found.values()) < 1e-2
    assert all(float(weights[name].detach().abs().max()) < 1e-2 for name in branches[1].layers)
