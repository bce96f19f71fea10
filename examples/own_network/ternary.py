"""Quantize your own network to three levels: `python examples/own_network/ternary.py`."""

import torch
from torch import nn

import pneumonia


def main() -> None:
    """Fit y = 1.2 x0 - 0.8 x1 + 0.1 x2, first without constraint, then with levels -a, 0, a."""
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    y = x[:, :3] @ torch.tensor([[1.2], [-0.8], [0.1]])
    network = nn.Linear(8, 1)
    levels = {"weight": pneumonia.Quantized(pneumonia.TERNARY)}
    plan = pneumonia.ModuleCompression(network, levels, rho=0.1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(600):
        if step >= 300 and step % 50 == 0:
            plan.start() if step == 300 else plan.update()
        optimiser.zero_grad()
        nn.functional.mse_loss(network(x), y).backward()
        if step >= 300:
            plan.add_penalty_gradient()
        optimiser.step()
    pneumonia.ProgressiveSnap(plan.weights, levels).advance(1.0)  # every weight on its level
    print([round(weight, 2) for weight in network.weight[0].tolist()])


if __name__ == "__main__":
    main()
