"""Time and memory of one projection of the full YOLOv3 (61.5 M parameters), for each method.

    python -m benchmarks.compression_cost.projection_methods_speed [--width 1.0] [--only NAME] \
        [--json FILE]

Goal: <= 5 s of wall time on two cores, at most three copies of the weights at the peak. A Z-step
is measured as the engine takes it: the whole network is projected and all results are alive at the
end, so weights and results alone are 2.25 copies (a mask has a byte per weight). Freed blocks of a
megabyte and more go back to the system at once, so that the peak is what a method needs and not
what the allocator keeps (with its defaults up to 4.3 copies stay resident). On a machine that
does other work, read the CPU time: the wall time is the machine's.
"""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.reporting import argument_parser, environment, write_results
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.quantize.bit_serial import fixed_point
from pneumonia.compression.sets.block import (
    BlockMax,
    DensityAdaptiveBlocks,
    block_count,
    largest_exponent,
)
from pneumonia.compression.sets.constraint import (
    Constraint,
    JointConstraint,
    PerLayer,
    gemm_view,
    keep_count,
)
from pneumonia.compression.sets.crossbar import Blocks, linear_device
from pneumonia.compression.sets.levels import BINARY, TERNARY, Quantized, k_bit, power_of_two
from pneumonia.compression.sets.pattern import FIXED_8, PatternConnectivity
from pneumonia.compression.sets.units import Columns, Irregular
from pneumonia.network.zoo import build
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes

GOAL_S, GOAL_COPIES = 5.0, 3.0
RATE = 9.0


def structured(share: float) -> Callable[[NetworkSpec, dict[str, Tensor]], JointConstraint]:
    """Filters tied by shortcuts, columns in groups of 16, of the whole network."""

    def make(spec: NetworkSpec, weights: dict[str, Tensor]) -> JointConstraint:
        rates = dict.fromkeys(weights, RATE)
        return StructuredMethod(filter_share=share).sets(ChannelGraph(spec), rates).splits[0]

    return make


def layerwise(
    make: Callable[[Tensor], Constraint],
) -> Callable[[NetworkSpec, dict[str, Tensor]], JointConstraint]:
    return lambda spec, weights: PerLayer({name: make(w) for name, w in weights.items()})


def pattern(v: Tensor, group: int) -> Constraint:
    units = -(-v.shape[0] // group) * v.shape[1]
    codes = FIXED_8 if v.shape[2] == 3 else ()
    return PatternConnectivity(keep_count(units, RATE / 2.25), codes, group)


def darb(v: Tensor, selector: str) -> Constraint:
    n = gemm_view(v).shape[1]
    least = v.shape[0] * block_count(n, largest_exponent(n))
    return DensityAdaptiveBlocks(max(keep_count(v.numel(), RATE), least), selector)


def tiles(v: Tensor) -> Constraint:
    n = -(-v.shape[0] // 64) * -(-gemm_view(v).shape[1] // 128)
    return Blocks(keep_count(n, RATE), 128, 64)


METHODS = {
    "filter": structured(1.0),
    "column, groups of 16": structured(0.0),
    "combined, groups of 16": structured(0.5),
    "pattern + connectivity, free": layerwise(lambda v: pattern(v, 1)),
    "pattern + connectivity, groups of 16": layerwise(lambda v: pattern(v, 16)),
    "DARB, energy": layerwise(lambda v: darb(v, "energy")),
    "DARB, density": layerwise(lambda v: darb(v, "density")),
    "BMWM, blocks of 8": layerwise(lambda v: BlockMax(3)),
    "irregular": layerwise(lambda v: Irregular(keep_count(v.numel(), RATE))),
    "crossbar blocks 128 x 64": layerwise(tiles),
    "crossbar columns": layerwise(
        lambda v: Columns(keep_count(gemm_view(v).shape[1], RATE), 64)
    ),
    "crossbar 5-bit levels": layerwise(lambda v: Quantized(linear_device(5))),
    "SOT-MRAM 4-bit fixed point": layerwise(lambda v: Quantized(fixed_point(4))),
    "8-bit": layerwise(lambda v: Quantized(k_bit(8))),
    "4-bit": layerwise(lambda v: Quantized(k_bit(4))),
    "4-bit power of two": layerwise(lambda v: Quantized(power_of_two(4))),
    "ternary": layerwise(lambda v: Quantized(TERNARY)),
    "binary": layerwise(lambda v: Quantized(BINARY)),
}  # fmt: skip


def network_weights(spec: NetworkSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name.removesuffix(".weight"): torch.randn(shape, generator=generator)
        for name, shape in tensor_shapes(spec).items()
        if name.endswith(".weight")
    }


M_MMAP_THRESHOLD = -3  # of mallopt(3)


def reset_peak() -> None:
    """Give freed memory back and forget the high-water mark: each method shows its own."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="one method by name")
    options = parser.parse_args()
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)
    spec = build("yolov3", width=options.width, channels=3, size=416)
    weights = network_weights(spec)
    copy_mb = sum(w.numel() for w in weights.values()) * 4 / 2**20
    print(f"{copy_mb / 4 * 2**20 / 1e6:.1f} M weights, one copy {copy_mb:.0f} MB, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    rows = []
    for name, make in METHODS.items():
        if options.only not in (None, name):
            continue
        constraint = make(spec, weights)
        reset_peak()
        before, start, cpu = peak_mb(), time.perf_counter(), time.process_time()
        found = constraint.project({layer: weights[layer] for layer in constraint.layers})
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        copies = 1 + max(peak_mb() - before, 0) / copy_mb
        del found
        rows.append(
            {
                "method": name, "seconds": round(seconds, 3), "cpu_s": round(cpu, 3),
                "copies": round(copies, 2),
            }
        )  # fmt: skip
        good = seconds <= GOAL_S and copies <= GOAL_COPIES
        verdict = "" if options.width < 1 else "ok" if good else "BEYOND THE GOAL"
        print(
            f"{name:38s} {seconds:7.2f} s  (CPU {cpu:5.2f} s)  peak {copies:.2f} copies  {verdict}",
            flush=True,
        )
    if options.json:
        record = {
            **environment("torch"), "threads": torch.get_num_threads(),
            "weights": sum(w.numel() for w in weights.values()), "rate": RATE,
            "goals": f"<= {GOAL_S:g} s on two cores, <= {GOAL_COPIES:g} copies of the weights",
            "methods": rows,
        }  # fmt: skip
        write_results(options.json, record)


if __name__ == "__main__":
    main()
