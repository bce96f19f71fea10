"""The Jetson TX2 in numbers: power modes, peaks, and a model of its input power.

Modes: /etc/nvpmodel.conf as shipped. Peaks: clocks times units. Power: fitted by hand to public
tegrastats lines (idle 1.4 to 3.1 W, 9.3 W with three busy cores) and to NVIDIA's budgets (7.5 W in
mode 1); it holds to about a third either way until a measured run calibrates it.
"""

from typing import NamedTuple, Optional

GPU_CORES = 256
FLOP_PER_FMA = 2.0
FP16_RATE = 2.0  # GP10B runs half precision at twice the rate, and has no fast int8
A57_FLOP_PER_CYCLE = 8.0  # one 128-bit FMLA
DENVER_FLOP_PER_CYCLE = 7.8  # published for Denver 1; no model of Denver 2 exists
MEMORY_BYTES_PER_CLOCK = 32.0  # 128 bit, two transfers a clock

MAX_GPU_GHZ = 1.3005
MAX_A57_GHZ = 2.0352
MAX_EMC_GHZ = 1.866
IDLE_W = 2.1  # geometric middle of 1.4 and 3.1
BASE_W = 1.4
MEMORY_W = 1.7  # at the full memory clock
GPU_W = 7.1  # at the full clock, at the module's input
CORE_W = 1.6  # one busy A57 at 2 GHz, at the module's input
CLOCK_EXPONENT = 2.4  # clock times voltage squared, voltage rising with the clock
HOST_CORES = 0.5  # what feeding the GPU costs


class PowerMode(NamedTuple):
    """One nvpmodel mode."""

    # number, name: as `nvpmodel -q` prints them
    number: int
    name: str
    # a57_cores, a57_ghz: of the A57 cluster
    a57_cores: int
    a57_ghz: float
    # denver_cores, denver_ghz: of the Denver 2 cluster
    denver_cores: int
    denver_ghz: float
    gpu_ghz: float  # GPU clock cap
    emc_ghz: float  # memory clock cap

    @property
    def gpu_fp32_flop_s(self) -> float:
        """Peak of the GPU in single precision."""
        return GPU_CORES * FLOP_PER_FMA * self.gpu_ghz * 1e9

    @property
    def cpu_cores(self) -> int:
        """Cores the CPU engines use: the A57 cluster, or the one Denver of mode 4."""
        return self.a57_cores if self.a57_cores > 1 else self.denver_cores

    @property
    def cpu_ghz(self) -> float:
        """Clock of these cores."""
        return self.a57_ghz if self.a57_cores > 1 else self.denver_ghz

    @property
    def core_flop_s(self) -> float:
        """Peak of one of these cores."""
        rate = A57_FLOP_PER_CYCLE if self.a57_cores > 1 else DENVER_FLOP_PER_CYCLE
        return self.cpu_ghz * 1e9 * rate

    @property
    def memory_bytes_s(self) -> float:
        """Peak of the memory bus."""
        return self.emc_ghz * 1e9 * MEMORY_BYTES_PER_CLOCK

    def busy_w(self, on_gpu: bool, threads: Optional[int] = None) -> float:
        """Power at the module's input while an engine runs; of the CPU's on `threads` cores."""
        watts = BASE_W + MEMORY_W * self.emc_ghz / MAX_EMC_GHZ
        cores = HOST_CORES if on_gpu else float(threads or self.cpu_cores)
        watts += cores * CORE_W * (self.cpu_ghz / MAX_A57_GHZ) ** CLOCK_EXPONENT
        if on_gpu:
            watts += GPU_W * (self.gpu_ghz / MAX_GPU_GHZ) ** CLOCK_EXPONENT
        return float(watts)


MODES = {
    mode.number: mode
    for mode in (
        PowerMode(0, "MAXN", 4, 2.0352, 2, 2.0352, 1.3005, 1.866),
        PowerMode(1, "MAXQ", 4, 1.2, 0, 0.0, 0.85, 1.3312),
        PowerMode(2, "MAXP_CORE_ALL", 4, 1.4, 2, 1.4, 1.12, 1.6),
        PowerMode(3, "MAXP_CORE_ARM", 4, 2.0, 0, 0.0, 1.12, 1.6),
        PowerMode(4, "MAXP_CORE_DENVER", 1, 0.3456, 1, 2.0352, 1.12, 1.6),
    )
}
DEFAULT_MODE = 3
