"""How many threads compute a training step.

torch divides every operation among its threads and waits for the slowest. A thread whose core does
something else holds all of them up, so on a busy machine one thread may be faster than two.
"""

import os
from pathlib import Path

import torch

from pneumonia.runtime.cpus import granted_cpus

TOPOLOGY = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores(root: str = "/") -> int:
    """Physical cores that this process may use: affinity and the quota of a container count."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, torch.get_num_threads())
    cores = {_core_of(cpu, root) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), granted_cpus(root)))


def use_threads(threads: int | None) -> int:
    """Set torch's threads for this process.

    Args:
        threads: None = OMP_NUM_THREADS where the environment has it (torchrun sets it to 1), else
            as torch has them, but at most one per physical core that the process may use.

    Returns:
        The number in use.
    """
    if threads is None and os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))
    return torch.get_num_threads()


def _core_of(cpu: int, root: str) -> str:
    """Name of a CPU's physical core: the list of its hyper-threads; itself where unknown."""
    try:
        return Path(root, TOPOLOGY.format(cpu)).read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)
