"""Quantize a bundle to int8 without training, validated on a dataset.

python examples/int8.py BUNDLE DATASET OUT
"""

import sys

import pneumonia


def main(bundle: str, dataset: str, out: str) -> None:
    """Write the int8 bundle and print metrics and speed before and after."""
    options = pneumonia.Int8Options(tolerance=0.02)
    result = pneumonia.quantize_int8(bundle, dataset, out, options)
    for name, (before, after) in result.metrics.items():
        print(f"{name} {before:.4f} in float32, {after:.4f} in int8")
    before, after = result.latency_ms
    print(f"{before / after:.2f} times as fast here, in ONNX Runtime")


if __name__ == "__main__":
    main(*sys.argv[1:])
