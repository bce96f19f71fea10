"""The Raspberry Pi 5's power management chip through `vcgencmd pmic_read_adc`.

The chip measures current and voltage of the rails it makes, not what the board draws from its
supply: USB devices, the 5 V pins and the converters' losses are missing. So there is no total.
"""

import re
import shutil
from typing import Dict, List, Tuple

from deploy_jetson.device.power.sensor import (
    MILLIWATT,
    PowerRail,
    PowerSensor,
    SensorGap,
    SensorInfo,
)
from deploy_jetson.device.system import run_program
from pneumonia.runtime.errors import DeviceError

PROGRAM = "vcgencmd"
COMMAND = (PROGRAM, "pmic_read_adc")
TIMEOUT_S = 5.0
KIND = "pi5-pmic"
SCOPE = "a rail behind the board's converters; never added up to the board's input"
VALUE = re.compile(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]\s*$")


def parse_adc(text: str) -> Dict[str, float]:
    """Rail -> milliwatts, of every rail with a current and a voltage."""
    values: Dict[str, Dict[str, float]] = {}
    for line in text.splitlines():
        found = VALUE.match(line)
        if found is not None:
            values.setdefault(found.group(1), {})[found.group(2)] = float(found.group(3))
    return {name: pair["A"] * pair["V"] * 1e3 for name, pair in values.items() if len(pair) == 2}


class Pi5Sensor(PowerSensor):
    """All rails of the chip; every reading starts a program of some milliseconds.

    Raises:
        DeviceError: There is no vcgencmd, or this board's chip has no such converter.
    """

    def __init__(self) -> None:
        if shutil.which(PROGRAM) is None:
            raise DeviceError(
                "vcgencmd is not installed", fix="It comes with Raspberry Pi OS (raspi-utils)"
            )
        rails = parse_adc(run_program(list(COMMAND), timeout_s=TIMEOUT_S) or "")
        if not rails:
            raise DeviceError(
                "Power sensor is not here",
                expected="rails from `{}`".format(" ".join(COMMAND)),
                found="none",
                fix="Only a Raspberry Pi 5 has them; its user must be in the group video",
            )
        self.info = SensorInfo(
            KIND,
            "measured",
            tuple(PowerRail(name, MILLIWATT, SCOPE, " ".join(COMMAND)) for name in rails),
            None,
        )

    def read(self) -> Tuple[Dict[str, float], List[str]]:
        """Milliwatts of every rail that answers."""
        text = run_program(list(COMMAND), timeout_s=TIMEOUT_S)
        if text is None:
            raise SensorGap("vcgencmd")
        values = parse_adc(text)
        missing = ["{}:missing".format(r.name) for r in self.info.rails if r.name not in values]
        return {
            rail.name: values[rail.name] for rail in self.info.rails if rail.name in values
        }, missing
