"""From a recording to its figures; a pure function, so that `verify` can do it again."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from deploy_jetson.device.power.integrate import WindowEnergy, rail_quality, window_energy
from deploy_jetson.device.power.sensor import PowerRail
from deploy_jetson.device.profile.recording import (
    IDLE_AFTER,
    IDLE_BEFORE,
    IMAGES,
    WINDOW,
    PowerRecording,
    RunPhase,
)

MIN_RATE_SHARE = 0.8  # of the sampling rate that was asked for
MAX_DRIFT = 0.03  # between the two idle phases
MIN_WINDOWS = 3  # below that no interval
MIN_WINDOW_S = 60.0  # of the protocol; shorter ones are flagged
MIN_INFERENCES = 500
RESAMPLES = 2000
SEED = 0


class WindowSpread(NamedTuple):
    """A figure over the windows: median, extremes, and a bootstrap 95 % interval of the median."""

    median: float
    min: float
    max: float
    low: Optional[float]
    high: Optional[float]


def resampled_medians(values: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Medians (RESAMPLES,) of values (n,) drawn with replacement."""
    picks = random.randint(0, len(values), (RESAMPLES, len(values)))
    return np.asarray(np.median(values[picks], axis=1))


def spread(values: List[float]) -> Optional[WindowSpread]:
    """Median of windows with its interval; None without a window."""
    if not values:
        return None
    array = np.array(values, dtype=np.float64)
    low = high = None
    if len(array) >= MIN_WINDOWS:
        medians = resampled_medians(array, np.random.RandomState(SEED))
        low, high = (float(value) for value in np.percentile(medians, [2.5, 97.5]))
    return WindowSpread(float(np.median(array)), float(array.min()), float(array.max()), low, high)


def _spread_record(values: List[float]) -> Optional[Dict[str, Any]]:
    found = spread(values)
    return dict(found._asdict()) if found is not None else None


def latency_record(times: np.ndarray) -> Optional[Dict[str, Any]]:
    """Percentiles of (k, 2) start and end seconds, in milliseconds."""
    if len(times) == 0:
        return None
    spans = (times[:, 1] - times[:, 0]) * 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(spans, [50, 90, 99]))
    return {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "mean": float(spans.mean()),
        "inferences": len(spans),
    }


class _Rail:
    """One rail's energies in every phase."""

    def __init__(self, recording: PowerRecording, rail: PowerRail) -> None:
        self.recording = recording
        self.rail = rail
        self.stamps = recording.samples.stamps_s
        self.values = recording.samples.values[rail.name]
        self.interval_s = 1.0 / recording.settings.rate_hz

    def energy(self, phase: RunPhase) -> WindowEnergy:
        edges = (phase.start_s, phase.end_s)
        return window_energy(self.stamps, self.values, edges, self.interval_s, self.rail.unit)

    def kinds(self, kind: str) -> List[Tuple[WindowEnergy, int, float]]:
        """(energy, inferences, seconds) of every phase of a kind."""
        pairs = zip(self.recording.phases, self.recording.inferences)
        return [
            (self.energy(phase), len(times), phase.end_s - phase.start_s)
            for phase, times in pairs
            if phase.kind == kind
        ]

    def baseline(self) -> Dict[str, Any]:
        """Idle power before and after, their mean and drift."""
        before, after = (
            next((found.mean_w for found, _, _ in self.kinds(kind)), None)
            for kind in (IDLE_BEFORE, IDLE_AFTER)
        )
        known = [value for value in (before, after) if value is not None]
        mean = sum(known) / len(known) if known else None
        drift = None
        if before is not None and after is not None and mean:
            drift = abs(after - before) / mean
        return {
            "before_w": before,
            "after_w": after,
            "mean_w": mean,
            "drift_share": drift,
        }


def _per_inference(
    windows: List[Tuple[WindowEnergy, int, float]], idle_w: Optional[float]
) -> Tuple[List[float], List[float]]:
    """Gross and net joules per inference of the windows that are not void."""
    gross, net = [], []
    for found, count, seconds in windows:
        if found.energy_j is None or count == 0:
            continue
        gross.append(found.energy_j / count)
        if idle_w is not None:
            net.append((found.energy_j - idle_w * seconds) / count)
    return gross, net


def _window_record(found: WindowEnergy, inferences: int, seconds: float) -> Dict[str, Any]:
    return {
        "energy_j": found.energy_j,
        "mean_w": found.mean_w,
        "seconds": seconds,
        "inferences": inferences,
        "samples": found.samples,
        "void": found.void,
    }


def rail_record(recording: PowerRecording, rail: PowerRail) -> Dict[str, Any]:
    """Everything about one rail."""
    series = _Rail(recording, rail)
    windows = series.kinds(WINDOW)
    baseline = series.baseline()
    gross, net = _per_inference(windows, baseline["mean_w"])
    whole_gross, whole_net = _per_inference(series.kinds(IMAGES), baseline["mean_w"])
    means = [found.mean_w for found, _, _ in windows if found.mean_w is not None]
    peaks = [found.peak_w for found, _, _ in windows if found.peak_w is not None]
    quality = rail_quality(series.stamps, series.values)
    return {
        "name": rail.name,
        "scope": rail.scope,
        "gross_j_per_inference": _spread_record(gross),
        "net_j_per_inference": _spread_record(net),
        "gross_j_per_image": whole_gross[0] if whole_gross else None,
        "net_j_per_image": whole_net[0] if whole_net else None,
        "mean_w": float(np.mean(means)) if means else None,
        "peak_w": max(peaks) if peaks else None,
        "baseline": baseline,
        "windows": [_window_record(*window) for window in windows],
        "quality": dict(quality._asdict()),
    }


