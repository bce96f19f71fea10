"""A run as raw data: what was sampled and timed, from which every figure can be computed again."""

import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from deploy_jetson.device.power.replay import STAMP_COLUMN, bounded_text, parse_samples
from deploy_jetson.device.power.sampler import PowerSamples
from deploy_jetson.device.power.sensor import PowerRail, SensorInfo
from pneumonia.runtime.atomic import write_json, write_text
from pneumonia.runtime.errors import ArtefactError, DataError

SCHEMA = "pneumonia.power-run/1"
SAMPLES = "samples.csv"
INFERENCES = "inferences.csv"
RECORD = "record.json"
RAW_FILES = (SAMPLES, INFERENCES, RECORD)
INFERENCE_HEADER = "phase,start_s,end_s"
IDLE_BEFORE, WARM_UP, WINDOW, IMAGES, IDLE_AFTER = (
    "idle_before",
    "warm_up",
    "window",
    "images",
    "idle_after",
)
KINDS = (IDLE_BEFORE, WARM_UP, WINDOW, IMAGES, IDLE_AFTER)
MAX_RECORD_BYTES = 64 * 1024 * 1024
MAX_INFERENCES_BYTES = 1024 * 1024 * 1024


class RunPhase(NamedTuple):
    """A stretch of a run."""

    kind: str  # `idle_before`, `warm_up`, `window`, `images` or `idle_after`
    # start_s, end_s: on the run's own clock; of windows the first start and the last end of an
    # inference, so that only whole inferences are counted
    start_s: float
    end_s: float


class ProtocolSettings(NamedTuple):
    """The protocol's numbers."""

    windows: int = 5  # measured windows
    window_s: float = 60.0  # least length of a window
    min_inferences: int = 500  # least inferences in a window
    idle_s: float = 30.0  # length of each of the two idle phases
    warm_up_inferences: int = 50  # least inferences of the warm-up
    max_warm_up_s: float = 600.0  # the warm-up ends then, settled or not
    rate_hz: float = 10.0  # samples per second


class PowerRecording(NamedTuple):
    """One run of one bundle, engine and mode."""

    # what ran where: run id, bundle, engine, mode, board, versions, basis of latency and power, the
    # estimator's prediction
    about: Dict[str, Any]
    settings: ProtocolSettings  # of the protocol
    sensor: SensorInfo  # what was read
    samples: PowerSamples  # power or counted energy
    phases: List[RunPhase]  # in order of time
    # per phase of `phases` (k, 2) start and end seconds; empty for idle phases
    inferences: List[np.ndarray]
    # clocks and temperatures: `before`, `after`, and one per window under load
    snapshots: Dict[str, Any]
    notes: List[List[str]]  # remarks of the protocol: `not_warm` and the like, with a reason


def _cell(value: float) -> str:
    return "{:.3f}".format(value) if np.isfinite(value) else ""


def samples_text(recording: PowerRecording) -> str:
    """samples.csv: microsecond stamps, milliwatts or millijoules, an empty cell for a gap."""
    rails = recording.sensor.rails
    header = ",".join([STAMP_COLUMN] + ["{}_{}".format(rail.name, rail.unit) for rail in rails])
    columns = [recording.samples.values[rail.name] for rail in rails]
    lines = [header]
    for index, stamp in enumerate(recording.samples.stamps_s):
        cells = [_cell(float(column[index])) for column in columns]
        lines.append(",".join(["{:.6f}".format(stamp)] + cells))
    return "\n".join(lines) + "\n"


def inferences_text(recording: PowerRecording) -> str:
    """inferences.csv: the phase's number, start and end of every inference in it."""
    lines = [INFERENCE_HEADER]
    for number, times in enumerate(recording.inferences):
        lines += ["{},{:.6f},{:.6f}".format(number, start, end) for start, end in times]
    return "\n".join(lines) + "\n"


def _record(recording: PowerRecording) -> Dict[str, Any]:
    sensor = recording.sensor._asdict()
    sensor["rails"] = [rail._asdict() for rail in recording.sensor.rails]
    sensor["notes"] = [list(note) for note in recording.sensor.notes]
    return {
        "schema": SCHEMA,
        "about": recording.about,
        "settings": recording.settings._asdict(),
        "sensor": sensor,
        "faults": recording.samples.faults,
        "lost": recording.samples.lost,
        "sampler_cpu_share": recording.samples.cpu_share,
        "phases": [phase._asdict() for phase in recording.phases],
        "snapshots": recording.snapshots,
        "notes": recording.notes,
    }


def rebased(recording: PowerRecording) -> PowerRecording:
    """The same with the first phase at zero and times in whole microseconds, as files keep them."""
    start = recording.phases[0].start_s

    def moved(times: Any) -> Any:
        return np.round(np.asarray(times, dtype=np.float64) - start, 6)

    phases = [
        RunPhase(phase.kind, float(moved(phase.start_s)), float(moved(phase.end_s)))
        for phase in recording.phases
    ]
    samples = recording.samples._replace(stamps_s=moved(recording.samples.stamps_s))
    inferences = [moved(times) for times in recording.inferences]
    return recording._replace(phases=phases, samples=samples, inferences=inferences)


