"""The report of a generated library: kernel of every layer, memory, predictions."""

from typing import Any

import numpy as np

from deploy_jetson.kernels.compile.lower import NetworkPlan
from deploy_jetson.kernels.compile.mca import HotLoop
from deploy_jetson.kernels.compile.source import CSources
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import kind_of
from deploy_jetson.kernels.targets import Target
from pneumonia.runtime.engines.thread_count import cores_of_threads, threads_of_work

SCHEMA = "pneumonia.kernels/1"


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


def board_predictions(target: Target, cycles: float, macs: int) -> dict[str, list[dict[str, Any]]]:
    """Predicted latency of a network on a target's boards, on the threads it will run on.

    Args:
        cycles: Of the whole network on one core.
        macs: Its dense multiply-accumulates, which decide on the threads.

    Returns:
        Board's key -> a record for every power mode.
    """
    predictions: dict[str, list[dict[str, Any]]] = {}
    for clock in target.boards:
        threads = threads_of_work(macs, clock.cores)
        scaled = cores_of_threads(threads)
        record: dict[str, Any] = {"board": clock.board, "core": target.core}
        if clock.mode is not None:
            record |= {"mode": clock.mode, "name": clock.mode_name}
        record |= {
            "cores": clock.cores,
            "threads": threads,
            "clock_ghz": clock.clock_ghz,
            "predicted_ms": round(cycles / (clock.clock_ghz * 1e6) / scaled, 1),
        }
        predictions.setdefault(clock.key, []).append(record)
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
        loops: Static analysis of the hot loops; empty when it was not made.
    """
    layers = layer_records(plan)
    cycles = sum(layer["predicted_cycles"] for layer in layers)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "target": plan.target.name,
        "cpu_features": list(plan.target.cpu_features),
        "cpu_parts": list(plan.target.cpu_parts),
        "lanes": plan.target.lanes,
        "arithmetic": plan.target.number.dtype,
        "model_hash": model_hash,
        "compiler": compiler,
        "weights_storage": plan.storage,
        "weights_bytes": len(sources.weights),
        "weights_memory_bytes": sources.image_bytes,
        "arena_bytes": plan.arena_floats * plan.target.number.bytes,
        "steps": [record.name + ": " + record.run for record in sources.records],
        "kept_macs": sum(layer["kept_macs"] for layer in layers),
        "predicted_cycles": cycles,
        "layers": layers,
    }
    if plan.target.boards:
        document["predictions"] = {
            "basis": "static cost model, not measured; assumes cached weights and inputs",
            **board_predictions(plan.target, cycles, dense_macs(plan)),
        }
    if loops:
        document["hot_loops"] = [loop._asdict() for loop in loops]
    return document
