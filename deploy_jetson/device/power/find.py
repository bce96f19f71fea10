"""Opens a sensor by name, or the best this machine has."""

from typing import Optional

from deploy_jetson.device.power.clock import MonotonicClock
from deploy_jetson.device.power.ina3221 import Ina3221Sensor, hwmon_channels, iio_channels
from deploy_jetson.device.power.pi5 import KIND, Pi5Sensor
from deploy_jetson.device.power.rapl import RaplSensor, rapl_zones
from deploy_jetson.device.power.replay import ReplaySensor, read_series
from deploy_jetson.device.power.sensor import PowerSensor
from deploy_jetson.device.power.tegrastats import TegrastatsSensor
from pneumonia.runtime.errors import ConfigError, DeviceError

MODEL = "model"
REPLAY = "replay:"
SENSORS = ("auto", "ina3221-iio", "ina3221-hwmon", "tegrastats", KIND, "rapl", MODEL)


def check_sensor_name(name: str) -> None:
    """Raise ConfigError for a name `open_sensor` does not know."""
    if name not in SENSORS and not (name.startswith(REPLAY) and len(name) > len(REPLAY)):
        raise ConfigError(
            "Unknown power sensor",
            expected="one of {} or {}FILE".format(", ".join(SENSORS), REPLAY),
            found=repr(name),
        )


def _by_name(
    name: str, clock: MonotonicClock, interval_s: float, root: str
) -> Optional[PowerSensor]:
    if name.startswith(REPLAY):
        return ReplaySensor(read_series(name[len(REPLAY) :]), clock)
    if name in ("ina3221-iio", "ina3221-hwmon"):
        channels = iio_channels(root) if name == "ina3221-iio" else hwmon_channels(root)
        return Ina3221Sensor(name, channels) if channels else None
    if name == "rapl":
        return RaplSensor(root) if rapl_zones(root) else None
    if name == KIND:
        return Pi5Sensor()
    return TegrastatsSensor(interval_s)


def open_sensor(
    name: str, clock: MonotonicClock, interval_s: float, root: str = "/"
) -> Optional[PowerSensor]:
    """Open a sensor.

    Args:
        name: One of `SENSORS` but `model`, or `replay:FILE`.
        clock: For a replay's pace.
        interval_s: Time between readings in seconds; passed on to tegrastats.
        root: Prefix of `/sys`; another one in tests.

    Returns:
        The sensor; None for `auto` where the machine has none.

    Raises:
        ConfigError: Unknown name.
        DeviceError: The named sensor is not here.
        DataError: The replay's file is not a recording.
    """
    check_sensor_name(name)
    if name != "auto":
        sensor = _by_name(name, clock, interval_s, root)
        if sensor is None:
            raise DeviceError(
                "Power sensor is not here, or cannot be read",
                found=repr(name),
                where=root,
                fix="Reading it may need root; `--sensor auto` takes what there is",
            )
        return sensor
    for kind in SENSORS[1:-1]:
        try:
            sensor = _by_name(kind, clock, interval_s, root)
        except DeviceError:
            continue
        if sensor is not None:
            return sensor
    return None