def write_recording(folder: str, recording: PowerRecording) -> None:
    """Write the three raw files.

    Raises:
        OutputError: The folder cannot be written.
    """
    recording = rebased(recording)
    write_text(os.path.join(folder, SAMPLES), samples_text(recording))
    write_text(os.path.join(folder, INFERENCES), inferences_text(recording))
    write_json(os.path.join(folder, RECORD), _record(recording))


def _bad(path: str, found: str) -> ArtefactError:
    return ArtefactError(
        "Recorded run is damaged",
        found=found,
        where=path,
        fix="Measure again; recordings are not to be edited",
    )


def _typed(document: Dict[str, Any], key: str, kind: Any) -> Any:
    value = document.get(key)
    if not isinstance(value, kind):
        raise ValueError(key)
    return value


def _phase(record: Any) -> RunPhase:
    phase = RunPhase(str(record["kind"]), float(record["start_s"]), float(record["end_s"]))
    if phase.kind not in KINDS or not 0 <= phase.start_s <= phase.end_s < 1e9:
        raise ValueError("phases")
    return phase


def _settings(record: Dict[str, Any]) -> ProtocolSettings:
    settings = ProtocolSettings(**record)
    whole = (settings.windows, settings.min_inferences, settings.warm_up_inferences)
    if not all(isinstance(value, int) and 0 <= value < 10**9 for value in whole):
        raise ValueError("settings")
    if not all(0 <= float(value) < 1e9 for value in settings) or settings.rate_hz <= 0:
        raise ValueError("settings")
    return settings


def _sensor(record: Dict[str, Any]) -> SensorInfo:
    rails = tuple(
        PowerRail(*(str(item[field]) for field in PowerRail._fields)) for item in record["rails"]
    )
    total = record["total"]
    if total is not None and total not in [rail.name for rail in rails]:
        raise ValueError("sensor")
    notes = tuple((str(key), str(value)) for key, value in record["notes"])
    return SensorInfo(str(record["kind"]), str(record["basis"]), rails, total, notes)


def _inferences(path: str, phases: int) -> List[np.ndarray]:
    lines = bounded_text(path, MAX_INFERENCES_BYTES, _bad).split("\n")
    if lines[0] != INFERENCE_HEADER or lines[-1] != "":
        raise _bad(path, "another header, or cut off")
    try:
        table = np.array([line.split(",") for line in lines[1:-1]], dtype=np.float64)
    except ValueError:
        raise _bad(path, "a line that is not three numbers") from None
    table = table.reshape(-1, 3)
    number = table[:, 0]
    if not np.isfinite(table).all() or (number != np.round(number)).any():
        raise _bad(path, "numbers that are not finite")
    if len(table) and not (number.min() >= 0 and number.max() < phases):
        raise _bad(path, "a phase that does not exist")
    return [table[number == index, 1:] for index in range(phases)]


def read_recording(folder: str) -> PowerRecording:
    """Read a run's raw files back.

    Raises:
        ArtefactError: A file is missing, cut, or does not fit the others.
    """
    path = os.path.join(folder, RECORD)
    try:
        document = json.loads(bounded_text(path, MAX_RECORD_BYTES, _bad))
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError("schema")
        sensor = _sensor(_typed(document, "sensor", dict))
        phases = [_phase(item) for item in _typed(document, "phases", list)]
        settings = _settings(_typed(document, "settings", dict))
        about = _typed(document, "about", dict)
        snapshots = _typed(document, "snapshots", dict)
        notes = [[str(word) for word in note] for note in _typed(document, "notes", list)]
        faults = {str(k): int(v) for k, v in _typed(document, "faults", dict).items()}
    except (
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError
    ) as error:  # fmt: skip
        raise _bad(path, "{}: {}".format(type(error).__name__, str(error)[:40])) from None
    where = os.path.join(folder, SAMPLES)
    try:
        series = parse_samples(bounded_text(where, MAX_INFERENCES_BYTES, _bad), where)
    except DataError as error:
        raise _bad(where, error.found or "not samples") from None
    if list(series.units.items()) != [(rail.name, rail.unit) for rail in sensor.rails]:
        raise _bad(where, "other rails than " + RECORD)
    lost = document.get("lost")
    share = document.get("sampler_cpu_share")
    samples = PowerSamples(
        series.stamps_s,
        series.values,
        faults,
        str(lost)[:80] if lost is not None else None,
        float(share) if isinstance(share, (int, float)) else None,
    )
    inferences = _inferences(os.path.join(folder, INFERENCES), len(phases))
    return PowerRecording(about, settings, sensor, samples, phases, inferences, snapshots, notes)


SAFE = re.compile(r"[^A-Za-z0-9._-]+")


def run_name(bundle: str, engine: str, mode: Optional[int]) -> str:
    """Folder name of a run."""
    parts = [SAFE.sub("_", bundle)[:60] or "bundle", engine]
    return "-".join(parts + (["mode{}".format(mode)] if mode is not None else []))
