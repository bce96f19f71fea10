"""A recorded series played again: our own samples.csv, or a log of tegrastats.

For development away from the board and for tests of everything behind the sensor.
"""

import csv
import io
from typing import Callable, Dict, List, NamedTuple, Tuple

import numpy as np

from deploy_jetson.device.power.clock import MonotonicClock
from deploy_jetson.device.power.sensor import (
    MILLIJOULE,
    MILLIWATT,
    PowerRail,
    PowerSensor,
    SensorGap,
    SensorInfo,
    SensorLost,
    scope_of,
    total_of,
)
from deploy_jetson.device.power.tegrastats import parse_rails
from pneumonia.runtime.errors import DataError

STAMP_COLUMN = "stamp_s"
UNITS = (MILLIWATT, MILLIJOULE)
MAX_BYTES = 128 * 1024 * 1024
MAX_RAILS = 64


class RecordedSeries(NamedTuple):
    """A recorded series."""

    stamps_s: np.ndarray  # (n,) seconds
    values: Dict[str, np.ndarray]  # rail -> (n,) milliwatts or millijoules, NaN for gaps
    units: Dict[str, str]  # rail -> `mw` or `mj`


def _bad(path: str, found: str) -> DataError:
    return DataError(
        "Not a recording of power",
        expected="samples.csv of `pneumonia profile`, or lines of tegrastats",
        found=found,
        where=path,
    )


def bounded_text(path: str, limit: int, fault: Callable[[str, str], Exception]) -> str:
    """Text of a file of at most `limit` bytes.

    Args:
        fault: Makes the error of a file that cannot be read from its path and what was found.
    """
    try:
        with io.open(path, "rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise fault(path, error.strerror or "unreadable") from None
    if len(data) > limit:
        raise fault(path, "more than {} MiB".format(limit >> 20))
    return data.decode("utf-8", "replace")


def split_column(name: str) -> Tuple[str, str]:
    """`VDD_IN_mw` -> (`VDD_IN`, `mw`); raises ValueError for any other name."""
    rail, _, unit = name.rpartition("_")
    if not rail or unit not in UNITS:
        raise ValueError(name)
    return rail, unit


def parse_samples(text: str, path: str) -> RecordedSeries:
    """Parse our samples.csv; an empty cell is a gap.

    Raises:
        DataError: Other columns, rows of another length, or stamps that do not rise.
    """
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    try:
        columns = [split_column(name) for name in header[1:]]
    except ValueError as error:
        raise _bad(path, "column {!r}".format(str(error)[:40])) from None
    if header[:1] != [STAMP_COLUMN] or not 1 <= len(columns) <= MAX_RAILS:
        raise _bad(path, "columns {!r}".format(",".join(header)[:60]))
    table = []
    for number, row in enumerate(rows, 2):
        try:
            values = [float(cell) if cell else float("nan") for cell in row]
        except ValueError:
            values = []
        if len(values) != len(header) or not np.isfinite(values[0]):
            raise _bad(path, "line {}".format(number))
        table.append(values)
    array = np.array(table, dtype=np.float64).reshape(len(table), len(header))
    if (np.diff(array[:, 0]) < 0).any():
        raise _bad(path, "stamps that run backwards")
    named = {rail: array[:, i] for i, (rail, _) in enumerate(columns, 1)}
    return RecordedSeries(array[:, 0], named, dict(columns))


def _parse_tegrastats(text: str, path: str, interval_s: float) -> RecordedSeries:
    readings = [parse_rails(line) or {} for line in text.splitlines()]
    if not any(readings):
        raise _bad(path, "no line with a rail")
    names = list({name: 0 for rails in readings for name in rails})
    values = {
        name: np.array([float(rails.get(name, np.nan)) for rails in readings])
        for name in names[:MAX_RAILS]
    }
    stamps = np.arange(len(readings)) * interval_s
    return RecordedSeries(stamps, values, dict.fromkeys(values, MILLIWATT))


def read_series(path: str, interval_s: float = 1.0) -> RecordedSeries:
    """Read a recording.

    Args:
        path: samples.csv, or text with one line of tegrastats per interval.
        interval_s: Time between lines of tegrastats, which have no fine stamps.

    Raises:
        DataError: It is neither.
    """
    text = bounded_text(path, MAX_BYTES, _bad)
    if text.startswith(STAMP_COLUMN):
        series = parse_samples(text, path)
        if len(series.stamps_s) == 0:
            raise _bad(path, "no sample")
        return series
    return _parse_tegrastats(text, path, interval_s)


class ReplaySensor(PowerSensor):
    """Replays a series from its start at its recorded pace; raises SensorLost at its end."""

    paced = True

    def __init__(self, series: RecordedSeries, clock: MonotonicClock) -> None:
        rails = tuple(
            PowerRail(name, unit, scope_of(name), "recording")
            for name, unit in series.units.items()
        )
        total = total_of([rail.name for rail in rails])
        self.info = SensorInfo("replay", "replayed", rails, total)
        self._series = series
        self._clock = clock
        self._next = 0
        self._offset = float("nan")

    def read(self) -> Tuple[Dict[str, float], List[str]]:
        """Wait until the next sample's time, then return it.

        Raises:
            SensorGap: The recording has a gap here.
            SensorLost: The recording is over.
        """
        stamps = self._series.stamps_s
        if self._next >= len(stamps):
            raise SensorLost("Recording is over", found="end of the recording")
        if self._next == 0:
            self._offset = self._clock.now() - stamps[0]
        self._clock.sleep(stamps[self._next] + self._offset - self._clock.now())
        values, faults = {}, []
        for name, series in self._series.values.items():
            value = float(series[self._next])
            if np.isfinite(value):
                values[name] = value
            else:
                faults.append(name + ":gap")
        self._next += 1
        if not values:
            raise SensorGap("gap")
        return values, faults
