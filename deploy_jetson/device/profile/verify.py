"""Checks a recorded profile from its raw samples, and compares two of them.

Every number of energy.json is computed again from the raw files; hashes, run ids, windows and
clocks have to agree. The idea is MLPerf Power's compliance check.
"""

import io
import json
import math
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from deploy_jetson.device.estimate.calibration import (
    EstimateCalibration,
    MeasuredVersusPredicted,
    fit,
)
from deploy_jetson.device.profile.figures import MIN_WINDOWS, SEED, figures, resampled_medians
from deploy_jetson.device.profile.recording import (
    IDLE_AFTER,
    IDLE_BEFORE,
    RAW_FILES,
    WARM_UP,
    WINDOW,
    PowerRecording,
    read_recording,
)
from deploy_jetson.device.profile.sweep import ENERGY, MEASURED, SCHEMA
from pneumonia.runtime.errors import ArtefactError, DataError
from pneumonia.runtime.storage.bundle import file_sha256

LOW_CLOCK_FLAGS = ("throttled", "governor")  # not the board that the estimator predicts
MAX_BYTES = 256 * 1024 * 1024
TOLERANCE = 1e-9  # relative, for another NumPy's order of sums
CLOCK_SLACK_S = 2e-6  # stamps are kept in whole microseconds
LENGTH_SLACK = 0.01  # of a window or an idle phase
NO_DIFFERENCE = "no difference"


def _check_shape(entry: Any) -> None:
    """Raise ValueError, KeyError or TypeError for an entry no profile has written."""
    plain = os.path.normpath(entry["folder"])
    if not isinstance(plain, str) or os.path.isabs(plain) or plain.startswith(".."):
        raise ValueError("folder")
    for key in ("about", "figures", "settings", "files"):
        if not isinstance(entry[key], dict):
            raise ValueError(key)
    about = entry["about"]
    mode = about["mode"]
    words = [about["run_id"], about["engine"], about["bundle"]["label"]]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("about")
    if mode is not None and not isinstance(mode["number"], int):
        raise ValueError("mode")


def read_energy(folder: str) -> Dict[str, Any]:
    """Read energy.json of a profile.

    Raises:
        ArtefactError: It is missing, or not an energy profile.
    """
    path = os.path.join(folder, ENERGY)
    try:
        with io.open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("size")
        document = json.loads(data.decode("utf-8"))
        if document["schema"] != SCHEMA or not isinstance(document["runs"], list):
            raise ValueError("schema")
        for entry in document["runs"]:
            _check_shape(entry)
    except OSError as error:
        raise ArtefactError(
            "Not a profile",
            expected="a folder with " + ENERGY,
            found=error.strerror or "unreadable",
            where=folder,
            fix="`pneumonia profile BUNDLE --out DIR` writes one",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise ArtefactError(
            "Not a profile's " + ENERGY, expected=repr(SCHEMA), where=path
        ) from None
    return dict(document)


def differences(stored: Any, computed: Any, where: str = "figures") -> List[str]:
    """Where two JSON values differ, numbers by more than the tolerance."""
    if isinstance(stored, dict) and isinstance(computed, dict):
        found = []
        for key in sorted(set(stored) | set(computed)):
            place = "{}.{}".format(where, key)
            if key not in stored or key not in computed:
                found.append(place)
            else:
                found += differences(stored[key], computed[key], place)
        return found
    if isinstance(stored, list) and isinstance(computed, list):
        if len(stored) != len(computed):
            return [where]
        pairs = enumerate(zip(stored, computed))
        return [item for i, (a, b) in pairs for item in differences(a, b, where + "[%d]" % i)]
    numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool)
        for value in (stored, computed)
    )
    if numbers:
        near = math.isclose(stored, computed, rel_tol=TOLERANCE, abs_tol=1e-12)
        return [] if near else [where]
    same = type(stored) is type(computed) and stored == computed
    return [] if same else [where]


def _check_files(folder: str, entry: Dict[str, Any]) -> List[str]:
    found = []
    for name in RAW_FILES:
        record = entry["files"].get(name)
        path = os.path.join(folder, entry["folder"], name)
        if not isinstance(record, dict) or not os.path.isfile(path):
            found.append("{} is missing".format(name))
        elif file_sha256(path) != record.get("sha256"):
            found.append("{} was changed: its hash differs".format(name))
    return found


