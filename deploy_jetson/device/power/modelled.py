"""Power by a model instead of a sensor: two levels, idle and busy. Always `estimated`."""

from typing import Dict, List, Tuple

from deploy_jetson.device.power.sensor import (
    MILLIWATT,
    PowerRail,
    PowerSensor,
    SensorInfo,
    scope_of,
)

RAIL = "VDD_IN"


class ModelSensor(PowerSensor):
    """Returns the estimator's predicted power of the input rail.

    Args:
        idle_mw: Without load.
        busy_mw: While the network runs.
        source: The estimator's name.
    """

    def __init__(self, idle_mw: float, busy_mw: float, source: str) -> None:
        rail = PowerRail(RAIL, MILLIWATT, scope_of(RAIL), source)
        self.info = SensorInfo("model", "estimated", (rail,), RAIL)
        self._levels_mw = (idle_mw, busy_mw)
        self._busy = False

    def load_changed(self, busy: bool) -> None:
        """Switch between the idle and the busy level."""
        self._busy = busy

    def read(self) -> Tuple[Dict[str, float], List[str]]:
        """Predicted power in milliwatts at the current level."""
        return {RAIL: self._levels_mw[int(self._busy)]}, []
