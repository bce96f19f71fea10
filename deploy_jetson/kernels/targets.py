"""The table of target machines: everything that depends on the machine derives from its entry.

Compiler flags, vector width, register tiles, cost model, static analysis, file names, the library
that the runtime picks, predictions and help texts. Adding a machine is adding an entry.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deploy_jetson.kernels.dot_products import (
    AVX2_BYTES,
    AVX2_PAIRS,
    AVX512_BYTES,
    AVX512_PAIRS,
    SDOT,
    VNNI,
    DotProduct,
)
from pneumonia.runtime.engines.processor import HALF_SUFFIX, Processor, read_processor
from pneumonia.runtime.errors import ConfigError

# -ffast-math would let gcc split fused multiply-adds; contraction alone keeps every one of them.
# The first scheduling pass lengthens live ranges and spills accumulators.
COMMON_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno")
GCC_FLAGS = ("-fno-schedule-insns",)
ZIG_SYSTEM = "{}-linux-gnu.2.27"  # the glibc of JetPack 4, the oldest system we support


class BoardClock(NamedTuple):
    """A board that has the core, in one of its power modes; for predictions in ms."""

    key: str  # of the report's record, such as `tx2`
    board: str  # name for people
    cores: int  # cores of this kind
    clock_ghz: float  # their clock
    mode: int | None = None  # number of the nvpmodel mode; None where the board has no such modes
    mode_name: str = ""  # its name


class SchedulingModel(NamedTuple):
    """llvm-mca's model of a core."""

    # name for `-mcpu`. Where LLVM has no model of the core itself, that of the nearest one
    core: str
    since: int  # first LLVM version whose model of this name describes the core


class NumberType(NamedTuple):
    """Weights, activations and sums of the float kernels."""

    c_type: str  # in C
    c_whole: str  # C integer of the same width
    dtype: str  # NumPy's name
    bytes: int  # of one


SINGLE = NumberType("float", "int32_t", "float32", 4)
HALF = NumberType("_Float16", "int16_t", "float16", 2)


class Intrinsics(NamedTuple):
    """Functions on vectors that compilers do not find in plain C."""

    header: str  # of C, that declares them
    vector: str  # their type of a vector
    # larger, smaller: the larger or smaller of two vectors' numbers; where the first is NaN, the
    # second
    larger: str
    smaller: str


# (machine, lanes) -> functions of its number type.
INTRINSICS = {
    ("x86_64", 8): Intrinsics("immintrin.h", "__m256", "_mm256_max_ps", "_mm256_min_ps"),
    ("x86_64", 16): Intrinsics("immintrin.h", "__m512", "_mm512_max_ps", "_mm512_min_ps"),
    ("aarch64", 4): Intrinsics("arm_neon.h", "float32x4_t", "vmaxnmq_f32", "vminnmq_f32"),
    ("aarch64", 8): Intrinsics("arm_neon.h", "float16x8_t", "vmaxnmq_f16", "vminnmq_f16"),
}


