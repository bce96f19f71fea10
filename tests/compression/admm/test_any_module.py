"""ADMM and masks on modules that have no NetworkSpec."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pneumonia.compression.admm.any_module import ModuleCompression, match_parameters
from pneumonia.compression.sets.irregular import Irregular
from pneumonia.compression.sets.levels import BINARY, Quantized
from pneumonia.runtime.errors import PruneError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 6, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def train(network: nn.Module, steps: int, after_backward=None, after_step=None, each=None) -> float:
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-3)
    x, y = data()
    for step in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        if after_backward:
            after_backward()
        optimiser.step()
        if after_step:
            after_step()
        if each and step % 20 == 19:
            each()
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def test_pruned_module_learns_and_stays_sparse():
    network = model()
    dense = train(network, 200)
    plan = ModuleCompression(
        network, match_parameters(network, "*.weight", lambda p: Irregular(p.numel() // 3)), 0.01
    )
    plan.start()
    train(network, 200, plan.add_penalty_gradient, each=plan.update)
    plan.set_rho(0.3)
    train(network, 100, plan.add_penalty_gradient, each=plan.update)
    assert max(r.primal for r in plan.update()) < 0.2, "the weights came to the set"
    masks = plan.harden()
    pruned = train(network, 200, after_step=plan.hold)
    for name, mask in masks.items():
        assert int(mask.sum()) == mask.numel() // 3
        assert (dict(network.named_parameters())[name][~mask] == 0).all()
    assert plan.rate() == pytest.approx(3, rel=0.05)
    assert dense > 0.95
    assert pruned > 0.9


def test_any_constraint_will_do():
    network = model()
    plan = ModuleCompression(network, {"0.weight": Quantized(BINARY)})
    plan.harden()
    assert len(network[0].weight.abs().unique()) == 1


def test_wrong_names_are_named():
    with pytest.raises(PruneError, match=r"0\.weight"):
        ModuleCompression(model(), {"conv.weight": Irregular(1)})
    with pytest.raises(PruneError, match="none"):
        ModuleCompression(model(), {})
    with pytest.raises(PruneError, match=r"2\.weight"):
        match_parameters(model(), "features.*", lambda p: Irregular(1))
