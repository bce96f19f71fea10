"""What one image costs in several engines of this machine, and how far two answers differ."""

import time
from typing import Callable, Dict, List, Mapping

import numpy as np

from pneumonia.runtime.engines import Engine

WARM_UP = 3  # runs that are not timed
SMALLEST = 1e-6  # largest value of an output that counts as zero


def interleaved_ms(runs: Mapping[str, Callable[[], object]], rounds: int) -> Dict[str, List[float]]:
    """Wall-clock milliseconds of functions that are called in turn (A B C A B C ...).

    A slow moment of the machine hits all of them, so that their ratios hold.

    Args:
        rounds: Timed runs of each.
    """
    spent: Dict[str, List[float]] = {name: [] for name in runs}
    for number in range(WARM_UP + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= WARM_UP:
                spent[name].append(1e3 * (time.perf_counter() - start))
    return spent


def interleaved_latency(engines: Mapping[str, Engine], rounds: int) -> Dict[str, float]:
    """Median wall-clock milliseconds of one grey image; see `interleaved_ms`."""
    runs = {}
    for name, engine in engines.items():
        entry = engine.spec.input
        image = np.full((1, entry.channels, entry.height, entry.width), 0.5, np.float32)
        runs[name] = lambda engine=engine, image=image: engine.run(image)
    return {name: float(np.median(times)) for name, times in interleaved_ms(runs, rounds).items()}


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value.

    Infinite for another shape, and where a difference is not a number.
    """
    if found.shape != expected.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # inf - inf
        gap = float(np.abs(found.astype(np.float64) - expected).max())
    error = gap / max(float(np.abs(expected).max()), SMALLEST)
    return float("inf") if np.isnan(error) else error


def relative_rms(found: np.ndarray, expected: np.ndarray) -> float:
    """RMS difference over RMS; infinite for another shape and for values that are not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    gap = np.sqrt(np.mean(np.square(found.astype(np.float64) - expected)))
    return float(gap / max(np.sqrt(np.mean(np.square(expected.astype(np.float64)))), 1e-12))
