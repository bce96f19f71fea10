"""What was generated, as data: kernels of every layer, memory, predictions."""

from typing import Any

import numpy as np

from deploy_jetson.kernels.compile.mca import HotLoop
from deploy_jetson.kernels.compile.source import CSources
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import kind_of
from deploy_jetson.kernels.plan.lower import NetworkPlan

SCHEMA = "pneumonia.kernels/1"
# Jetson TX2 power modes whose A57 cores run, by nvpmodel number: (name, cores, clock in GHz).
TX2_MODES = {
    0: ("Max-N", 4, 2.0),
    1: ("Max-Q", 4, 1.2),
    2: ("Max-P Core-All", 4, 1.4),
    3: ("Max-P ARM", 4, 2.0),
}
CORE_SCALING = 0.9  # of ideal, measured on x86 with pinned threads


def layer_records(plan: NetworkPlan) -> list[dict[str, Any]]:
    """One record per weighted layer, in order."""
    records = []
    for name, choice in plan.choices.items():
        problem, kind = plan.problems[name], kind_of(choice)
        kept = int(np.count_nonzero(problem.weight))
        cycles = kind.cycles(LayerAnalysis(problem), choice, plan.target)
        records.append(
            {
                "name": name,
                "kernel": kind.describe(choice),
                "choice": list(choice),
                "weights": int(problem.weight.size),
                "kept_weights": kept,
                "kept_macs": kept * problem.out_height * problem.out_width,
                "predicted_cycles": round(cycles),
                **kind.details(problem, choice),
            }
        )
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
    plan: NetworkPlan, sources: CSources, model_hash: str, compiler: str, loops: list[HotLoop]
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
