"""How many threads compute a training step.

torch divides every operation among its threads and waits for the slowest. A thread whose core does
something else holds all of them up, so on a busy machine one thread may be faster than two.
"""

import os
from pathlib import Path

import torch

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: "quota period" in microseconds
TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Physical cores that this process may use: affinity and the quota of a container count."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, torch.get_num_threads())
    cores = {_core_of(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _quota()))


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


def _core_of(cpu: int) -> str:
    """Name of a CPU's physical core: the list of its hyper-threads; itself where unknown."""
    try:
        return Path(TOPOLOGY.format(cpu)).read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Whole CPUs that the container may use; large without a limit."""
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return 2**16
