"""Power mode, clocks, temperatures and versions of the board, as read from it.

Every path has a root prefix, so that tests can show a board that is not there.
"""

import glob
import os
import platform
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from deploy_jetson.device.system import read_text, run_program
from pneumonia.runtime.errors import DeviceError

TX2_SOC = "nvidia,tegra186"
# TX2 first, then the boards after it.
GPU_CLOCKS = (
    "sys/devices/17000000.gp10b/devfreq/*",
    "sys/class/devfreq/*gp10b*",
    "sys/class/devfreq/*gv11b*",
    "sys/class/devfreq/*ga10b*",
    "sys/class/devfreq/*gpu*",
)
CPU_CLOCKS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
ZONES = "sys/class/thermal/thermal_zone*"
FIXED_ZONES = ("PMIC",)  # a constant on L4T, not a temperature
NEAR_TRIP_C = 5.0
# Governors that follow the load: below its cap such a clock shows waiting, not a limit.
LOAD_GOVERNORS = ("ondemand", "conservative", "schedutil", "interactive", "powersave",
                  "nvhost_podgov", "simple_ondemand", "tegra_wmark")  # fmt: skip
CAP_SHARE = 0.95  # a clock below this share of its cap under load is held back
MODE_NAME = re.compile(r"Power Mode: *(\S+)")


class ClockState(NamedTuple):
    """One clock: present and highest allowed frequency in MHz, and its governor."""

    now_mhz: float
    cap_mhz: float
    governor: Optional[str]


class ThermalZone(NamedTuple):
    """A temperature, and the lowest passive trip point, in degrees Celsius."""

    celsius: float
    trip_celsius: Optional[float]


class BoardSnapshot(NamedTuple):
    """Clocks and temperatures, which change during a run."""

    clocks: Dict[str, ClockState]  # `gpu`, `cpu0`... -> clock
    zones: Dict[str, ThermalZone]  # zone -> temperature

    def record(self) -> Dict[str, Any]:
        """As JSON data."""
        return {
            "clocks": {k: v._asdict() for k, v in self.clocks.items()},
            "zones": {k: v._asdict() for k, v in self.zones.items()},
        }

    @property
    def hottest_c(self) -> Optional[float]:
        """The highest temperature."""
        return max((zone.celsius for zone in self.zones.values()), default=None)


def _number(path: str) -> Optional[float]:
    text = read_text(path)
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _clock(folder: str, names: Tuple[str, str, str], to_mhz: float) -> Optional[ClockState]:
    now, cap = (_number(os.path.join(folder, name)) for name in names[:2])
    if now is None or cap is None:
        return None
    return ClockState(now * to_mhz, cap * to_mhz, read_text(os.path.join(folder, names[2])))


def _trip(folder: str) -> Optional[float]:
    """The lowest passive trip point."""
    trips = []
    for kind in glob.glob(os.path.join(folder, "trip_point_*_type")):
        value = _number(kind[: -len("type")] + "temp")
        if read_text(kind) == "passive" and value is not None and value > 0:
            trips.append(value / 1e3)
    return min(trips) if trips else None


def take_snapshot(root: str = "/") -> BoardSnapshot:
    """Clocks and temperatures now."""
    clocks: Dict[str, ClockState] = {}
    for pattern in GPU_CLOCKS:
        for folder in sorted(glob.glob(os.path.join(root, pattern)))[:1]:
            clock = _clock(folder, ("cur_freq", "max_freq", "governor"), 1e-6)
            if clock is not None and "gpu" not in clocks:
                clocks["gpu"] = clock
    for folder in sorted(glob.glob(os.path.join(root, CPU_CLOCKS))):
        names = ("scaling_cur_freq", "scaling_max_freq", "scaling_governor")
        clock = _clock(folder, names, 1e-3)
        if clock is not None:
            clocks[os.path.basename(os.path.dirname(folder))] = clock
    zones: Dict[str, ThermalZone] = {}
    for folder in sorted(glob.glob(os.path.join(root, ZONES))):
        name = read_text(os.path.join(folder, "type")) or os.path.basename(folder)
        value = _number(os.path.join(folder, "temp"))
        if value is not None and value > -2.0e5 and not name.startswith(FIXED_ZONES):
            zones[name] = ThermalZone(value / 1e3, _trip(folder))
    return BoardSnapshot(clocks, zones)


def throttling_reasons(snapshot: BoardSnapshot, units: Tuple[str, ...]) -> List[str]:
    """Reasons why performance is limited: fixed clocks below their cap, zones near a trip point.

    Args:
        snapshot: Taken under load.
        units: `gpu` or `cpu`: the clocks the engine depends on.
    """
    low = low_clocks(snapshot, units)
    reasons = [reason for reason, governor in low if governor not in LOAD_GOVERNORS]
    for name, zone in snapshot.zones.items():
        if zone.trip_celsius is not None and zone.celsius > zone.trip_celsius - NEAR_TRIP_C:
            reasons.append(
                "{} at {:.1f} C, trip {:.1f} C".format(name, zone.celsius, zone.trip_celsius)
            )
    return reasons


