"""Score thresholds: chosen on validation images, stored with the model, not changed on test images.

At a threshold t an image is called positive when its highest box score is >= t, and its boxes of
score >= t are shown.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics.bootstrap import finite_or_none
from evaluation.metrics.calibration import fit_platt, fit_temperature
from evaluation.metrics.image_level import roc_curve
from evaluation.metrics.intervals import share_interval
from evaluation.metrics.matching import BoolArray, Float64Array
from evaluation.metrics.rsna import RsnaTable, rsna_table
from evaluation.study.cases import EvaluationCases
from evaluation.study.class_mix import RSNA_MIX, ClassMix, class_strata, mix_weights, why_no_mix
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.json_files import read_json_object
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL
from pneumonia.runtime.storage.bundle import OPERATING_POINTS

SCHEMA = "pneumonia.operating_points/1"
SENSITIVITY_MIN = 0.90
SPECIFICITY_MIN = 0.95
SWEEP_LEVELS = 400  # candidates for the challenge score's maximum
RULES = {
    "kaggle": "highest RSNA challenge score",
    "high_sensitivity": f"highest threshold with image sensitivity of at least {SENSITIVITY_MIN:g}",
    "high_specificity": f"lowest threshold with image specificity of at least {SPECIFICITY_MIN:g}",
    "balanced": "highest sensitivity + specificity (Youden)",
}

EXTREMES = ("high_sensitivity", "high_specificity")
MERGED = "one threshold reaches both, that of highest sensitivity + specificity"


@dataclass(frozen=True)
class OperatingPoint:
    """A frozen threshold and its metrics on the images it was chosen on."""

    threshold: float  # boxes of this score or higher count
    rule: str  # how it was chosen
    rsna_score: float | None = None  # challenge score there; None = not available
    # sensitivity, sensitivity_low: of images, with the lower end of its 95 % interval over patients
    sensitivity: float | None = None
    sensitivity_low: float | None = None
    # specificity, specificity_low: the same
    specificity: float | None = None
    specificity_low: float | None = None
    # specificity_normal, specificity_not_normal: by class; None when a class is not known
    specificity_normal: float | None = None
    specificity_not_normal: float | None = None
    mix: str | None = None  # name of the mix of classes of the next three; None = not available
    # rsna_score_at_mix, specificity_at_mix, ppv_at_mix: metrics at that mix
    rsna_score_at_mix: float | None = None
    specificity_at_mix: float | None = None
    ppv_at_mix: float | None = None


BY_CLASS = (
    "specificity_normal",
    "specificity_not_normal",
    "mix",
    "rsna_score_at_mix",
    "specificity_at_mix",
    "ppv_at_mix",
)  # absent from a record when the classes are not known


def choose(
    cases: EvaluationCases, mix: ClassMix = RSNA_MIX, at_mix: bool = False
) -> dict[str, OperatingPoint]:
    """Choose every operating point that the cases allow.

    `high_sensitivity` is never less sensitive than `high_specificity`: where one threshold reaches
    both, they are the same point. A point that no threshold reaches (90 % sensitivity when a fifth
    of the positives has no box at all) or that needs a class that is absent is left out. Metrics of
    a point are also computed by class and at the mix, where classes are known.

    Args:
        cases: Validation cases.
        mix: Mix of classes of the metrics at a mix.
        at_mix: Choose thresholds at the mix, every image weighted by its class; False = with equal
            weights.

    Raises:
        DataError: `at_mix`, and a class is not known or absent.
    """
    weights = mix_weights(class_strata(cases), mix) if at_mix else None
    positive, scores = cases.positive, cases.image_score
    thresholds: dict[str, float] = {}
    rules = dict(RULES)
    table = rsna_table(cases.truth_by_id(), cases.boxes_by_id())
    candidates = between_levels(np.concatenate([*cases.scores, np.zeros(0)]), SWEEP_LEVELS)
    swept = table.sweep(candidates, weights)
    if len(candidates) and np.isfinite(swept).any():
        best = np.flatnonzero(swept == np.nanmax(swept))
        thresholds["kaggle"] = float(candidates[best[len(best) // 2]])
    if positive.any() and not positive.all():
        alarms, hits, levels = roc_curve(positive, scores, weights)
        usable = levels > 0  # at threshold 0 images without boxes would be called positive
        lines = _midpoints(levels)
        reached = np.flatnonzero(usable & (hits >= SENSITIVITY_MIN))
        if len(reached):
            thresholds["high_sensitivity"] = float(lines[reached[0]])
        reached = np.flatnonzero(usable & (1 - alarms >= SPECIFICITY_MIN) & np.isfinite(levels))
        if len(reached):
            thresholds["high_specificity"] = float(lines[reached[-1]])
        youden = np.where(usable & np.isfinite(levels), hits - alarms, -np.inf)
        if np.isfinite(youden).any():
            thresholds["balanced"] = float(lines[int(np.argmax(youden))])
        both = usable & (hits >= SENSITIVITY_MIN) & (1 - alarms >= SPECIFICITY_MIN)
        if (both & np.isfinite(levels)).any():
            # One threshold satisfies both rules. Chosen separately, the sensitive point would lie
            # above the specific one.
            merged = float(lines[int(np.argmax(np.where(both, youden, -np.inf)))])
            thresholds |= dict.fromkeys(EXTREMES, merged)
            rules |= {name: f"{RULES[name]}; {MERGED}" for name in EXTREMES}
    return {
        name: _describe(cases, thresholds[name], rule, table, mix)
        for name, rule in rules.items()
        if name in thresholds
    }


def between_levels(scores: Float64Array, most: int) -> Float64Array:
    """Ascending thresholds midway between neighbouring scores (the first below all of them)."""
    levels = np.unique(scores[scores > 0])
    if len(levels) > most:
        # most boxes have low scores: quantiles alone would miss the few high ones
        even = np.linspace(levels[0], levels[-1], most // 2)
        ranks = np.linspace(0, len(levels) - 1, most // 2).round().astype(np.intp)
        nearest = np.searchsorted(levels, even).clip(max=len(levels) - 1)
        levels = levels[np.unique(np.concatenate([ranks, nearest]))]
    return np.sort(_midpoints(levels[::-1]))


def _midpoints(descending: Float64Array) -> Float64Array:
    """Thresholds midway between each level and the next lower one, safe against rounding."""
    if not len(descending):
        return np.zeros(0)
    lower = np.append(descending[1:], 0.0)
    upper = np.where(np.isfinite(descending), descending, lower)
    middle = np.maximum((upper + np.maximum(lower, 0.0)) / 2, np.finfo(np.float32).tiny)
    return np.asarray(np.where(descending > 0, middle, 0.0))


def _describe(
    cases: EvaluationCases, threshold: float, rule: str, table: RsnaTable, mix: ClassMix
) -> OperatingPoint:
    called = cases.image_score >= threshold
    positive = cases.positive
    scores = table.image_scores(threshold)
    point = OperatingPoint(
        threshold=threshold,
        rule=rule,
        rsna_score=_mean(scores, np.isfinite(scores)),
        sensitivity=_mean(called, positive),
        sensitivity_low=_lower_end(called, positive, cases),
        specificity=_mean(~called, ~positive),
        specificity_low=_lower_end(~called, ~positive, cases),
    )
    if why_no_mix(cases, mix):
        return point
    weights = mix_weights(class_strata(cases), mix)
    return replace(
        point,
        specificity_normal=_mean(~called, cases.negatives_of_class(NORMAL)),
        specificity_not_normal=_mean(~called, cases.negatives_of_class(NOT_NORMAL)),
        mix=mix.name,
        rsna_score_at_mix=_mean(scores, np.isfinite(scores), weights),
        specificity_at_mix=_mean(~called, ~positive, weights),
        ppv_at_mix=_mean(positive, called, weights),
    )


def _mean(
    values: Float64Array | BoolArray, among: BoolArray, weights: Float64Array | None = None
) -> float | None:
    """(Weighted) mean over some images; None without any."""
    if not among.any():
        return None
    own = None if weights is None else weights[among]
    return float(np.average(values[among], weights=own))


def _lower_end(hits: BoolArray, among: BoolArray, cases: EvaluationCases) -> float | None:
    return finite_or_none(share_interval(hits & among, among, cases.patients)[0])


def document(
    cases: EvaluationCases,
    model_hash: str | None = None,
    box_scale: float = 1.0,
    mix: ClassMix = RSNA_MIX,
    at_mix: bool = False,
) -> dict[str, Any]:
    """The content of operating_points.json, with the calibration fitted on the same images.

    Args:
        cases: Validation cases.
        model_hash: Hash of the model; a bundle with another hash refuses the thresholds.
        box_scale: Factor by which the boxes of `cases` were resized; 1 = as predicted.
        mix: Mix of classes of the metrics at a mix.
        at_mix: Choose the thresholds at the mix.
    """
    slope, intercept = fit_platt(cases.positive, cases.image_score)
    temperature = fit_temperature(cases.positive, cases.image_score)

    return {
        "schema": SCHEMA,
        "model_hash": model_hash,
        "selected_on": {
            "images": len(cases),
            "positive": int(cases.positive.sum()),
            "patients": cases.coverage.n_patients,
            "image_set": image_set_digest(cases.ids),
            **({"mix": mix.name} if at_mix else {}),
        },
        **({"box_scale": box_scale} if box_scale != 1.0 else {}),
        "points": {name: point_record(point) for name, point in choose(cases, mix, at_mix).items()},
        "calibration": {
            "platt_slope": finite_or_none(slope),
            "platt_intercept": finite_or_none(intercept),
            "temperature": finite_or_none(temperature),
        },
    }


def image_set_digest(ids: Iterable[str]) -> str:
    """Digest of a set of image ids, independent of their order: 16 hex digits."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def point_record(point: OperatingPoint) -> dict[str, Any]:
    """A point as a record of operating_points.json."""
    record = asdict(point)
    return {k: v for k, v in record.items() if v is not None or k not in BY_CLASS}


