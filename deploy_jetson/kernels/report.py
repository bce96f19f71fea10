"""The report of a generated library: kernel of every layer, memory, predictions."""

from typing import Any

import numpy as np

from deploy_jetson.kernels.compile.mca import HotLoop
from deploy_jetson.kernels.compile.source import CSources
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import kind_of
from deploy_jetson.kernels.plan.lower import NetworkPlan
from pneumonia.runtime.engines.kernels import threads_of_work

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


def tx2_predictions(cycles: float, macs: int) -> list[dict[str, Any]]:
    """Predicted latency of a network in the TX2's power modes, on the threads it will run on.

    Args:
        cycles: Of the whole network on one core.
        macs: Its dense multiply-accumulates, which decide on the threads.
    """
    predictions = []
    for number, (name, cores, clock) in TX2_MODES.items():
        threads = threads_of_work(macs, cores)
        scaled = threads * (CORE_SCALING if threads > 1 else 1.0)
        predictions.append(
            {
                "mode": number,
                "name": name,
                "cores": cores,
                "threads": threads,
                "clock_ghz": clock,
                "predicted_ms": round(cycles / (clock * 1e6) / scaled, 1),
            }
        )
    return predictions


def dense_macs(plan: NetworkPlan) -> int:
    """Multiply-accumulates of the network, zero weights included."""
    return sum(
        int(problem.weight.size) * problem.out_height * problem.out_width
        for problem in plan.problems.values()
    )


def describe(
    plan: NetworkPlan, sources: CSources, model_hash: str, compiler: str, loops: list[HotLoop]
) -> dict[str, Any]:
    """The report of a generated library.

    Args:
        plan: The plan.
        sources: The generated sources.
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
            "tx2": tx2_predictions(cycles, dense_macs(plan)),
        }
    if loops:
        document["hot_loops"] = [loop._asdict() for loop in loops]
    return document