def _check_phases(recording: PowerRecording) -> List[str]:
    """Order, lengths and whole inferences."""
    found, settings = [], recording.settings
    kinds = [phase.kind for phase in recording.phases]
    expected = [IDLE_BEFORE, WARM_UP] + [WINDOW] * settings.windows
    if kinds[: len(expected)] != expected or kinds[-1] != IDLE_AFTER:
        found.append("phases are not those of the protocol")
    for first, second in zip(recording.phases, recording.phases[1:]):
        if second.start_s < first.end_s - CLOCK_SLACK_S:
            found.append("phases overlap at {:.3f} s".format(second.start_s))
    for phase, times in zip(recording.phases, recording.inferences):
        found += _check_inferences(phase.kind, phase.end_s - phase.start_s, times, recording)
        if len(times) and not (
            times[0, 0] >= phase.start_s - CLOCK_SLACK_S
            and times[-1, 1] <= phase.end_s + CLOCK_SLACK_S
        ):
            found.append("inferences lie outside their {}".format(phase.kind))
    return found


def _check_inferences(
    kind: str, seconds: float, times: np.ndarray, recording: PowerRecording
) -> List[str]:
    found, settings = [], recording.settings
    if len(times):
        ordered = (np.diff(times.ravel()) >= -CLOCK_SLACK_S).all()
        if not ordered:
            found.append("inferences of a {} run backwards or overlap".format(kind))
    if kind == WINDOW:
        if len(times) < settings.min_inferences:
            found.append("a window has only {} inferences".format(len(times)))
        # The window counts from the first inference's start, the protocol from a moment earlier.
        if seconds < (1 - LENGTH_SLACK) * settings.window_s:
            found.append("a window lasts only {:.3f} s".format(seconds))
    if kind in (IDLE_BEFORE, IDLE_AFTER) and seconds < (1 - LENGTH_SLACK) * settings.idle_s:
        found.append("an idle phase lasts only {:.3f} s".format(seconds))
    return found


def _check_samples(recording: PowerRecording) -> List[str]:
    """Samples reach over the whole run, unless the sensor was lost, which is flagged."""
    stamps = recording.samples.stamps_s
    if recording.samples.lost is not None:
        return []
    if len(stamps) < 2:
        return ["there are no samples"]
    start_s, end_s = recording.phases[0].start_s, recording.phases[-1].end_s
    if stamps[0] > start_s + CLOCK_SLACK_S or stamps[-1] < end_s - CLOCK_SLACK_S:
        return ["samples do not reach over the whole run"]
    return []


def check_entry(folder: str, entry: Dict[str, Any]) -> List[str]:
    """List of all errors in one run of a profile."""
    found = _check_files(folder, entry)
    try:
        recording = read_recording(os.path.join(folder, entry["folder"]))
    except ArtefactError as error:
        return found + [str(error)]
    found += differences(entry["about"], recording.about, "about")
    found += differences(entry["settings"], dict(recording.settings._asdict()), "settings")
    if not recording.phases:
        return found + ["there are no phases"]
    found += _check_phases(recording) + _check_samples(recording)
    computed = json.loads(json.dumps(figures(recording)))
    moved = differences(entry["figures"], computed)
    return found + ["{} is not what the raw samples give".format(item) for item in moved]


def verify(folder: str) -> int:
    """Check a profile from its raw files.

    Returns:
        How many runs were checked.

    Raises:
        ArtefactError: It is not a profile, or values disagree; the first disagreement is
            named, and how many there are.
    """
    document = read_energy(folder)
    problems = []
    ids = [entry["about"]["run_id"] for entry in document["runs"]]
    if len(set(ids)) != len(ids):
        problems.append("two runs have the same id")
    if not document["runs"]:
        problems.append("there is no run")
    for entry in document["runs"]:
        problems += ["{}: {}".format(entry["folder"], text) for text in check_entry(folder, entry)]
    if problems:
        raise ArtefactError(
            "Profile does not agree with its raw samples",
            found="{} ({} problem(s) in all)".format(problems[0], len(problems)),
            where=folder,
            fix="Do not use these figures; measure again",
        )
    return len(ids)


