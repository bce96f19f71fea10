"""The `threads` part of `vs_peers`: our engine on two threads against one."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pneumonia.runtime.engines.kernel_library import KernelLibrary

SWEEPS = 16  # over all cases, so that a disturbance of some seconds meets every case alike
PAIRS = {"dense": 1, "columns36": 10, "shipped": 20}  # of runs on one and on two threads, per sweep
MANY_PAIRS = 5  # of the others


class ThreadRun(NamedTuple):
    """One inference on some threads."""

    seconds: float  # wall time
    preempted: int  # how often another process took a core from one of the threads


def measure_scaling(
    libraries: Mapping[str, str], print_stage: Callable[[str], None]
) -> dict[str, dict[str, float | None]]:
    """Every case's times on one and on two threads.

    Args:
        libraries: Case -> path of its library.
    """
    engines = {
        name: [KernelLibrary(path, threads=n) for n in (1, 2)] for name, path in libraries.items()
    }
    runs: dict[str, dict[int, list[ThreadRun]]] = {name: {1: [], 2: []} for name in libraries}
    for sweep in range(SWEEPS):
        for name, both in engines.items():
            image = np.random.default_rng(1).standard_normal(both[0].input_shape, np.float32)
            for pair in range(PAIRS.get(name, MANY_PAIRS) + 1):
                for engine in both:
                    run = timed_run(engine, image)
                    if pair:  # the first one fills the caches
                        runs[name][engine.threads].append(run)
        print_stage(f"sweep {sweep + 1} of {SWEEPS} over one and two threads")
    for engine in (engine for both in engines.values() for engine in both):
        engine.close()
    found = {name: scaling(of_case) for name, of_case in runs.items()}
    for name, row in found.items():
        print_stage(f"{name}: {row}")
    return found


def timed_run(engine: KernelLibrary, image: Any) -> ThreadRun:
    """One inference."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    engine.run(image)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    return ThreadRun(seconds, after.ru_nivcsw - before.ru_nivcsw)


def scaling(runs: dict[int, list[ThreadRun]]) -> dict[str, float | None]:
    """Times on one thread over those on two: medians, quickest runs, and medians of quiet runs.

    A run is quiet if no other process took a core from it.
    """
    ms = {n: [run.seconds * 1e3 for run in of_n] for n, of_n in runs.items()}
    quiet = {
        n: [run.seconds * 1e3 for run in of_n if not run.preempted] for n, of_n in runs.items()
    }
    medians = [statistics.median(quiet[n]) for n in (1, 2) if quiet[n]]
    return {
        "one_thread_ms": min(ms[1]), "two_threads_ms": min(ms[2]),
        "ratio": min(ms[1]) / min(ms[2]),
        "median_ratio": statistics.median(ms[1]) / statistics.median(ms[2]),
        "quiet_median_ratio": medians[0] / medians[1] if len(medians) == 2 else None,
        "runs": len(ms[1]), "quiet_runs": len(quiet[1]), "quiet_runs_two_threads": len(quiet[2]),
    }  # fmt: skip
