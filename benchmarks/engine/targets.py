"""The generator on every ARM target: spills, multiply-adds per cycle, predictions, error.

    python -m benchmarks.engine.targets [--no-emulation] [--out benchmarks/results/targets.json]

The network is the shipped one. Nothing is run on a board: rates are llvm-mca's, which assumes
cache hits; milliseconds are the cost model's; errors are of a run under qemu, against the NumPy
reference. Needs gcc-aarch64-linux-gnu, a recent llvm-mca (19) and qemu-user.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import (
    RESULTS,
    argument_parser,
    markdown_table,
    program_version,
    write_results,
)
from deploy_jetson.kernels.compile.compilers import find_compiler
from deploy_jetson.kernels.compile.lower import NetworkPlan, lower
from deploy_jetson.kernels.compile.mca import HotLoop, find_mca, hot_loops
from deploy_jetson.kernels.compile.source import WEIGHTS, write_plan
from deploy_jetson.kernels.generate import model_chooser
from deploy_jetson.kernels.plan.steps import variants_of
from deploy_jetson.kernels.report import board_predictions, dense_macs, layer_records
from deploy_jetson.kernels.targets import TARGETS, Target
from pneumonia.runtime.detection.detector import bundle_path
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.storage.bundle import load_bundle

SCHEMA = "pneumonia.target-table/1"
BASIS = (
    "Nothing here was measured on a board. Shares are multiply-adds per cycle by llvm-mca over the"
    " core's pipes: cache hits assumed, an upper bound. Milliseconds are the cost model's, on one"
    " thread. Errors are of a run under qemu against the NumPy reference, relative to the largest"
    " output."
)
COLUMNS = (
    "target", "found in", "pipes", "llvm-mca's model", "hot loops", "spills", "worst loop",
    "share of the pipes: worst, median", "predicted Mcycles", "estimated ms", "error, emulated",
)  # fmt: skip
MAIN = Path(__file__).parent / "run_outputs.c"


def static_row(target: Target, plan: NetworkPlan) -> dict[str, Any]:
    """Loops, spills, rates over the pipes and predicted times of one target."""
    loops = hot_loops(target, variants_of(plan.steps, target))
    layers = layer_records(plan)
    cycles = sum(layer["predicted_cycles"] for layer in layers)
    rates = [share(loop, target) for loop in loops if loop.per_cycle is not None]
    worst = min((loop for loop in loops if loop.per_cycle), key=lambda x: x.per_cycle, default=None)
    return {
        "note": target.note,
        "pipes": target.fma_per_cycle,
        "model": target.model.core if target.model else None,
        "hot_loops": len(loops),
        "spills": sum(loop.spills for loop in loops),
        "worst_share": min(rates, default=None),
        "median_share": statistics.median(rates) if rates else None,
        "worst_loop": worst.function if worst else None,
        "predicted_mcycles": cycles / 1e6,
        "predictions": board_predictions(target, cycles, dense_macs(plan)),
    }


def share(loop: HotLoop, target: Target) -> float:
    """Multiply-adds per cycle over what the pipes can start."""
    return (loop.per_cycle or 0.0) / target.fma_per_cycle


def emulated_error(
    target: Target, plan: NetworkPlan, image: Any, expected: dict[str, Any]
) -> float:
    """Largest error of the outputs under qemu, relative to the largest output."""
    sources = write_plan(plan, "")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, text in sources.texts.items():
            (folder / name).write_text(text)
        (folder / WEIGHTS).write_bytes(sources.weights)
        shutil.copy(MAIN, folder)
        image.tofile(folder / "image.f32")
        files = [name for name in sources.texts if name.endswith((".c", ".S"))]
        compiler = find_compiler(target)
        subprocess.run(
            [*compiler.command, *compiler.flags(target), "-static", MAIN.name, *files,
             "-o", "program", "-lpthread"],
            cwd=folder, check=True,
        )  # fmt: skip
        subprocess.run([*qemu(target), "./program", "image.f32", "out.f32"], cwd=folder, check=True)
        found = np.fromfile(folder / "out.f32", np.float32)
    reference = np.concatenate([value.ravel() for value in expected.values()])
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def qemu(target: Target) -> list[str]:
    """Qemu for a core; for one with all instructions where it has no model of the core."""
    program = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or "qemu-aarch64"
    known = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False)
    core = target.cpu.partition("+")[0]
    return [program, "-cpu", core if core in known.stdout.split() else "max"]


def markdown(document: dict[str, Any]) -> str:
    """The table for people."""
    rows = []
    for name, row in document["targets"].items():
        times = ", ".join(
            f"{record['board']}{' mode ' + str(record['mode']) if 'mode' in record else ''}"
            f" {record['predicted_ms']}"
            for records in row["predictions"].values()
            for record in records
        )
        shares = "-"
        if row["worst_share"] is not None:
            shares = f"{row['worst_share']:.2f}, {row['median_share']:.2f}"
        error = row.get("emulated_error")
        rows.append(
            (name, row["note"], f"{row['pipes']:g}", row["model"], row["hot_loops"], row["spills"],
             f"`{row['worst_loop']}`", shares, f"{row['predicted_mcycles']:.1f}", times,
             "-" if error is None else f"{error:.1e}")
        )  # fmt: skip
    programs = "; ".join(document[name] for name in ("compiler", "llvm_mca", "qemu"))
    return (
        f"# Targets on ARM, estimated and emulated\n\nThe shipped model. {programs}.\n{BASIS}\n\n"
        + markdown_table(COLUMNS, rows)
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--no-emulation", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "targets.json")
    arguments = parser.parse_args()
    bundle = load_bundle(bundle_path())
    weights, size = bundle.weights(), bundle.spec.input
    shape = (size.channels, size.height, size.width)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = ReferenceEngine(bundle.spec, weights).run(image[None])
    rows: dict[str, Any] = {}
    for target in (target for target in TARGETS.values() if target.machine == "aarch64"):
        plan = lower(bundle.spec, weights, target, model_chooser(target), "fp32")
        rows[target.name] = static_row(target, plan)
        if not arguments.no_emulation:
            rows[target.name]["emulated_error"] = emulated_error(target, plan, image, expected)
        print(target.name, json.dumps(rows[target.name]), flush=True)
    document = {
        "schema": SCHEMA,
        "basis": "static analysis, cost model and qemu; nothing was run on a board",
        "model_hash": bundle.model_hash,
        "compiler": program_version(find_compiler(TARGETS["cortex-a57"]).command[0]),
        "llvm_mca": program_version(find_mca() or "llvm-mca"),
        "qemu": program_version(qemu(TARGETS["cortex-a57"])[0]),
        "targets": rows,
    }
    write_results(arguments.out, document, markdown(document))


if __name__ == "__main__":
    main()
