"""Prune a network of your own and generate its C: `python examples/own_network/compile.py OUT.so`.

Needs a C compiler. Filters of smallest energy are removed, without training.
"""

import sys

import torch
from torch import nn

import pneumonia


def main(out: str, target: str = "native") -> None:
    """Halve the weights of a small network and compile what is left for this machine."""
    layers = [nn.Conv2d(1, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.1)]
    mine = nn.Sequential(*layers, nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1))
    network = pneumonia.from_torch(mine.eval(), torch.randn(1, 1, 64, 64))
    plan = pneumonia.NetworkPruning(network, rate=2.0)
    plan.harden()
    made = pneumonia.write_kernels(plan.compacted(), out, target)
    print(f"{made.path.stat().st_size:,} bytes for {made.target}, error {made.relative_error:.0e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
