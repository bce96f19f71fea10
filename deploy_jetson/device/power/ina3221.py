"""The Jetson's own INA3221 monitors through sysfs, in both layouts.

L4T r28-r32 (TX2): NVIDIA's IIO driver, one file of milliwatts per channel. r34 and later: the
mainline hwmon driver, millivolts and milliamperes. Numbers of devices move: everything is globbed.
"""

import errno
import glob
import os
from typing import Dict, Iterable, List, NamedTuple, Tuple

from deploy_jetson.device.power.sensor import (
    MILLIWATT,
    PowerRail,
    PowerSensor,
    SensorInfo,
    scope_of,
    total_of,
)
from deploy_jetson.device.system import MAX_TEXT, read_text

IIO = "sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"
IIO_OLD = "sys/bus/i2c/drivers/ina3221x/*/iio_device/rail_name_*"
HWMON = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"
HWMON_CHANNELS = ("1", "2", "3")  # in7 is the sum of the shunts, not a rail
UNCONNECTED = ("", "NC")
NOTES = ("running_mode", "polling_delay_0", "update_interval", "samples")


class RailChannel(NamedTuple):
    """One rail's files: power in mW, or voltage in mV and current in mA."""

    rail: PowerRail
    paths: Tuple[str, ...]


def _chip_of(path: str) -> str:
    """The I2C address in a path, for example `0-0041`."""
    return path.split("/ina3221")[1].split("/")[1]


def _channels(labels: Iterable[Tuple[str, str]], kinds: Tuple[str, ...]) -> List[RailChannel]:
    """The connected channels whose files exist.

    Args:
        labels: (path of the file with the rail's name, number of the channel).
        kinds: Names of a channel's files, with `{}` for its number.
    """
    found: Dict[str, RailChannel] = {}
    for label, number in labels:
        name = read_text(label)
        paths = tuple(os.path.join(os.path.dirname(label), kind.format(number)) for kind in kinds)
        if name is None or name in UNCONNECTED or not all(map(os.path.exists, paths)):
            continue
        chip = _chip_of(label)
        if name in found:  # two rails of one name are never merged
            name = "{}@{}".format(name, chip)
        source = "{} channel {}".format(chip, number)
        found[name] = RailChannel(PowerRail(name, MILLIWATT, scope_of(name), source), paths)
    return list(found.values())


def iio_channels(root: str) -> List[RailChannel]:
    """Channels of NVIDIA's IIO driver."""
    paths = sorted(glob.glob(os.path.join(root, IIO)) + glob.glob(os.path.join(root, IIO_OLD)))
    # the first of several paths to one file
    labels = {os.path.realpath(path): path for path in reversed(paths)}
    numbered = [(path, path.rsplit("_", 1)[1]) for path in sorted(labels.values())]
    return _channels(numbered, ("in_power{}_input",))


def hwmon_channels(root: str) -> List[RailChannel]:
    """Channels of the mainline driver."""
    paths = sorted(glob.glob(os.path.join(root, HWMON)))
    numbered = [(path, os.path.basename(path)[2:].split("_")[0]) for path in paths]
    rails = [(path, number) for path, number in numbered if number in HWMON_CHANNELS]
    return _channels(rails, ("in{}_input", "curr{}_input"))


class _File:
    """A sysfs file kept open: one system call a reading."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._handle = -1

    def number(self) -> float:
        if self._handle < 0:
            self._handle = os.open(self._path, os.O_RDONLY)
        text = os.pread(self._handle, MAX_TEXT, 0)
        return float(text.split()[0])

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Ina3221Sensor(PowerSensor):
    """All rails of the board's monitors.

    A read that fails with EAGAIN (the chip was still converting) is tried once more, then it is a
    gap of that rail. Other errors close the file, so that a driver that comes back is found again.

    Args:
        kind: `ina3221-iio` or `ina3221-hwmon`.
        channels: From `iio_channels` or `hwmon_channels`.
    """

    def __init__(self, kind: str, channels: List[RailChannel]) -> None:
        rails = tuple(channel.rail for channel in channels)
        self.info = SensorInfo(
            kind, "measured", rails, total_of([rail.name for rail in rails]), _notes(channels)
        )
        self._files = [
            (channel.rail.name, [_File(path) for path in channel.paths]) for channel in channels
        ]

    def read(self) -> Tuple[Dict[str, float], List[str]]:
        """Milliwatts of every rail that answers."""
        values, faults = {}, []
        for name, files in self._files:
            try:
                values[name] = _power_mw(files)
            except (OSError, ValueError, IndexError) as error:  # noqa: PERF203 - rails fail alone
                faults.append("{}:{}".format(name, _code(error)))
                for file in files:
                    file.close()
        return values, faults

    def close(self) -> None:
        """Close the files."""
        for _, files in self._files:
            for file in files:
                file.close()


def _power_mw(files: List[_File]) -> float:
    try:
        numbers = [file.number() for file in files]
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        numbers = [file.number() for file in files]
    return numbers[0] if len(numbers) == 1 else numbers[0] * numbers[1] / 1e3


def _code(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, "EIO") if number else "garbage"


def _notes(channels: List[RailChannel]) -> Tuple[Tuple[str, str], ...]:
    notes = []
    for folder in sorted({os.path.dirname(channel.paths[0]) for channel in channels}):
        for name in NOTES:
            text = read_text(os.path.join(folder, name))
            if text is not None:
                notes.append(("{} {}".format(_chip_of(folder + "/"), name), text))
    return tuple(notes)
