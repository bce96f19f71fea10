"""Every layerwise method on a whole network: rate reached, masks compact to the same function."""

import pytest
import torch

from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.compression.prune.layerwise import (
    BlockMethod,
    CrossbarMethod,
    IrregularMethod,
    PatternMethod,
)
from pneumonia.compression.prune.rates import LayerRates, StageStart, plan_rate
from pneumonia.network.files import load_model, save_model
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build

METHODS = {
    "irregular": IrregularMethod(),
    "pattern": PatternMethod(),
    "pattern-free": PatternMethod(group_size=1, formulation="two_split"),
    "block": BlockMethod(),
    "block-density": BlockMethod(selector="density"),
    "crossbar": CrossbarMethod(word_lines=16, bit_lines=16),
    "crossbar-block": CrossbarMethod(unit="block", word_lines=8, bit_lines=8),
}


@pytest.fixture(scope="module")
def network() -> Network:
    network = Network(build("yolov3-tiny", width=0.125, size=64))
    initialise(network, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.tensors().items():  # batch norm that is not the identity
        if name.endswith(("bn_mean", "bn_bias")):
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return network.eval()


@pytest.mark.parametrize("name", METHODS)
def test_rate_is_reached_and_compaction_keeps_the_function(network, name, tmp_path):
    method, graph = METHODS[name], ChannelGraph(network.spec)
    weights = {n: w.detach() for n, w in network.weights().items()}
    rates = LayerRates(dict.fromkeys(weights, 1.0), {"conv_000": 1.5})
    target = 5.0 if name[:5] != "block" else 4.0
    total = sum(weight.numel() for weight in weights.values())
    planned = plan_rate(StageStart(graph, weights, {}, total), method, rates, target)
    assert planned.realised_rate >= target * 0.98
    assert planned.realised_rate <= target * 1.35
    tensors = {n: t.detach().clone() for n, t in network.tensors().items()}
    spec, small = compact(network.spec, tensors, planned.masks, planned.sets.group_sizes)
    spec = smallest_storage(spec, small)
    save_model(tmp_path, spec, small)
    again, restored = load_model(tmp_path)
    compacted, dense = Network(again).eval(), Network(network.spec).eval()
    compacted.load_tensors(restored)
    dense.load_tensors(masked_tensors(graph, tensors, planned.masks))
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = dense(image), compacted(image)
    for output, value in expected.items():
        assert torch.allclose(found[output], value, atol=1e-5, rtol=1e-5)
    file_bytes = (tmp_path / "weights.safetensors").stat().st_size
    assert file_bytes < 0.6 * 4 * sum(t.numel() for t in tensors.values())


@pytest.mark.parametrize("name", METHODS)
def test_hard_set_lies_in_every_split(network, name):
    graph = ChannelGraph(network.spec)
    rates = dict.fromkeys(network.weights(), 4.0)
    sets = METHODS[name].sets(graph, rates)
    weights = {n: w.detach() for n, w in network.weights().items()}
    hard = {n: p.z for n, p in sets.hard.project(weights).items()}
    assert set(hard) == set(rates) == set(sets.budgets)
    for split in sets.splits:
        for layer, projection in split.project({n: hard[n] for n in split.layers}).items():
            if name != "block-density":  # its exponents follow the densities of what it is given
                assert torch.equal(projection.z, hard[layer])


def test_two_splits_as_published(network):
    sets = METHODS["pattern-free"].sets(
        ChannelGraph(network.spec), dict.fromkeys(network.weights(), 4.0)
    )
    assert len(sets.splits) == 2
    sizes = [tuple(network.weights()[n].shape[2:]) for n in sets.splits[1].layers]
    assert set(sizes) == {(3, 3)}, "patterns are a matter of 3x3 kernels"


def test_low_rates_do_not_force_patterns(network):
    constraint = PatternMethod().alone(ChannelGraph(network.spec), "conv_002", 1.5)
    kept = constraint.project(network.weights()["conv_002"].detach()).mask
    kernels = kept.reshape(-1, 9).sum(1)
    assert set(kernels.tolist()) == {0, 9}
    assert float(kept.float().mean()) == pytest.approx(1 / 1.5, abs=0.1)
