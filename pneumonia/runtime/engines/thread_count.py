"""How many threads one run of a generated library takes."""

import io
import os
from typing import Sequence

import numpy as np

from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.model.spec import NetworkSpec, positions

MAX_THREADS = 64
MACS_PER_THREAD = 200 * 10**6  # with fewer, waking another thread costs more than it saves
CGROUP_1 = ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu/cpu.cfs_period_us")


def fitting_threads(spec: NetworkSpec) -> int:
    """CPUs this process may use, but at most one per MACS_PER_THREAD begun."""
    shapes = spec.shapes()
    macs = sum(
        int(np.prod(weight_shape(layer))) * positions(layer, shapes) for layer in spec.weighted()
    )
    return threads_of_work(macs, usable_cpus())


def usable_cpus(root: str = "/") -> int:
    """CPUs this process may use: its affinity, and what a control group grants in time."""
    cpus = float(len(os.sched_getaffinity(0)))
    quotas = [_quota(root, names) for names in (("sys/fs/cgroup/cpu.max",), CGROUP_1)]
    return max(1, int(min([cpus] + [quota for quota in quotas if quota > 0])))


def _quota(root: str, names: Sequence[str]) -> float:
    """CPUs that a control group grants, from its files with quota and period; 0 for no limit."""
    text = ""
    try:
        for name in names:
            with io.open(os.path.join(root, name), encoding="ascii") as stream:
                text += stream.read() + " "
        quota, period = text.split()
        return float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return 0.0  # no such file, or "max" (no limit)


def threads_of_work(macs: int, cpus: int) -> int:
    """Threads that run a network of so many dense multiply-accumulates where there are `cpus`."""
    return min(MAX_THREADS, cpus, 1 + macs // MACS_PER_THREAD)
