"""Map a network to in-memory hardware: bits of each layer, and conductances of a crossbar.

python examples/memory_devices.py
"""

import torch

import pneumonia


def main() -> None:
    """Print the bits per layer that fit 30,000 cells, and the conductances of three weights."""
    weights = {"stem": 864, "body": 4608}  # kept weights of each layer
    losses = {  # layer -> bits -> loss of the validation metric
        "stem": {8: 0.0, 6: 0.004, 4: 0.02},
        "body": {8: 0.0, 6: 0.001, 4: 0.003},
    }
    print("bits:", pneumonia.plan_bits(weights, losses, capacity_bits=30_000))

    step = pneumonia.conductance_step(bits=5)
    weights_on_levels = torch.tensor([0.3, -0.1, 0.0])
    plus, minus = pneumonia.conductances(weights_on_levels, scale=0.1, step_s=step)
    for weight, high, low in zip(weights_on_levels, plus, minus, strict=True):
        print(f"{weight:+.1f}: {1e6 * high:.3f} and {1e6 * low:.3f} microsiemens")


if __name__ == "__main__":
    main()
