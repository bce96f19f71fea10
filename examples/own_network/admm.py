"""Prune any torch.nn.Module with ADMM: `python examples/own_network/admm.py`."""

import torch
from torch import nn

import pneumonia


def main() -> None:
    """Prune a linear layer to the 8 of 64 inputs on which its target depends."""
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    network, y = nn.Linear(64, 1), x[:, ::8].sum(1, keepdim=True)
    plan = pneumonia.ModuleCompression(network, {"weight": pneumonia.Irregular(8)}, rho=0.1)
    plan.start()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(1, 401):
        optimiser.zero_grad()
        nn.functional.mse_loss(network(x), y).backward()
        plan.add_penalty_gradient()  # rho (W - Z + U)
        optimiser.step()
        if step % 50 == 0:
            plan.update()  # Z: projection, U: its residual
    plan.harden()
    print(f"{plan.rate():.0f}x fewer weights, at", *network.weight[0].nonzero().flatten().tolist())


if __name__ == "__main__":
    main()
