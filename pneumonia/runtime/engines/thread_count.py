"""How many threads one run of a generated library takes."""

import numpy as np

from pneumonia.runtime.cpus import usable_cpus
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.model.spec import NetworkSpec, positions

MAX_THREADS = 64
MACS_PER_THREAD = 200 * 10**6  # with fewer, waking another thread costs more than it saves
_CORE_SCALING = 0.9  # of ideal, measured on x86 with pinned threads


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no engine can have.

    Raises:
        ConfigError: It is not a whole number from 1 to MAX_THREADS.
    """
    if not (isinstance(threads, int) and 1 <= threads <= MAX_THREADS):
        expected = "1 to {}".format(MAX_THREADS)
        raise ConfigError("Number of threads is out of range", expected, repr(threads))


def fitting_threads(spec: NetworkSpec) -> int:
    """CPUs this process may use, but at most one per MACS_PER_THREAD begun."""
    shapes = spec.shapes()
    macs = sum(
        int(np.prod(weight_shape(layer))) * positions(layer, shapes) for layer in spec.weighted()
    )
    return threads_of_work(macs, usable_cpus())


def threads_of_work(macs: int, cpus: int) -> int:
    """Threads that run a network of so many dense multiply-accumulates where there are `cpus`."""
    return min(MAX_THREADS, cpus, 1 + macs // MACS_PER_THREAD)


def cores_of_threads(threads: int) -> float:
    """Cores' worth of work that so many pinned threads do."""
    return threads * (_CORE_SCALING if threads > 1 else 1.0)
