"""Quantize the weights of a run with training.

python examples/quantize.py RUN QUANTIZED [RECIPE] [CHANGES, such as snap_epochs=1 ...]
"""

import sys

import pneumonia


def main(run: str, out: str, recipe: str = "quant-8", *changes: str) -> None:
    """Print bits per weight and the size of the weights file, before and after."""
    options = pneumonia.RunOptions(changes=changes)
    result = pneumonia.quantize(run, recipe, out, options=options)
    print("bits of a weight:", sorted(set(result.bits.values())))
    print(f"weights file: {result.bytes_before:,} -> {result.bytes_after:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
