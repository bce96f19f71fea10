"""Sensitivity of each layer to pruning: validation with only that layer projected."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.method import PruningMethod
from pneumonia.network.module import Network
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.training.task import SELECTION_METRIC, TrainingTask

SENSITIVITY_CSV = "sensitivity.csv"
GENTLEST, STRONGEST = 0.5, 1.5  # exponents of the most and the least sensitive layer


def measure_sensitivity(
    network: Network,
    task: TrainingTask,
    method: PruningMethod,
    layers: Sequence[str],
    probes: Sequence[float],
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Selection metric with one layer projected, for every layer and rate.

    Args:
        network: Its weights are put back after every trial.
        probes: Pruning rates to try.

    Returns:
        Layer -> the metric at each probe.
    """
    graph = ChannelGraph(network.spec)
    weights = network.weights()
    found: dict[str, list[float]] = {}
    for number, name in enumerate(layers):
        original = weights[name].detach().clone()
        found[name] = []
        for rate in probes:
            z = method.alone(graph, name, rate).project(original).z
            weights[name].detach().copy_(z)
            found[name].append(task.evaluate(network)[SELECTION_METRIC])
            done = number * len(probes) + len(found[name])
            report_progress(progress, done, len(layers) * len(probes), f"{name} at {rate:g}x")
        weights[name].detach().copy_(original)
    return found


def exponents_by_rank(metrics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Exponent of each layer's rate from its rank: the more the metric suffers, the smaller.

    Ranks, not values: metrics of small validation sets are too coarse for more.

    Args:
        metrics: Layer -> metric at each probe, higher is better.

    Returns:
        Layer -> from 0.5 (most sensitive) in equal steps to 1.5 (least).
    """
    mean = {name: sum(values) / len(values) for name, values in metrics.items()}
    order = sorted(mean, key=lambda name: mean[name])  # stable: ties in execution order
    steps = max(len(order) - 1, 1)
    return {
        name: GENTLEST + (STRONGEST - GENTLEST) * rank / steps for rank, name in enumerate(order)
    }


def write_sensitivity(
    out: Path, metrics: Mapping[str, Sequence[float]], probes: Sequence[float]
) -> None:
    """sensitivity.csv: one row per layer, one column per rate, exactly as measured."""
    header = ("layer", *(f"{rate:g}x" for rate in probes))
    rows = [(name, *values) for name, values in metrics.items()]
    write_text(str(out / SENSITIVITY_CSV), csv_text(header, rows))


def read_sensitivity(out: Path) -> dict[str, list[float]] | None:
    """Read the table written by `write_sensitivity`, or None without one."""
    path = out / SENSITIVITY_CSV
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))[1:]
    return {row[0]: [float(value) for value in row[1:]] for row in rows}
