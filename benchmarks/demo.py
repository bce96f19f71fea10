"""How long `pneumonia demo` takes and what its table shows, over several seeds.

    python -m benchmarks.demo [--seeds 0 1 2 3 4] [--as-avx2] [--keep FOLDER]

Each seed is one `pneumonia demo` in a process of its own, on all cores that this process may use.
`--as-avx2` imitates a processor without AVX-512 and bfloat16 (PyTorch in float32 on AVX2; the
latencies of ONNX Runtime still use what the processor has, so the kernels' ratio is not that of an
AVX2 machine). Writes benchmarks/results/demo.json, or demo_avx2.json, after every seed.

Goals, per seed: parameters at least 8x fewer, RSNA score at most 0.02 and AP50 at most 0.03 below
dense (in at least four of five seeds), generated kernels at least 2.5 times as fast as dense in
ONNX Runtime, and at most 120 s with bfloat16, 240 s without, on two quiet cores.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.reporting import RESULTS, argument_parser, environment, processor_s, write_results

PACKAGES = ("torch", "onnxruntime", "numpy", "albumentations")
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
MIN_RATE, MAX_RSNA_DROP, MAX_AP50_DROP, MIN_SPEED_UP = 8.0, 0.02, 0.03, 2.5


def measure(seed: int, out: Path, as_avx2: bool) -> dict[str, Any]:
    """Run one demo and read its result.json."""
    options = ["--precision", "fp32"] if as_avx2 else []
    load_before = os.getloadavg()[0]
    before, started = processor_s(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pneumonia", "demo", "--out", out, "--seed", str(seed), *options],
        check=True,
        env={**os.environ, **(AVX2 if as_avx2 else {})},
        stdout=subprocess.DEVNULL,
    )
    wall_s = time.perf_counter() - started
    cpu_s = processor_s() - before
    found: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        **found,
    }


def reached(row: dict[str, Any]) -> dict[str, bool]:
    """Goals met by the run of one seed."""
    dense, pruned = row["dense"], row["pruned"]
    found = {
        "rate": dense["parameters"] / pruned["parameters"] >= MIN_RATE,
        "rsna": dense["rsna"] - pruned["rsna"] <= MAX_RSNA_DROP,
        "ap50": dense["ap50"] - pruned["ap50"] <= MAX_AP50_DROP,
    }
    if "kernels" in row["latency_ms"]:
        speed_up = row["latency_ms"]["dense"] / row["latency_ms"]["kernels"]
        found["speed_up"] = speed_up >= MIN_SPEED_UP
    return found


def main() -> None:
    """Run the demos and write the results."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--as-avx2", action="store_true", help="AVX2 in float32")
    parser.add_argument("--keep", type=Path, help="folder that keeps the demos")
    options = parser.parse_args()
    path = RESULTS / ("demo_avx2.json" if options.as_avx2 else "demo.json")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.seeds:
            folder = (options.keep or Path(temporary)) / f"seed-{seed}"
            row = measure(seed, folder, options.as_avx2)
            rows.append({**row, "reached": reached(row)})
            write_results(path, _document(rows, options.as_avx2))
            print(json.dumps(rows[-1]), flush=True)


def _document(rows: list[dict[str, Any]], as_avx2: bool) -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "as_avx2": as_avx2,
        "system": platform.platform(),
        **environment(*PACKAGES),
        "seeds_reaching": {
            goal: sum(row["reached"].get(goal, False) for row in rows)
            for goal in ("rate", "rsna", "ap50", "speed_up")
        },
        "seeds": rows,
    }


if __name__ == "__main__":
    main()