class Target(NamedTuple):
    """One machine."""

    name: str  # as given to `--target`
    machine: str  # `x86_64` or `aarch64`, as `platform.machine()` returns it
    cpu: str  # core that gcc and clang compile for (`-march` on x86, `-mcpu` on aarch64)
    lanes: int  # numbers in one vector register
    registers: int  # vector registers
    fma_per_cycle: float  # vector fused multiply-adds one core starts per cycle: its pipes
    loads_per_cycle: float  # vector loads per cycle
    l2_bytes_per_cycle: float  # from the second-level cache, of lines of which one value is read
    cpu_features: tuple[str, ...]  # flags of /proc/cpuinfo without which the library cannot run
    extra_flags: tuple[str, ...] = ()  # further compiler flags
    tune_flags: tuple[str, ...] = ()  # scheduling flags of gcc and clang
    # `IMPLEMENTER:PART` of /proc/cpuinfo on aarch64; of several libraries that run, the one of this
    # core is taken
    cpu_parts: tuple[str, ...] = ()
    model: SchedulingModel | None = None  # llvm-mca's model; None: no static analysis
    # its dot products of small whole numbers; empty: no int8 kernels
    dots: tuple[DotProduct, ...] = ()
    boards: tuple[BoardClock, ...] = ()  # boards with this core; empty: measure, do not predict
    note: str = ""  # what has this core, for help texts
    number: NumberType = SINGLE  # what the float kernels compute with

    @property
    def vector_bytes(self) -> int:
        """Size of a vector register, bytes."""
        return self.lanes * self.number.bytes

    @property
    def intrinsics(self) -> Intrinsics:
        """Functions on its vectors."""
        return INTRINSICS[self.machine, self.lanes]

    @property
    def flags(self) -> tuple[str, ...]:
        """Instruction set flags for gcc and clang."""
        option = "-mcpu" if self.machine == "aarch64" else "-march"
        return (f"{option}={self.cpu}", *self.extra_flags, *self.tune_flags)

    @property
    def zig_flags(self) -> tuple[str, ...]:
        """The same for `zig cc`, which also links against the oldest supported glibc."""
        cpu = self.cpu.replace("+no", "~").replace("-", "_").replace("~", "-")
        system = ZIG_SYSTEM.format(self.machine)
        return ("-target", system, f"-mcpu={cpu}", *self.extra_flags)

    @property
    def core(self) -> str:
        """The core's short name, such as `A57`."""
        return self.name.removesuffix(HALF_SUFFIX).rpartition("-")[2].upper()

    def legal_tile(self, pixels: int, vectors: int) -> bool:
        """Whether accumulators, and one column's weights or broadcasts, stay in registers.

        The fewer of the two are held while the others pass through one register.
        """
        return pixels * vectors + min(pixels, vectors) + 1 <= self.registers


AVX512 = ("avx512f", "avx512dq", "avx512bw", "avx512vl")
ARMV8_2 = ("asimd", "atomics", "asimdhp", "asimddp")
A57_MODEL = SchedulingModel("cortex-a57", 5)
N1_MODEL = SchedulingModel("neoverse-n1", 16)  # LLVM takes the A57's for the A76 and the A78AE
V1_MODEL = SchedulingModel("neoverse-v1", 17)
TX2_CLOCKS = (
    BoardClock("tx2", "TX2", 4, 2.0, 0, "Max-N"),
    BoardClock("tx2", "TX2", 4, 1.2, 1, "Max-Q"),
    BoardClock("tx2", "TX2", 4, 1.4, 2, "Max-P Core-All"),
    BoardClock("tx2", "TX2", 4, 2.0, 3, "Max-P ARM"),
)
ORIN_CLOCKS = (
    BoardClock("orin_nano", "Orin Nano", 6, 1.5),
    BoardClock("orin_nx", "Orin NX", 8, 2.0),
    BoardClock("agx_orin", "AGX Orin", 12, 2.2),
)

_CORES = (
    Target(
        "x86-vnni", "x86_64", "cascadelake", 16, 32, 2.0, 2.0, 32.0,
        (*AVX512, "avx512_vnni"), ("-mprefer-vector-width=512",), dots=(VNNI,),
        note="Intel since 2019, AMD since 2022; for int8",
    ),
    Target(
        "x86-avx512", "x86_64", "skylake-avx512", 16, 32, 2.0, 2.0, 32.0,
        AVX512, ("-mprefer-vector-width=512",),
        dots=(AVX512_BYTES, AVX512_PAIRS), note="Intel and AMD with AVX-512",
    ),
    Target(
        "x86-avx2", "x86_64", "haswell", 8, 16, 2.0, 2.0, 16.0, ("avx2", "fma"),
        dots=(AVX2_BYTES, AVX2_PAIRS), note="Intel since 2013, AMD since 2015",
    ),
    # One 128-bit FMLA per cycle takes both floating-point pipes; one load pipe.
    Target(
        "cortex-a57", "aarch64", "cortex-a57", 4, 32, 1.0, 1.0, 8.0, ("asimd",),
        cpu_parts=("0x41:0xd07",), model=A57_MODEL, boards=TX2_CLOCKS, note="Jetson TX2",
    ),
    Target(
        "cortex-a72", "aarch64", "cortex-a72", 4, 32, 1.0, 1.0, 8.0, ("asimd",),
        cpu_parts=("0x41:0xd08",), model=A57_MODEL,
        boards=(BoardClock("pi4", "Raspberry Pi 4", 4, 1.8),), note="Raspberry Pi 4",
    ),
    # Two 128-bit pipes and two loads from here on: twice the flops per cycle of an A57.
    Target(
        "cortex-a76", "aarch64", "cortex-a76", 4, 32, 2.0, 2.0, 16.0, ARMV8_2,
        cpu_parts=("0x41:0xd0b",), model=N1_MODEL, dots=(SDOT,),
        boards=(BoardClock("pi5", "Raspberry Pi 5", 4, 2.4),), note="Raspberry Pi 5",
    ),
    Target(
        "cortex-a78ae", "aarch64", "cortex-a78ae", 4, 32, 2.0, 2.0, 16.0, ARMV8_2,
        cpu_parts=("0x41:0xd42",), model=N1_MODEL, dots=(SDOT,), boards=ORIN_CLOCKS,
        note="Jetson Orin",
    ),
    Target(
        "neoverse-n1", "aarch64", "neoverse-n1", 4, 32, 2.0, 2.0, 16.0, ARMV8_2,
        cpu_parts=("0x41:0xd0c",), model=N1_MODEL, dots=(SDOT,),
        boards=(BoardClock("graviton2", "Graviton2", 64, 2.5),), note="servers: Graviton2",
    ),
    # Four pipes for 128-bit vectors. Its SVE registers are no wider in sum: left out.
    Target(
        "neoverse-v1", "aarch64", "neoverse-v1+nosve", 4, 32, 4.0, 3.0, 16.0, ARMV8_2,
        cpu_parts=("0x41:0xd40",), model=V1_MODEL, dots=(SDOT,),
        boards=(BoardClock("graviton3", "Graviton3", 64, 2.6),), note="servers: Graviton3",
    ),
)  # fmt: skip


