"""Prune a torch network of your own with ADMM: `python examples/own_network/prune.py`."""

import torch
from torch import nn

import pneumonia


def main() -> None:
    """Halve the weights of a small classifier and convert it back to a plain torch module."""
    x, y = torch.randn(256, 3, 8, 8), torch.arange(256) % 2
    mine = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 2))
    network = pneumonia.from_torch(mine, x[:2])  # same inputs and outputs, checked
    plan = pneumonia.NetworkPruning(network, rate=2.0, rho=0.1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    plan.start()
    for step in range(120):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        if step < 80:
            plan.add_penalty_gradient()  # towards fewer filters
        optimiser.step()
        plan.update() if step < 80 and step % 10 == 9 else plan.hold()
        plan.harden() if step == 80 else None
    plain = pneumonia.to_torch(plan.compacted()).eval()  # nn.Conv2d, nn.ReLU ...
    print(plain.get_submodule("0").out_channels, "of 16 filters left")


if __name__ == "__main__":
    main()
