"""Target machines: vector length, registers, compiler flags, cost-model figures."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pneumonia.runtime.errors import ConfigError

# -ffast-math would let gcc split fused multiply-adds; contraction alone keeps every one of them.
# The first scheduling pass lengthens live ranges and spills accumulators.
COMMON_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno")
GCC_FLAGS = ("-fno-schedule-insns",)


class Target(NamedTuple):
    """One machine.

    Attributes:
        name: As given to `--target`.
        machine: `x86_64` or `aarch64`, as `platform.machine()` returns it.
        lanes: float32 values in one vector register.
        registers: Vector registers.
        fma_per_cycle: Vector fused multiply-adds one core starts per cycle (cost model).
        loads_per_cycle: Vector loads per cycle (cost model).
        flags: Instruction set flags for gcc and clang.
        zig_flags: The same for `zig cc`.
        cpu_features: Flags of /proc/cpuinfo without which the library cannot run.
        clock_ghz: Nominal clock for predictions in ms; 0 = measure, do not predict.
    """

    name: str
    machine: str
    lanes: int
    registers: int
    fma_per_cycle: float
    loads_per_cycle: float
    flags: tuple[str, ...]
    zig_flags: tuple[str, ...]
    cpu_features: tuple[str, ...] = ()
    clock_ghz: float = 0.0

    def legal_tile(self, pixels: int, vectors: int) -> bool:
        """Whether accumulators, and one column's weights or broadcasts, stay in registers.

        The fewer of the two are held while the others pass through one register.
        """
        return pixels * vectors + min(pixels, vectors) + 1 <= self.registers


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            "x86-avx512", "x86_64", 16, 32, 2.0, 2.0,
            ("-march=skylake-avx512", "-mprefer-vector-width=512"),
            ("-target", "x86_64-linux-gnu.2.27", "-mcpu=skylake_avx512",
             "-mprefer-vector-width=512"),
            ("avx512f", "avx512dq", "avx512bw", "avx512vl"),
        ),
        Target(
            "x86-avx2", "x86_64", 8, 16, 2.0, 2.0,
            ("-march=haswell",), ("-target", "x86_64-linux-gnu.2.27", "-mcpu=haswell"),
            ("avx2", "fma"),
        ),
        # One 128-bit FMLA per cycle takes both floating-point pipes; one load pipe.
        Target(
            "cortex-a57", "aarch64", 4, 32, 1.0, 1.0,
            ("-mcpu=cortex-a57",),
            ("-target", "aarch64-linux-gnu.2.27", "-mcpu=cortex_a57"),
            ("asimd",), 2.0,
        ),
    )
}  # fmt: skip
NATIVE = "native"
TARGET_NAMES = (NATIVE, *TARGETS)


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Flags the kernel reports for this CPU; empty when the file is missing."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A short name of this CPU, part of the tuning cache's key."""
    fields: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(encoding="ascii", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.machine()
    keys = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
    return " ".join(fields[key] for key in keys if key in fields) or platform.machine()


def find_target(name: str) -> Target:
    """The target of a name; `native`: this machine's widest vectors, scheduled for its CPU.

    Raises:
        ConfigError: Unknown name, or no target fits this machine.
    """
    if name in TARGETS:
        return TARGETS[name]
    if name != NATIVE:
        raise ConfigError("Unknown target", ", ".join(TARGET_NAMES), repr(name), "--target")
    # Only the tuning is native: the instructions stay those of the target, so that the library can
    # name the CPU features it needs.
    target = native_targets()[0]
    tuned = "-mcpu=native" if target.machine == "aarch64" else "-mtune=native"
    return target._replace(name=NATIVE, flags=(*target.flags, tuned))


def native_targets() -> list[Target]:
    """All targets whose instructions this machine has, the widest vectors first.

    Raises:
        ConfigError: There is none.
    """
    found = [target for target in TARGETS.values() if runs_here(target)]
    if found:
        return found
    raise ConfigError(
        "No target describes this machine",
        expected=", ".join(TARGETS),
        found=f"{platform.machine()} without the vector instructions they need",
        fix="Name a --target to generate for another machine.",
    )


def runs_here(target: Target) -> bool:
    """Whether this machine has the target's instructions."""
    return platform.machine() == target.machine and cpu_features() >= set(target.cpu_features)
