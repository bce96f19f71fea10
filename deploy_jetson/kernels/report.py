"""What was generated, as data: kernels of every layer, memory, predictions."""

from typing import Any

import numpy as np

from deploy_jetson.kernels.choices import (
    Choice,
    ColumnsChoice,
    PatternChoice,
    RowsChoice,
    TapsChoice,
    WinogradChoice,
)
from deploy_jetson.kernels.cost import Facts, predicted_cycles
from deploy_jetson.kernels.lower import Plan
from deploy_jetson.kernels.mca import HotLoop
from deploy_jetson.kernels.patterns import count_loads
from deploy_jetson.kernels.source import Sources

SCHEMA = "pneumonia.kernels/1"
# Jetson TX2 power modes whose A57 cores run, by nvpmodel number: (name, cores, clock in GHz).
TX2_MODES = {
    0: ("Max-N", 4, 2.0),
    1: ("Max-Q", 4, 1.2),
    2: ("Max-P Core-All", 4, 1.4),
    3: ("Max-P ARM", 4, 2.0),
}
CORE_SCALING = 0.9  # of ideal, measured on x86 with pinned threads


def kernel_name(choice: Choice) -> str:
    """A choice in words."""
    if isinstance(choice, ColumnsChoice):
        pieces = f", pieces of {choice.piece_bytes} B" if choice.piece_bytes else ""
        return f"columns {choice.pixels}x{choice.vectors}{pieces}"
    if isinstance(choice, WinogradChoice):
        return f"winograd F({choice.out_tile},3) {choice.pixels}x{choice.vectors}"
    if isinstance(choice, RowsChoice):
        return f"rows x{choice.vectors}"
    frames = f", {choice.frames} frames" if choice.frames > 1 else ""
    if isinstance(choice, TapsChoice):
        return f"taps {choice.rows}x{choice.vectors}{frames}"
    return f"pattern {choice.rows}x{choice.vectors}x{choice.filters}{frames}"


def layer_records(plan: Plan) -> list[dict[str, Any]]:
    """One record per weighted layer, in order."""
    records = []
    for name, choice in plan.choices.items():
        problem = plan.problems[name]
        kept = int(np.count_nonzero(problem.weight))
        record: dict[str, Any] = {
            "name": name,
            "kernel": kernel_name(choice),
            "choice": list(choice),
            "weights": int(problem.weight.size),
            "kept_weights": kept,
            "kept_macs": kept * problem.out_height * problem.out_width,
            "predicted_cycles": round(predicted_cycles(Facts(problem), choice, plan.target)),
        }
        if isinstance(choice, PatternChoice):
            plain, reused = count_loads(problem, choice.rows, choice.filters, choice.frames)
            record["loads"] = {"plain": plain, "reused": reused}
        records.append(record)
    return records


def tx2_predictions(cycles: float) -> list[dict[str, Any]]:
    """Predicted latency of the whole network in the TX2's power modes."""
    return [
        {
            "mode": number,
            "name": name,
            "cores": cores,
            "clock_ghz": clock,
            "predicted_ms": round(cycles / (clock * 1e6) / (cores * CORE_SCALING), 1),
        }
        for number, (name, cores, clock) in TX2_MODES.items()
    ]


def describe(
    plan: Plan, sources: Sources, model_hash: str, compiler: str, loops: list[HotLoop]
) -> dict[str, Any]:
    """The report of a generated library.

    Args:
        plan: What was decided.
        sources: What was written.
        model_hash: Of the bundle.
        compiler: Command that compiled it.
        loops: Static analysis of the hot loops; empty when it was not made.
    """
    layers = layer_records(plan)
    cycles = sum(layer["predicted_cycles"] for layer in layers)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "target": plan.target.name,
        "cpu_features": list(plan.target.cpu_features),
        "model_hash": model_hash,
        "compiler": compiler,
        "weights_storage": plan.storage,
        "weights_bytes": len(sources.weights),
        "weights_memory_bytes": sources.image_bytes,
        "arena_bytes": plan.arena_floats * 4,
        "steps": [record.name + ": " + record.run for record in sources.records],
        "kept_macs": sum(layer["kept_macs"] for layer in layers),
        "predicted_cycles": cycles,
        "layers": layers,
    }
    if plan.target.clock_ghz:
        document["predictions"] = {
            "basis": "static cost model, not measured; assumes cached weights and inputs",
            "tx2": tx2_predictions(cycles),
        }
    if loops:
        document["hot_loops"] = [loop._asdict() for loop in loops]
    return document
