"""Results of a study as machine-readable files: metrics.json and csv tables."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.analysis.catalogue import FROC_IOU
from evaluation.analysis.evidence import StudyEvidence
from evaluation.analysis.failures import EXPLANATIONS, count_errors
from evaluation.analysis.paired import ModelComparison
from evaluation.metrics.bootstrap import Estimate, estimate_json, finite_or_none
from evaluation.metrics.image_level import roc_curve
from evaluation.metrics.ranking import froc_curve, precision_recall
from evaluation.report.plots import PR_IOU
from evaluation.study.operating_points import point_record
from evaluation.study.submission import write_submission
from pneumonia.runtime.atomic import write_json, write_text
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.label_table import NORMAL
from pneumonia.runtime.model.predictions import Prediction, write_predictions

METRICS_SCHEMA = "pneumonia.metrics/1"
COMPARE_SCHEMA = "pneumonia.compare/1"
CURVE_POINTS = 2000  # most points written per curve
ESTIMATE = ("value", "ci_low", "ci_high", "n", "method")


def write_tables(evidence: StudyEvidence, out: str | Path) -> None:
    """Write metrics.json, predictions.csv, submission.csv and every csv table into a folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = Path(out)
    write_json(str(folder / "metrics.json"), metrics_document(evidence))
    _write_predictions(evidence, folder)
    _write_curves(evidence, folder)
    _write_groups(evidence, folder)
    _write_failures(evidence, folder / "failures")
    write_csv(folder / "operating_points.csv", *_point_table(evidence))
    if evidence.robustness:
        header = ("perturbation", "metric", *ESTIMATE, "delta", "delta_low", "delta_high")
        rows = [
            (row.name, metric, *_cells(value), *_cells(row.deltas[metric])[:3])
            for row in evidence.robustness
            for metric, value in row.values.items()
        ]
        write_csv(folder / "robustness.csv", header, rows)


def metrics_document(evidence: StudyEvidence) -> dict[str, Any]:
    """The content of metrics.json; a metric that is not available has value null."""
    cases = evidence.study.cases
    return {
        "schema": METRICS_SCHEMA,
        "disclaimer": DISCLAIMER,
        "model": {
            "name": evidence.provenance.model_name,
            "hash": evidence.provenance.model_hash,
        },
        "inputs": dict(evidence.provenance.files),
        "versions": dict(evidence.provenance.versions),
        "coverage": asdict(cases.coverage),
        "positive_images": int(cases.positive.sum()),
        "truth_boxes": int(cases.n_truths.sum()),
        "image_score": "highest box score of the image, 0 without a box",
        "thresholds_origin": evidence.thresholds.origin,
        "primary_point": evidence.thresholds.primary,
        "operating_points": {
            name: point_record(point) for name, point in evidence.thresholds.points.items()
        },
        "box_scale": evidence.thresholds.box_scale,
        "draws": evidence.draws,
        "design": evidence.design,
        "seed": evidence.seed,
        "metrics": {
            name: {**estimate_json(item), "seed": evidence.seed}
            for name, item in evidence.estimates.items()
        },
        "at_mix": _mix_document(evidence),
    }


def _mix_document(evidence: StudyEvidence) -> dict[str, Any] | None:
    """Results at the mix of classes; None when they cannot be computed."""
    found = evidence.at_mix
    if found is None:
        return None
    normal, not_normal, opacity = found.mix.shares
    return {
        "mix": {
            "name": found.mix.name,
            "opacity": opacity,
            "not_normal": not_normal,
            "normal": normal,
        },
        "effective_images": found.effective_images,
        "metrics": {
            name: {**estimate_json(item), "seed": evidence.seed}
            for name, item in found.estimates.items()
        },
    }


def compare_document(
    comparisons: Sequence[ModelComparison],
    facts: dict[str, Any],
    seed: int,
    at_mix: Sequence[ModelComparison] = (),
) -> dict[str, Any]:
    """The content of compare.json.

    Args:
        comparisons: In the study.
        facts: Settings of the comparison and cost of the models, at the top of the document.
        seed: Seed of the draws.
        at_mix: The same comparisons at the mix of classes named in `facts`; empty = none.
    """
    mixed = {item.model: item for item in at_mix}
    return {
        "schema": COMPARE_SCHEMA,
        "disclaimer": DISCLAIMER,
        "seed": seed,
        **facts,
        "comparisons": [
            {
                "model": item.model,
                "reference": item.reference,
                "metrics": _differences_document(item),
                "at_mix": _differences_document(mixed[item.model]) if item.model in mixed else None,
                "groups": [
                    {
                        "facet": row.facet,
                        "name": row.name,
                        "n": row.n,
                        "n_positive": row.n_positive,
                        "metric": row.metric,
                        "delta": estimate_json(row.delta),
                        "p": finite_or_none(row.p_value),
                        "survives_holm": row.survives,
                    }
                    for row in item.groups
                ],
            }
            for item in comparisons
        ],
    }


