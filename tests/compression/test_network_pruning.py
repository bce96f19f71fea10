"""Pruning in one's own loop: the rate, the masks, the smaller network, checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pneumonia.compression.admm.any_module import ModuleCompression
from pneumonia.compression.network_pruning import NetworkPruning
from pneumonia.compression.prune.depth_method import DepthMethod
from pneumonia.compression.prune.layerwise import PatternMethod
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.sets.units import Filters
from pneumonia.network.module import Network
from pneumonia.network.torch_import.imported import from_torch
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ConfigError, PruneError
from pneumonia.runtime.model.spec import dense_weight_count
from tests.network.torch_import.torch_networks import network


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.a(x)))
        return self.head((y + self.b(y)).mean((2, 3)))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(128, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return x, (x.mean((1, 2, 3)) > 0).long()


def trained(rate: float, steps: int = 60) -> tuple[Network, NetworkPruning]:
    torch.manual_seed(0)
    x, y = data()
    network = from_torch(Block(), x[:2])
    plan = NetworkPruning(network, rate, rho=0.05)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    plan.start()
    for step in range(2 * steps):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        if step < steps:
            plan.add_penalty_gradient()
        optimiser.step()
        if step % 10 == 9 and step < steps:
            plan.update()
        if step == steps:
            plan.harden()
        plan.hold()
    return network, plan


def test_masks_hold_through_training_and_the_smaller_network_is_the_same():
    network, plan = trained(3.0)
    small = plan.compacted().eval()
    x, y = data()
    torch.testing.assert_close(small(x), network.eval()(x), rtol=1e-4, atol=1e-5)
    rate = dense_weight_count(network.spec) / dense_weight_count(small.spec)
    assert rate == pytest.approx(plan.plan.realised_rate)
    assert rate >= 2.97
    a, b = small.spec.layer("a"), small.spec.layer("b")
    assert a.out_channels == b.out_channels == b.in_channels, "coupled by the sum"
    assert (small(x).argmax(1) == y).float().mean() > 0.85
    assert isinstance(small, type(network))
    assert [group.layers for group in plan.groups()] == [("a", "b"), ("head",)]


def test_a_stopped_loop_goes_on_where_it_was():
    network, plan = trained(3.0, steps=10)
    again = from_torch(Block(), data()[0][:2])
    other = NetworkPruning(again, 3.0)
    again.load_state_dict(network.state_dict())
    other.load_state_dict(plan.state_dict())
    assert other.engine.rho == plan.engine.rho
    for loop in (plan, other):
        loop.update()
        loop.hold()
    found, expected = other.state_dict(), plan.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert other.compacted().spec == plan.compacted().spec


def test_other_methods_layers_and_limits():
    network = from_torch(Block(), data()[0][:2])
    plan = NetworkPruning(network, 2.2, PatternMethod(), layers=("b",))
    masks = plan.harden()
    assert list(masks) == ["b"]
    kept = masks["b"].reshape(256, 9).sum(1)
    assert set(kept.tolist()) <= {0, 4}
    limited = NetworkPruning(network, 1.2, limits={"a": 1.0, "b": 1.7})
    assert limited.plan.layer_rates["a"] == 1.0


def test_a_network_of_the_zoo_can_be_pruned_as_well():
    network = Network(build("lenet5"))
    plan = NetworkPruning(network, 4.0)
    plan.harden()
    small = plan.compacted()
    assert dense_weight_count(small.spec) <= dense_weight_count(network.spec) / 3.9


@pytest.mark.parametrize("name", ["mobilenetv2", "vit"])
def test_filters_are_rounded_in_groups_and_heads(name):
    module, x = network(name)
    found = from_torch(module, x).eval()
    plan = NetworkPruning(found, 1.5, StructuredMethod(filter_share=1.0, round_to=8))
    plan.harden()
    small = plan.compacted()
    fewer = [
        layer.out_channels
        for layer, before in zip(small.spec.weighted(), found.spec.weighted(), strict=True)
        if layer.out_channels < before.out_channels
    ]
    assert fewer
    assert all(count % 8 == 0 for count in fewer)


def test_a_rate_that_rounding_overshoots_is_reported(caplog):
    module = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 4, 3))
    found = from_torch(module, torch.randn(2, 3, 8, 8))
    plan = NetworkPruning(found, 1.3, StructuredMethod(filter_share=1.0, round_to=16))
    plan.harden()
    assert plan.plan.realised_rate == 1.5
    assert "Rate 1.3 is asked for, 1.5 is reached" in caplog.text
    assert "multiples of 16" in caplog.text
    caplog.clear()
    NetworkPruning(found, 1.5, StructuredMethod(filter_share=1.0, round_to=16)).harden()
    assert not caplog.text


def test_what_cannot_be_pruned_is_an_error():
    network = from_torch(Block(), data()[0][:2])
    with pytest.raises(PruneError, match=r"globs of a, b, head.*nothing_\*"):
        NetworkPruning(network, 2.0, layers=("nothing_*",))
    with pytest.raises(
        PruneError, match=r"cannot be reached.*filters of 1 are protected.*: head\)"
    ):
        NetworkPruning(network, 1e6)
    with pytest.raises(PruneError, match=r"no layer; expected globs of a, b, head; found 'hed'"):
        NetworkPruning(network, 2.0, limits={"hed": 1.0})
    with pytest.raises(PruneError, match=r"limits of at least 1.*limits \{'b': 0.5\}"):
        NetworkPruning(network, 2.0, limits={"b": 0.5})
    with pytest.raises(PruneError, match="harden"):
        NetworkPruning(network, 2.0).compacted()


def test_filters_of_a_transposed_convolution_are_its_outputs():
    module = nn.ConvTranspose2d(4, 6, 3, groups=2)  # torch keeps (4, 3, 3, 3)
    plan = ModuleCompression(module, {"weight": Filters(2)})
    masks = plan.harden()
    module.bias.data.zero_()
    out = module(torch.randn(1, 4, 5, 5))
    assert masks["weight"].shape == module.weight.shape
    assert int((out.abs().amax((0, 2, 3)) > 0).sum()) == 2
    plan.start()
    assert max(r.primal for r in plan.update()) == 0


def test_a_plain_module_is_sent_to_from_torch():
    with pytest.raises(ConfigError, match=r"found Block\. Use pneumonia\.from_torch\(module"):
        NetworkPruning(Block(), rate=2.0)


@pytest.mark.parametrize("options", [
    {"rate": 8.0}, {"rate": 2.0, "limits": {"a": 1.5}}, {"rate": 2.0, "layers": ("a", "b")},
    {"rate": 2.0, "method": StructuredMethod()},
])  # fmt: skip
def test_a_state_of_another_plan_is_refused(options):
    network = from_torch(Block(), data()[0][:2])
    saved = NetworkPruning(network, **options)
    plan = NetworkPruning(network, 2.0)
    for step in (saved.start, saved.harden):
        step()
        with pytest.raises(PruneError, match=r"State does not fit.*expected.*found"):
            plan.load_state_dict(saved.state_dict())
    if options["rate"] != 2.0:
        with pytest.raises(PruneError, match=r"expected rate 2\.0; found 8\.0"):
            plan.load_state_dict(saved.state_dict())
    assert not plan.masks
    NetworkPruning(network, **options).load_state_dict(saved.state_dict())


def test_a_string_is_one_glob_of_layers():
    network = from_torch(Block(), data()[0][:2])
    plan = NetworkPruning(network, 2.2, PatternMethod(), layers="b")
    assert list(plan.harden()) == ["b"]
    with pytest.raises(PruneError, match=r"globs of a, b, head; found.*layers \('stem',\)"):
        NetworkPruning(network, 2.0, layers="stem")


def test_steps_penalties_rates_and_methods_are_checked():
    network = from_torch(Block(), data()[0][:2])
    plan = NetworkPruning(network, 2.0)
    for step in (plan.update, plan.add_penalty_gradient, lambda: plan.pull(0.1)):
        with pytest.raises(PruneError, match="has not started"):
            step()
    for rho in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(PruneError, match="rho"):
            plan.set_rho(rho)
        with pytest.raises(PruneError, match="rho"):
            NetworkPruning(network, 2.0, rho=rho)
    for options in ({"rate": "2"}, {"rate": float("nan")}, {"rate": 2, "limits": {"a": "2"}}):
        with pytest.raises(PruneError, match="expected a rate above 1"):
            NetworkPruning(network, **options)
    for method in (DepthMethod, Filters(8)):
        with pytest.raises(PruneError, match="Not a pruning method"):
            NetworkPruning(network, 2.0, method)
