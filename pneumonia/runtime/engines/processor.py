"""The processor of this machine, as /proc/cpuinfo describes it."""

import io
import platform
from typing import FrozenSet, Iterable, List, NamedTuple, Set

CPUINFO = "/proc/cpuinfo"
HALF_SUFFIX = "-fp16"  # of the names of targets that compute with float16


class Processor(NamedTuple):
    """A machine's processor."""

    machine: str  # `x86_64` or `aarch64`
    features: FrozenSet[str]  # instruction flags that all cores have; empty when they are not known
    # `IMPLEMENTER:PART` of every kind of core, such as `0x41:0xd07`; aarch64 only
    cores: FrozenSet[str]

    def has_core(self, parts: Iterable[str]) -> bool:
        """Whether one of its cores is one of these."""
        return bool(self.cores.intersection(parts))


def read_processor(cpuinfo: str = CPUINFO) -> Processor:
    """The processor of this machine; without features where the file is missing."""
    features: List[FrozenSet[str]] = []
    cores: Set[str] = set()
    implementer = ""
    try:
        with io.open(cpuinfo, encoding="ascii", errors="replace") as stream:
            for line in stream:
                key, _, value = line.partition(":")
                key, value = key.strip(), value.strip()
                if key in ("flags", "Features"):
                    features.append(frozenset(value.split()))
                elif key == "CPU implementer":
                    implementer = value.lower()
                elif key == "CPU part":
                    cores.add("{}:{}".format(implementer, value.lower()))
    except OSError:
        pass
    shared: FrozenSet[str] = frozenset.intersection(*features) if features else frozenset()
    return Processor(platform.machine(), shared, frozenset(cores))


def precision_of(target: str) -> str:
    """What the float kernels of a target compute with: fp16 or fp32."""
    return "fp16" if target.endswith(HALF_SUFFIX) else "fp32"
