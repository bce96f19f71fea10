"""Intel's and AMD's energy counters (RAPL) through the powercap files, for work off the device."""

import glob
import os
from typing import Dict, List, Tuple

from deploy_jetson.device.power.sensor import (
    MILLIJOULE,
    PowerRail,
    PowerSensor,
    SensorInfo,
    scope_of,
    total_of,
)
from deploy_jetson.device.system import read_text

ZONES = "sys/class/powercap/intel-rapl:*"
PREFIXES = ("package-", "psys", "core", "uncore", "dram")


class _Counter:
    """One counter that starts again at its range; never read as negative energy."""

    def __init__(self, folder: str, range_uj: int) -> None:
        self._path = os.path.join(folder, "energy_uj")
        self._range_uj = range_uj
        self._last_uj = -1
        self._turns = 0

    def millijoules(self) -> float:
        with open(self._path, "rb") as stream:
            now = int(stream.read(64))
        if now < self._last_uj:
            self._turns += 1
        self._last_uj = now
        return (now + self._turns * self._range_uj) / 1e3


def rapl_zones(root: str) -> Dict[str, Tuple[str, int]]:
    """Rail name -> (folder, range in microjoules) of every readable counter."""
    zones: Dict[str, Tuple[str, int]] = {}
    for folder in sorted(glob.glob(os.path.join(root, ZONES))):
        name = read_text(os.path.join(folder, "name"))
        size = read_text(os.path.join(folder, "max_energy_range_uj"))
        counter = read_text(os.path.join(folder, "energy_uj"))
        if name is None or not name.startswith(PREFIXES) or not (counter or "").isdigit():
            continue
        if name in zones:  # each package has its own core and dram
            name = "{}@{}".format(name, os.path.basename(folder).split(":", 1)[1])
        zones[name] = (folder, int(size) if size and size.isdigit() else 0)
    return zones


class RaplSensor(PowerSensor):
    """Every readable zone.

    Args:
        root: Prefix of `/sys`; another one in tests.
    """

    def __init__(self, root: str) -> None:
        zones = rapl_zones(root)
        rails = tuple(
            PowerRail(name, MILLIJOULE, scope_of(name), os.path.basename(folder))
            for name, (folder, _) in zones.items()
        )
        self._counters = [(name, _Counter(*place)) for name, place in zones.items()]
        self.info = SensorInfo("rapl", "measured", rails, total_of(list(zones)))

    def read(self) -> Tuple[Dict[str, float], List[str]]:
        """Millijoules counted so far."""
        values, faults = {}, []
        for name, counter in self._counters:
            try:
                values[name] = counter.millijoules()
            except (OSError, ValueError) as error:  # noqa: PERF203 - zones fail alone
                faults.append("{}:{}".format(name, type(error).__name__))
        return values, faults
