"""How many CPUs this process may use."""

import io
import math
import os
from typing import Sequence

CGROUP_2 = ("sys/fs/cgroup/cpu.max",)
CGROUP_1 = ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cpus(root: str = "/") -> int:
    """CPUs by affinity, and by what a control group (a container) grants in time; at least 1."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(cpus, granted_cpus(root))


def granted_cpus(root: str = "/") -> int:
    """Whole CPUs that the control group grants, at least 1; the largest int32 for no limit."""
    granted = min(_quota(root, names) for names in (CGROUP_2, CGROUP_1))
    return max(1, int(min(granted, 2.0**31 - 1)))


def _quota(root: str, names: Sequence[str]) -> float:
    """CPUs that a control group grants, from its files with quota and period; inf for no limit."""
    text = ""
    try:
        for name in names:
            with io.open(os.path.join(root, name), encoding="ascii") as stream:
                text += stream.read() + " "
        quota, period = text.split()
        granted = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf  # no such file, or "max" (no limit)
    return granted if granted > 0 else math.inf
