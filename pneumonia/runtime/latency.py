"""Latency of engines on this machine, measured in turn so that their ratios hold."""

import time
from typing import Dict, List, Mapping, NamedTuple

import numpy as np

from pneumonia.runtime.engines import Engine

WARM_UP = 3  # runs of each engine that are not timed


class Latency(NamedTuple):
    """Wall-clock milliseconds of one run of one image: median, 90th percentile, runs."""

    median_ms: float
    p90_ms: float
    runs: int


def interleaved_latency(
    engines: Mapping[str, Engine],
    batches: Mapping[str, np.ndarray],
    rounds: int,
) -> Dict[str, Latency]:
    """Time engines in turn (A B C A B C ...), so that a slow moment hits all of them.

    Args:
        engines: Name -> engine.
        batches: Name -> float32 (N, C, H, W) for that engine.
        rounds: Timed runs of each engine.
    """
    for _ in range(WARM_UP):
        for name, engine in engines.items():
            engine.run(batches[name])
    spent: Dict[str, List[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.run(batches[name])
            spent[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: Latency(float(np.median(times)), float(np.percentile(times, 90)), len(times))
        for name, times in spent.items()
    }