def _total(recording: PowerRecording, rails: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """Figures of the input rail with derived totals; None without an input rail."""
    name = recording.sensor.total
    rail = next((item for item in rails if item["name"] == name), None)
    if rail is None:
        return None
    gross = rail["gross_j_per_inference"]
    return {
        "rail": name,
        "scope": rail["scope"],
        "gross_j_per_inference": gross,
        "net_j_per_inference": rail["net_j_per_inference"],
        "gross_j_per_image": rail["gross_j_per_image"],
        "net_j_per_image": rail["net_j_per_image"],
        "inferences_per_j": 1 / gross["median"] if gross and gross["median"] > 0 else None,
        "mean_w": rail["mean_w"],
        "peak_w": rail["peak_w"],
        "idle_w": rail["baseline"]["mean_w"],
    }


def _short(recording: PowerRecording) -> Optional[str]:
    settings = recording.settings
    if recording.about.get("latency_basis") == "estimated":
        return None
    if settings.window_s >= MIN_WINDOW_S and settings.min_inferences >= MIN_INFERENCES:
        return None
    return "windows of {:g} s and {} inferences, the protocol asks for {:g} s and {}".format(
        settings.window_s, settings.min_inferences, MIN_WINDOW_S, MIN_INFERENCES
    )


def _slow(recording: PowerRecording) -> Optional[str]:
    """The actual sampling rate if the sensor was slower than requested."""
    stamps, wanted = recording.samples.stamps_s, recording.settings.rate_hz
    if len(stamps) < 2 or stamps[-1] <= stamps[0]:
        return None
    rate = (len(stamps) - 1) / float(stamps[-1] - stamps[0])
    if rate >= MIN_RATE_SHARE * wanted:
        return None
    return "{:.3g} samples/s instead of {:g}".format(rate, wanted)


def flags(
    recording: PowerRecording, rails: List[Dict[str, Any]], total: Optional[Dict[str, Any]]
) -> List[Dict[str, str]]:
    """Quality flags of a run, each with its text."""
    found = [(note[0], note[1]) for note in recording.notes]
    if recording.samples.lost is not None:
        found.append(("sensor_lost", recording.samples.lost))
    if total is None:
        found.append(("no_input_rail", "the sensor measures no input; parts are never added up"))
    for rail in rails:
        name = rail["name"]
        voids = [window["void"] for window in rail["windows"] if window["void"]]
        if voids:
            text = "{}: {} of {} windows void, {}".format(
                name, len(voids), len(rail["windows"]), voids[0]
            )
            found.append(("gaps", text))
        if recording.sensor.total == name:
            found += _total_flags(recording, rail)
    doubts = [("slow_sampling", _slow(recording)), ("short_windows", _short(recording))]
    found += [(flag, text) for flag, text in doubts if text is not None]
    grouped: Dict[str, List[str]] = {}
    for flag, why in found:
        grouped.setdefault(flag, []).append(why)
    return [
        {"flag": flag, "why": reasons[0] + _more(len(reasons) - 1)}
        for flag, reasons in grouped.items()
    ]


def _more(count: int) -> str:
    return " (and {} more)".format(count) if count else ""


def _total_flags(recording: PowerRecording, rail: Dict[str, Any]) -> List[Tuple[str, str]]:
    found = []
    name, baseline = rail["name"], rail["baseline"]
    drift = baseline["drift_share"]
    if drift is None:
        found.append(("unstable_baseline", name + ": an idle phase is void"))
    elif drift > MAX_DRIFT:
        text = "{}: idle power moved by {:.1f} %".format(name, 100 * drift)
        found.append(("unstable_baseline", text))
    if rail["quality"]["identical_share"] == 1.0 and recording.sensor.basis != "estimated":
        found.append(("constant_reading", name + ": every reading is the same"))
    valid = sum(window["void"] is None for window in rail["windows"])
    if valid < MIN_WINDOWS:
        found.append(("few_windows", "{}: {} usable, no interval".format(name, valid)))
    return found


def figures(recording: PowerRecording) -> Dict[str, Any]:
    """All figures of a run.

    Args:
        recording: As read back from its files, so that the figures are those of the files.
    """
    pairs = list(zip(recording.phases, recording.inferences))
    measured = [times for phase, times in pairs if phase.kind == WINDOW]
    images = [times for phase, times in pairs if phase.kind == IMAGES]
    rails = [rail_record(recording, rail) for rail in recording.sensor.rails]
    total = _total(recording, rails)
    everything = np.concatenate(measured) if measured else np.zeros((0, 2))
    return {
        "latency_ms": latency_record(everything),
        "image_latency_ms": latency_record(images[0]) if images else None,
        "total": total,
        "rails": rails,
        "samples": len(recording.samples.stamps_s),
        "faults": dict(sorted(recording.samples.faults.items())),
        "sampler_cpu_share": recording.samples.cpu_share,
        "flags": flags(recording, rails, total),
    }
