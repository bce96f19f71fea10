"""Time and memory of one projection of the full YOLOv3 (61.5 M parameters), for each method.

    python -m benchmarks.projection_methods_speed [--width 1.0] [--json FILE]

Goal: <= 5 s on two cores, at most three copies of the weights at the peak.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from pneumonia.compression.constraint import Constraint, gemm_view, keep_count
from pneumonia.compression.methods.block import DensityAdaptiveBlocks, block_count, largest_exponent
from pneumonia.compression.methods.connectivity import PatternConnectivity
from pneumonia.compression.methods.crossbar import Blocks, tile_energies
from pneumonia.compression.methods.irregular import Irregular
from pneumonia.compression.methods.pattern import FIXED_8
from pneumonia.compression.methods.quantize import BINARY, TERNARY, Quantized, k_bit, power_of_two

GOAL_S = 5.0
RATE = 9.0


def pattern(v: torch.Tensor, group: int) -> Constraint:
    units = -(-v.shape[0] // group) * v.shape[1]
    codes = FIXED_8 if v.shape[2] == 3 else ()
    return PatternConnectivity(keep_count(units, RATE / 2.25), codes, group)


def darb(v: torch.Tensor, selector: str) -> Constraint:
    n = gemm_view(v).shape[1]
    least = v.shape[0] * block_count(n, largest_exponent(n))
    return DensityAdaptiveBlocks(max(keep_count(v.numel(), RATE), least), selector)


METHODS = {
    "pattern + connectivity, free": lambda v: pattern(v, 1),
    "pattern + connectivity, groups of 16": lambda v: pattern(v, 16),
    "DARB, energy": lambda v: darb(v, "energy"),
    "DARB, density": lambda v: darb(v, "density"),
    "irregular": lambda v: Irregular(keep_count(v.numel(), RATE)),
    "crossbar blocks 128 x 64": lambda v: Blocks(
        keep_count(tile_energies(v[..., :1, :1], 128, 64).numel() * v.shape[2] ** 2, RATE), 128, 64
    ),
    "8-bit": lambda v: Quantized(k_bit(8)),
    "4-bit": lambda v: Quantized(k_bit(4)),
    "4-bit power of two": lambda v: Quantized(power_of_two(4)),
    "ternary": lambda v: Quantized(TERNARY),
    "binary": lambda v: Quantized(BINARY),
}


def network_weights(width: float) -> list[torch.Tensor]:
    from pneumonia.network.zoo import build
    from pneumonia.runtime.spec import tensor_shapes

    spec = build("yolov3", width=width, channels=3, size=416)
    generator = torch.Generator().manual_seed(0)
    shapes = [s for name, s in tensor_shapes(spec).items() if name.endswith(".weight")]
    return [torch.randn(s, generator=generator) for s in shapes]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="one method by name")
    options = parser.parse_args()
    weights = network_weights(options.width)
    copy_mb = sum(w.numel() for w in weights) * 4 / 2**20
    print(f"{copy_mb / 4 * 2**20 / 1e6:.1f} M weights, one copy {copy_mb:.0f} MB, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    rows = []
    for name, make in METHODS.items():
        if options.only not in (None, name):
            continue
        before, start, cpu = peak_mb(), time.perf_counter(), time.process_time()
        for weight in weights:
            make(weight).project(weight)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        copies = 1 + max(peak_mb() - before, 0) / copy_mb
        rows.append(
            {
                "method": name,
                "seconds": round(seconds, 3),
                "cpu_s": round(cpu, 3),
                "copies": round(copies, 2),
            }
        )
        verdict = "ok" if seconds <= GOAL_S or options.width < 1 else "TOO SLOW"
        print(
            f"{name:38s} {seconds:7.2f} s  (CPU {cpu:5.2f} s)  peak {copies:.2f} copies  {verdict}",
            flush=True,
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
