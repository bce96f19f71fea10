"""Project a weight onto the sets of the compression methods: each projection is exact.

python examples/constraints.py
"""

import torch

import pneumonia


def main() -> None:
    """Print the distance of each projection of a random weight, and its storage size."""
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    sets = {
        "irregular": pneumonia.Irregular(288),
        "filters": pneumonia.Filters(4),
        "columns": pneumonia.Columns(18, group_size=8),
        "patterns": pneumonia.Patterns(),
        "ternary": pneumonia.Quantized(pneumonia.TERNARY),
    }
    for name, constraint in sets.items():
        z = constraint.project(weight).z
        bits = sum(constraint.storage_bits(z))
        print(f"{name:10} distance {(weight - z).norm():.2f}, {bits / 8:.0f} bytes")


if __name__ == "__main__":
    main()