def read_points(path: str | Path) -> tuple[dict[str, OperatingPoint], dict[str, Any]]:
    """Read operating_points.json, given itself or its bundle, checkpoint or run folder.

    Returns:
        The points by name and the whole document.

    Raises:
        ArtefactError: Not readable, or a threshold that is not a number in 0..1.
    """
    file = points_file(path) or Path(path)
    content = read_json_object(str(file), "File of operating points")
    points = content.get("points")
    if not isinstance(points, dict):
        raise ArtefactError("No operating points", expected="'points'", where=str(file))
    return {name: _parse(record, f"{file}, point {name!r}") for name, record in points.items()}, (
        content
    )


def points_file(path: str | Path) -> Path | None:
    """The operating_points.json of a bundle, checkpoint or run folder.

    Returns:
        The file; `path` itself when it is not a folder; None when the folder has no such file.
    """
    place = Path(path)
    if not place.is_dir():
        return place
    # a run folder's points are in its best checkpoint
    for file in (place / OPERATING_POINTS, place / "best" / OPERATING_POINTS):
        if file.is_file():
            return file
    return None


def read_platt(document: Mapping[str, Any]) -> tuple[float, float] | None:
    """(slope, intercept) of the Platt scaling in operating_points.json; None = not available."""
    fitted = document.get("calibration")
    if not isinstance(fitted, Mapping):
        return None
    slope, intercept = fitted.get("platt_slope"), fitted.get("platt_intercept")
    if not isinstance(slope, int | float) or not isinstance(intercept, int | float):
        return None
    return (float(slope), float(intercept)) if np.isfinite([slope, intercept]).all() else None


def _parse(record: Any, where: str) -> OperatingPoint:
    value = record.get("threshold") if isinstance(record, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ArtefactError(
            "Threshold is not valid", expected="a number 0..1", found=repr(value), where=where
        )
    known = {name: record[name] for name in OperatingPoint.__annotations__ if name in record}
    return OperatingPoint(**{"rule": "given", **known, "threshold": float(value)})
