"""Remove residual blocks of your own network: `python examples/own_network/remove_blocks.py`."""

import torch
from torch import nn

import pneumonia


class Block(nn.Sequential):
    """Two convolutions beside a skip connection."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of the input and the convolutions' output."""
        return x + super().forward(x)


def main() -> None:
    """Remove the blocks of least energy from a stack of six, to half of the weights."""
    layers = [Block(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)) for _ in range(6)]
    mine = nn.Sequential(nn.Conv2d(1, 8, 3), *layers, nn.Conv2d(8, 2, 1))
    network = pneumonia.from_torch(mine, torch.randn(1, 1, 16, 16))
    plan = pneumonia.NetworkPruning(network, rate=1.8, method=pneumonia.DepthMethod())
    plan.harden()  # no training here: projects the weights as they are
    plain = pneumonia.to_torch(plan.compacted())  # the outputs were compared
    left = sum(isinstance(part, nn.Conv2d) for part in plain.modules()) // 2 - 1
    print(f"{left} of 6 blocks left, {plan.plan.realised_rate:.1f}x fewer weights")


if __name__ == "__main__":
    main()
