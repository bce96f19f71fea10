"""Power of the board's rails as metrics, read from sysfs at every scrape."""

import threading
from typing import Dict, List, Optional, Tuple

from deploy_jetson.device.power.ina3221 import Ina3221Sensor, hwmon_channels, iio_channels


class PowerMonitor:
    """The board's own power monitor, or nothing on a machine without one.

    Args:
        root: Prefix of `/sys`; another one in tests.
    """

    def __init__(self, root: str = "/") -> None:
        self._lock = threading.Lock()  # two scrapes may run at once, and a file has one position
        self._sensor: Optional[Ina3221Sensor] = None
        for kind, find in (("ina3221-iio", iio_channels), ("ina3221-hwmon", hwmon_channels)):
            channels = find(root)
            if channels and self._sensor is None:
                self._sensor = Ina3221Sensor(kind, channels)

    def watts(self) -> List[Tuple[Dict[str, str], float]]:
        """Power of each rail in watts; a rail without a reading is left out."""
        if self._sensor is None:
            return []
        with self._lock:
            milliwatts, _ = self._sensor.read()
        return [({"rail": name}, value / 1e3) for name, value in sorted(milliwatts.items())]

    def close(self) -> None:
        """Close the sensor's files."""
        with self._lock:
            if self._sensor is not None:
                self._sensor.close()
