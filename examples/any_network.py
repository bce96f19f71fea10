"""ADMM on a network of your own: any torch.nn.Module, no NetworkSpec.

    python examples/any_network.py

Prunes a small classifier to a tenth of its weights and puts another copy on ternary weights, both
with the same engine. What comes out is masked, not smaller: removing filters for good needs to know
who reads them, which a `NetworkSpec` says (`pneumonia.compression.compaction`).
"""

import torch
import torch.nn.functional as F
from torch import nn

from pneumonia.compression.any_module import ModuleCompression, match_parameters
from pneumonia.compression.methods.irregular import Irregular
from pneumonia.compression.methods.quantize import TERNARY, Quantized
from pneumonia.compression.snap import ProgressiveSnap


def make_data(n: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Two interleaved spirals in the plane, with their class."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.rand(n, generator=generator) * 6 + 0.5
    label = torch.randint(0, 2, (n,), generator=generator)
    angle = turn + label * torch.pi
    noise = torch.randn(n, 2, generator=generator) * 0.1
    return torch.stack([angle.cos(), angle.sin()], 1) * turn[:, None] / 3 + noise, label


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )


def train(network, data, steps, before_step=None, after_step=None, update=None):
    """Adam; `before_step` sees the gradients, `after_step` the new weights."""
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(network(data[0]), data[1]).backward()
        if before_step:
            before_step()
        optimiser.step()
        if after_step:
            after_step()
        if update and step % 50 == 49:
            update()


def accuracy(network, data) -> float:
    with torch.no_grad():
        return float((network(data[0]).argmax(1) == data[1]).float().mean())


def compress(network, data, constraints) -> ModuleCompression:
    """Three rounds of growing rho; the weights end near their sets."""
    plan = ModuleCompression(network, constraints, rho=1e-3)
    plan.start()
    for rho in (1e-3, 1e-2, 1e-1):
        plan.set_rho(rho)
        train(network, data, 300, plan.add_penalty_gradient, update=plan.update)
    return plan


def main() -> None:
    data, network = make_data(), make_network()
    train(network, data, 800)
    dense = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    print(f"dense    accuracy {accuracy(network, data):.3f}")

    sets = match_parameters(network, "2.weight", lambda w: Irregular(w.numel() // 10))
    plan = compress(network, data, sets)
    plan.harden()
    train(network, data, 500, after_step=plan.hold)
    print(f"pruned   accuracy {accuracy(network, data):.3f}, {plan.rate():.1f}x fewer weights")

    network.load_state_dict(dense)
    levels = match_parameters(network, "*.weight", lambda w: Quantized(TERNARY))
    plan = compress(network, data, levels)
    snapping = ProgressiveSnap(plan.weights, levels)
    for share in (0.5, 0.5, 0.5, 1.0):
        snapping.advance(share)
        train(network, data, 200, after_step=snapping.hold)
    different = {name: len(w.detach().unique()) for name, w in plan.weights.items()}
    print(f"ternary  accuracy {accuracy(network, data):.3f}, different weights {different}")


if __name__ == "__main__":
    main()
