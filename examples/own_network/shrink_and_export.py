"""Remove filters of a network of your own without training, and write ONNX.

python examples/own_network/shrink_and_export.py OUT.onnx
"""

import sys

import torch
from torch import nn

import pneumonia


def main(out: str) -> None:
    """Remove the filters of smallest norm from a depthwise block, coupled ones together."""
    depthwise = nn.Conv2d(16, 16, 3, groups=16)
    block = nn.Sequential(nn.Conv2d(3, 16, 1), depthwise, nn.SiLU(), nn.Conv2d(16, 8, 1))
    network = pneumonia.from_torch(block, torch.randn(1, 3, 8, 8))
    plan = pneumonia.NetworkPruning(network, rate=2.0)
    print("together:", *[" + ".join(group.layers) for group in plan.groups()])
    plan.harden()  # no training here: projects the weights as they are
    small = plan.compacted()
    report = pneumonia.write_onnx(small, out)
    print(f"{small.spec.layer('0').out_channels} of 16 channels, error {report.relative_error:.0e}")


if __name__ == "__main__":
    main(sys.argv[1])
