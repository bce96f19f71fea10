"""The protocol of a power sensor, and the choice of the rail that feeds the whole machine.

The total is always the input rail. Rails below it are its parts: their sum leaves out regulators
and everything unmeasured (a TX2's input rail is 1.3 to 2.1 times the sum of its parts), and input
plus parts counts twice.
"""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from pneumonia.runtime.errors import DeviceError

MILLIWATT = "mw"  # a reading is the power now
MILLIJOULE = "mj"  # a reading is the energy counted so far

# Rails that feed a whole module, in the order of preference; none of them is ever added to another.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "psys", "package-0")
SCOPES = {
    "VDD_IN": "module: everything on the compute module, without the carrier board",
    "POM_5V_IN": "module: everything on the compute module, without the carrier board",
    "VDD_MUX": "carrier board, fed in parallel to the module",
    "psys": "platform as the processor's firmware counts it",
    "package-0": "processor package only: no memory, disk, fan or power supply",
}
PART = "part of the module; never added up"


class PowerRail(NamedTuple):
    """One measured supply."""

    name: str  # as the board names it, for example `VDD_IN`
    unit: str  # `mw` (power) or `mj` (a counter of energy)
    scope: str  # what it feeds, as text
    source: str  # where it is read


class SensorInfo(NamedTuple):
    """What a sensor is."""

    # `ina3221-iio`, `ina3221-hwmon`, `tegrastats`, `pi5-pmic`, `rapl`, `replay` or `model`
    kind: str
    basis: str  # `measured`, `replayed` or `estimated`
    rails: Tuple[PowerRail, ...]  # what it reads
    total: Optional[str]  # name of the input rail; None where the board measures no input
    notes: Tuple[Tuple[str, str], ...] = ()  # settings of the chip or program, for the record


class SensorLost(DeviceError):  # noqa: N818 - a fact about the sensor, as in the report
    """The sensor will give no further reading."""


class SensorGap(DeviceError):  # noqa: N818 - a fact about one reading
    """This reading failed; the next may not. `reason` is a short code, for example `EAGAIN`."""

    def __init__(self, reason: str) -> None:
        super().__init__("Sensor gave no reading", found=reason)
        self.reason = reason


class PowerSensor:
    """Reads all rails at once.

    Attributes:
        info: What it is.
        paced: Whether `read` itself waits for the next value (a program's output, a replay).
    """

    info: SensorInfo
    paced = False

    def read(self) -> Tuple[Dict[str, float], List[str]]:
        """One reading.

        Returns:
            Rail -> milliwatts or millijoules, without the rails that failed, and why they did:
            `RAIL:CODE` each. A rail that fails is never reported as zero.

        Raises:
            SensorGap: Nothing could be read this time.
            SensorLost: Nothing will be read any more.
        """
        raise NotImplementedError

    def load_changed(self, busy: bool) -> None:
        """Notify the sensor that a load starts or ends; only the power model uses it."""

    def close(self) -> None:
        """Release files and programs."""


def scope_of(name: str) -> str:
    """What a rail feeds, as text."""
    return SCOPES.get(name.partition("@")[0], PART)


def total_of(names: Sequence[str]) -> Optional[str]:
    """The input rail among names; None when the input is not measured."""
    for name in INPUT_RAILS:
        if name in names:
            # Two packages are two inputs, and neither is the machine's.
            if name == "package-0" and "package-1" in names:
                return None
            return name
    return None