def _with_halves(target: Target) -> Target:
    """The same core with float16 arithmetic: twice the lanes."""
    return target._replace(
        name=target.name + HALF_SUFFIX,
        lanes=target.vector_bytes // HALF.bytes,
        number=HALF,
        dots=(),
        note=f"{target.note}, float16 arithmetic",
    )


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        *_CORES,
        *(_with_halves(core) for core in _CORES if "asimdhp" in core.cpu_features),
    )
}
NATIVE = "native"
TARGET_NAMES = (NATIVE, *TARGETS)
TARGET_HELP = "; ".join(
    ["native: this machine", *(f"{target.name}: {target.note}" for target in TARGETS.values())]
)


def find_target(name: str) -> Target:
    """The target of a name; `native`: this machine's widest vectors, scheduled for its CPU.

    Raises:
        ConfigError: Unknown name, or no target fits this machine.
    """
    if name in TARGETS:
        return TARGETS[name]
    if name != NATIVE:
        raise ConfigError("Unknown target", ", ".join(TARGET_NAMES), repr(name), "target")
    # Only the tuning is native: the instructions stay those of the target, so that the library can
    # name the CPU features it needs.
    return native_targets()[0]._replace(name=NATIVE, tune_flags=("-mtune=native",))


def native_targets(processor: Processor | None = None) -> list[Target]:
    """The best target of this machine for each vector width, widest first.

    Targets with float16 arithmetic are left out: their error is a choice that the user makes.

    Args:
        processor: Default: of this machine.

    Raises:
        ConfigError: No target's instructions are there.
    """
    processor = processor or read_processor()
    found: dict[int, Target] = {}
    for target in TARGETS.values():
        if target.number is not SINGLE or not runs_on(target, processor):
            continue
        best = found.get(target.lanes)
        if best is None or _fit(target, processor) > _fit(best, processor):
            found[target.lanes] = target
    if found:
        return [found[lanes] for lanes in sorted(found, reverse=True)]
    raise ConfigError(
        "No target describes this machine",
        expected=", ".join(TARGETS),
        found=f"{processor.machine} without the vector instructions they need",
        fix="Name a target to generate for another machine",
    )


def _fit(target: Target, processor: Processor) -> tuple[bool, int]:
    return processor.has_core(target.cpu_parts), len(target.cpu_features)


def runs_on(target: Target, processor: Processor) -> bool:
    """Whether a machine has the target's instructions."""
    same = processor.machine == target.machine
    return same and processor.features >= set(target.cpu_features)


def runs_here(target: Target) -> bool:
    """Whether this machine has the target's instructions."""
    return runs_on(target, read_processor())


def cpu_name() -> str:
    """A short name of this CPU, part of the tuning cache's key."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.machine()
    keys = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
    return " ".join(fields[key] for key in keys if key in fields) or platform.machine()
