"""Latency of engines on this machine, measured in turn so that their ratios hold."""

import time
from typing import Dict, List, Mapping

import numpy as np

from pneumonia.runtime.engines import Engine

WARM_UP = 3  # runs of each engine that are not timed


def interleaved_latency(engines: Mapping[str, Engine], rounds: int) -> Dict[str, float]:
    """Median wall-clock milliseconds of one grey image.

    The engines run in turn (A B C A B C ...), so that a slow moment hits all of them.

    Args:
        rounds: Timed runs of each engine.
    """
    images = {}
    for name, engine in engines.items():
        entry = engine.spec.input
        images[name] = np.full((1, entry.channels, entry.height, entry.width), 0.5, np.float32)
    spent: Dict[str, List[float]] = {name: [] for name in engines}
    for number in range(WARM_UP + rounds):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.run(images[name])
            if number >= WARM_UP:
                spent[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(times)) for name, times in spent.items()}