def clocks_lowered_by_governor(snapshot: BoardSnapshot, units: Tuple[str, ...]) -> List[str]:
    """Clocks that a governor keeps below their cap because of the load; arguments as above."""
    low = low_clocks(snapshot, units)
    return ["{}, {}".format(text, name) for text, name in low if name in LOAD_GOVERNORS]


def low_clocks(snapshot: BoardSnapshot, units: Tuple[str, ...]) -> List[Tuple[str, Optional[str]]]:
    """(text, governor) of every unit whose clock is below its cap.

    Of the cores the fastest counts, since the load need not run on all.
    """
    reasons = []
    for unit in units:
        found = [clock for name, clock in snapshot.clocks.items() if name.startswith(unit)]
        if not found:
            continue
        best = max(found, key=lambda clock: clock.now_mhz / max(clock.cap_mhz, 1e-9))
        if best.now_mhz < CAP_SHARE * best.cap_mhz:
            text = "{} at {:.0f} MHz, cap {:.0f} MHz".format(unit, best.now_mhz, best.cap_mhz)
            reasons.append((text, best.governor))
    return reasons


class PowerModeNow(NamedTuple):
    """Output of `nvpmodel -q`."""

    number: int
    name: str


def power_mode() -> Optional[PowerModeNow]:
    """The present nvpmodel mode; None off a Jetson."""
    # Some releases answer well and end with a status: without root, or where a fan's setting fails.
    text = run_program(["nvpmodel", "-q"], any_status=True)
    if text is None:
        return None
    name = MODE_NAME.search(text)
    numbers = [line.strip() for line in text.splitlines() if line.strip().isdigit()]
    if name is None or not numbers:
        return None
    return PowerModeNow(int(numbers[-1]), name.group(1))


def set_power_mode(number: int) -> PowerModeNow:
    """Switch the power mode and verify it.

    Raises:
        DeviceError: No nvpmodel, no right to switch, or the board stays in another mode.
    """
    before = power_mode()
    if before is None:
        raise DeviceError(
            "Power mode cannot be set here",
            expected="nvpmodel (a Jetson)",
            fix="Leave --modes out, or predict with --sensor model",
        )
    if before.number == number:
        return before
    run_program(["nvpmodel", "-m", str(number)])
    after = power_mode()
    if after is None or after.number != number:
        raise DeviceError(
            "Power mode was not taken",
            expected=str(number),
            found=str(after.number) if after else "no answer",
            fix="nvpmodel needs root; some modes of newer boards need a restart",
        )
    return after


def is_tx2(root: str = "/") -> bool:
    """Whether this is a Jetson TX2, by its SoC."""
    try:
        with open(os.path.join(root, "proc/device-tree/compatible"), "rb") as stream:
            return TX2_SOC.encode() in stream.read(4096).split(b"\0")
    except OSError:
        return False


def _library_version(name: str) -> Optional[str]:
    """Version of an installed package without importing what is heavy or may crash."""
    import sys

    module = sys.modules.get(name)
    version = getattr(module, "__version__", None)
    return str(version) if version is not None else None


def describe_board(root: str = "/") -> Dict[str, Any]:
    """Board, release, mode and versions: constant during a run. No host name, no serial number."""
    mode = power_mode() if root == "/" else None
    model = read_text(os.path.join(root, "proc/device-tree/model"))
    return {
        "model": model.rstrip("\0") if model else None,
        "tx2": is_tx2(root),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "l4t": read_text(os.path.join(root, "etc/nv_tegra_release")),
        "power_mode": mode._asdict() if mode else None,
        "fan_pwm": _number(os.path.join(root, "sys/devices/pwm-fan/target_pwm")),
        "jetson_clocks": run_program(["jetson_clocks", "--show"]) if root == "/" else None,
        "python": platform.python_version(),
        "libraries": {
            name: _library_version(name) for name in ("numpy", "onnxruntime", "tensorrt")
        },
    }


class CpuTimes(NamedTuple):
    """Processor seconds since the start: of the whole machine, and of this process."""

    machine_s: float
    own_s: float


def cpu_times(root: str = "/") -> Optional[CpuTimes]:
    """Processor times, to detect the load of other processes; None without /proc."""
    line = read_text(os.path.join(root, "proc/stat"))
    fields = line.split()[1:] if line and line.startswith("cpu ") else []
    if len(fields) < 4 or not all(field.isdigit() for field in fields):
        return None
    ticks = [int(field) for field in fields]
    busy = sum(ticks[:3]) + sum(ticks[5:7])  # user, nice, system, irq, softirq
    own = os.times()
    return CpuTimes(busy / os.sysconf("SC_CLK_TCK"), own.user + own.system)