class EnergyRatio(NamedTuple):
    """Energy of one run over that of another, both gross, of the input rail."""

    name: str  # engine and mode the two share
    ratio: float  # of the medians
    # low, high: bootstrap 95 % interval; None with too few windows
    low: Optional[float]
    high: Optional[float]
    verdict: str  # `less`, `more` or `no difference`


def _window_energies(entry: Dict[str, Any]) -> List[float]:
    """Joules per inference of the input rail's windows."""
    total = entry["figures"].get("total")
    rails = entry["figures"].get("rails", [])
    name = total["rail"] if total else None
    windows: List[Any] = next((rail["windows"] for rail in rails if rail["name"] == name), [])
    return [
        window["energy_j"] / window["inferences"]
        for window in windows
        if window["energy_j"] is not None and window["inferences"]
    ]


def _key(entry: Dict[str, Any], with_bundle: bool) -> Tuple[Any, ...]:
    about = entry["about"]
    mode = about.get("mode")
    label = about["bundle"]["label"] if with_bundle else ""
    return (label, about["engine"], mode["number"] if mode else None)


def ratio_of(first: List[float], second: List[float], name: str) -> EnergyRatio:
    """Ratio of medians with its interval.

    Args:
        first: Joules per inference of every window.
        second: The same of the other run.
    """
    ours, theirs = np.array(first), np.array(second)
    ratio = float(np.median(ours) / np.median(theirs))
    if min(len(ours), len(theirs)) < MIN_WINDOWS:
        return EnergyRatio(name, ratio, None, None, NO_DIFFERENCE)
    random = np.random.RandomState(SEED)
    ratios = resampled_medians(ours, random) / resampled_medians(theirs, random)
    low, high = (float(value) for value in np.percentile(ratios, [2.5, 97.5]))
    verdict = "less" if high < 1 else "more" if low > 1 else NO_DIFFERENCE
    return EnergyRatio(name, ratio, low, high, verdict)


def compare(first: str, second: str) -> List[EnergyRatio]:
    """Compare two profiles, run by run of the same engine and mode; both are verified first.

    Raises:
        ArtefactError: One is not a profile, or disagrees with its raw samples.
        DataError: They have no run in common.
    """
    for folder in (first, second):
        verify(folder)
    documents = [read_energy(folder) for folder in (first, second)]
    labels = [{e["about"]["bundle"]["label"] for e in doc["runs"]} for doc in documents]
    with_bundle = any(len(names) > 1 for names in labels)
    ours, theirs = (
        {
            _key(entry, with_bundle): energies
            for entry in doc["runs"]
            for energies in [_window_energies(entry)]
            if energies and min(energies) > 0
        }
        for doc in documents
    )
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise DataError(
            "Profiles have no run in common",
            expected="the same engine and mode in both, with energies",
            where="{} and {}".format(first, second),
        )
    names = [", ".join(str(part) for part in key if part not in ("", None)) for key in shared]
    return [ratio_of(ours[key], theirs[key], name) for key, name in zip(shared, names)]


def _comparison(entry: Dict[str, Any]) -> Optional[MeasuredVersusPredicted]:
    about, found = entry["about"], entry["figures"]
    expected, total, latency = about.get("prediction"), found.get("total"), found.get("latency_ms")
    bases = (about.get("latency_basis"), about.get("power_basis"))
    if bases != (MEASURED, MEASURED) or not (about.get("board") or {}).get("tx2"):
        return None
    if not expected or not total or not latency or not total["idle_w"] or not total["mean_w"]:
        return None
    if any(item["flag"] in LOW_CLOCK_FLAGS for item in found["flags"]):
        return None  # the mode's clocks did not hold, so the prediction is of another board
    return MeasuredVersusPredicted(
        about["engine"],
        latency["p50"] / expected["latency_ms"],
        total["idle_w"] / expected["idle_w"],
        total["mean_w"] / expected["busy_w"],
    )


def calibrate(folders: List[str]) -> EstimateCalibration:
    """Fit the TX2 estimator to measured profiles, each verified first.

    Raises:
        ArtefactError: A profile does not agree with its raw samples.
        DataError: None of the runs was measured on a TX2.
    """
    found, sources = [], []
    for folder in folders:
        verify(folder)
        found += [_comparison(entry) for entry in read_energy(folder)["runs"]]
        sources.append(file_sha256(os.path.join(folder, ENERGY)))
    return fit([item for item in found if item is not None], sources)