def _differences_document(comparison: ModelComparison) -> dict[str, Any]:
    return {
        name: {
            "value": estimate_json(row.value),
            "reference": estimate_json(row.reference),
            "delta": estimate_json(row.delta),
            "margin": row.margin,
            "verdict": row.verdict,
            "patients_needed": row.patients_needed,
        }
        for name, row in comparison.differences.items()
    }


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a csv atomically; floats with 6 significant digits, NaN and None as empty."""
    write_text(str(path), csv_text(header, ([_cell(value) for value in row] for row in rows)))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}" if np.isfinite(value) else ""
    return str(value)


def _cells(item: Estimate) -> tuple[object, ...]:
    return item.value, item.ci_low, item.ci_high, item.n, item.method


def _write_predictions(evidence: StudyEvidence, folder: Path) -> None:
    cases = evidence.study.cases
    rows = [
        Prediction(
            image_id,
            (boxes / np.tile(scale, 2)).astype(np.float32),
            scores.astype(np.float32),
            int(size[0]),
            int(size[1]),
        )
        for image_id, boxes, scores, size, scale in zip(
            cases.ids, cases.boxes, cases.scores, cases.sizes, cases.scales, strict=True
        )
    ]
    write_predictions(str(folder / "predictions.csv"), rows)
    threshold = evidence.study.thresholds[evidence.thresholds.primary]
    write_submission(folder / "submission.csv", cases.boxes_by_id(), threshold)


def _write_curves(evidence: StudyEvidence, folder: Path) -> None:
    study = evidence.study
    rows: list[tuple[object, ...]] = []
    for overlap in PR_IOU:
        curve = precision_recall(study.ranking, overlap)
        rows += [(overlap, *point) for point in _thin(*curve)]
    write_csv(folder / "pr.csv", ("iou", "recall", "precision", "score"), rows)
    rows = []
    counted = {"all": None}
    normal = study.cases.negatives_of_class(NORMAL)
    groups = {**counted, **({"normal": normal} if normal.any() else {})}
    for overlap in FROC_IOU:
        for name, mask in groups.items():
            curve = froc_curve(study.ranking, overlap, mask)
            rows += [(overlap, name, *point) for point in _thin(*curve)]
    write_csv(
        folder / "froc.csv",
        ("iou", "images", "false_positives_per_image", "sensitivity", "score"),
        rows,
    )
    alarms, hits, scores = roc_curve(study.cases.positive, study.cases.image_score)
    header = ("false_positive_rate", "sensitivity", "score")
    write_csv(folder / "roc.csv", header, _thin(alarms, hits, scores))
    bins = [(b.low, b.high, b.mean_score, b.observed, b.n) for b in evidence.bins]
    write_csv(
        folder / "calibration.csv",
        ("score_low", "score_high", "mean_score", "observed", "n"),
        bins,
    )


def _thin(*columns: np.ndarray) -> list[tuple[float, ...]]:
    """Rows of a curve, evenly thinned to at most CURVE_POINTS (both ends kept)."""
    n = len(columns[0])
    index = np.unique(np.linspace(0, max(0, n - 1), min(n, CURVE_POINTS)).round().astype(int))
    return [tuple(float(column[i]) for column in columns) for i in index]


def _write_groups(evidence: StudyEvidence, folder: Path) -> None:
    header = ("facet", "group", "images", "positive", "metric", *ESTIMATE)
    rows = [
        (
            g.facet,
            g.name,
            g.n,
            g.n_positive,
            metric,
            *_cells(value),
            *_cells(g.gaps[metric])[:3],
            g.p_values.get(metric),
            int(metric in g.survives),
        )
        for g in evidence.groups
        for metric, value in g.values.items()
    ]
    write_csv(
        folder / "subgroups.csv",
        (*header, "gap", "gap_low", "gap_high", "p", "survives_holm"),
        rows,
    )


def _write_failures(evidence: StudyEvidence, folder: Path) -> None:
    cases = evidence.study.cases
    counts = count_errors(evidence.errors)
    rows: list[tuple[object, ...]] = [
        (kind, name, count, EXPLANATIONS[name])
        for kind, group in counts.items()
        for name, count in group.items()
    ]
    write_csv(folder / "counts.csv", ("of", "type", "count", "meaning"), rows)
    scores = evidence.study.table.image_scores(
        evidence.study.thresholds[evidence.thresholds.primary]
    )
    rows = [
        (
            cases.ids[item.image],
            int(bool(item.truth_types)),
            cases.image_score[item.image],
            scores[item.image],
            " ".join(item.truth_types),
            " ".join(item.box_types),
        )
        for item in evidence.errors
    ]
    header = ("image_id", "positive", "image_score", "rsna_score", "truths", "boxes")
    write_csv(folder / "images.csv", header, rows)
    rows = [
        (kind, place + 1, cases.ids[index], cases.image_score[index])
        for kind, indices in asdict(evidence.worst).items()
        for place, index in enumerate(indices)
    ]
    write_csv(folder / "worst.csv", ("kind", "rank", "image_id", "image_score"), rows)


def _point_table(evidence: StudyEvidence) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    rows: list[tuple[object, ...]] = []
    for name, point in evidence.thresholds.points.items():
        for metric, item in evidence.estimates.items():
            if metric.startswith(f"{name}.") or metric == f"rsna.{name}":
                short = "rsna_score" if metric == f"rsna.{name}" else metric[len(name) + 1 :]
                rows.append((name, point.threshold, short, *_cells(item)))
    return ("point", "threshold", "metric", *ESTIMATE), rows
