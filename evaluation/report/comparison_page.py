"""`compare.html`: several models on the same images, in one self-contained file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.analysis.catalogue import MatchedStudy
from evaluation.analysis.evidence import StudyThresholds
from evaluation.analysis.failures import find_errors
from evaluation.analysis.paired import NON_INFERIOR, MetricDifference, ModelComparison
from evaluation.analysis.subgroups import CELL_MIN, METRICS
from evaluation.hardware.footprint import Footprint
from evaluation.report import plots, wording
from evaluation.report.overlays import case_tile
from evaluation.report.page import ExtraSection, render
from evaluation.study.class_mix import ClassMix
from pneumonia.runtime.atomic import write_text

MOST_HARMED = 3  # subgroups named
MOST_CHANGED = 6  # images shown


@dataclass(frozen=True)
class CompareReport:
    """Content of `compare.html`.

    Attributes:
        studies: Name -> study, the reference first.
        comparisons: One per further model.
        footprints: Name -> cost; the cost of a model without one is shown as "not available".
        thresholds: Name -> its operating points.
        point: Operating point of the table and the subgroups.
        draws: Of the bootstrap.
        seed: Of the bootstrap.
        at_mix: The same comparisons at the mix of classes; empty when a class is not known.
        mix: That mix of classes.
        why_no_mix: Reason why `at_mix` is empty; empty otherwise.
        extra: Sections added at the end.
        image_folder: Folder of the radiographs for side-by-side overlays; None = blank frames.
    """

    studies: Mapping[str, MatchedStudy]
    comparisons: Sequence[ModelComparison]
    footprints: Mapping[str, Footprint]
    thresholds: Mapping[str, StudyThresholds]
    point: str
    draws: int
    seed: int
    at_mix: Sequence[ModelComparison] = ()
    mix: ClassMix | None = None
    why_no_mix: str = ""
    extra: Sequence[ExtraSection] = ()
    image_folder: str | Path | None = None


def write_compare_report(path: str | Path, report: CompareReport) -> None:
    """Write compare.html.

    Raises:
        OutputError: The file cannot be written.
    """
    first = next(iter(report.studies))
    context = {
        "title": "Comparison of models",
        "report": report,
        "names": list(report.studies),
        "reference": first,
        "cases": report.studies[first].cases,
        "point": report.point,
        "summaries": [_summary(report, item) for item in report.comparisons],
        "costs": _cost_rows(report),
        "scaled": any(item.box_scale != 1.0 for item in report.thresholds.values()),
        "cost_notes": sorted({f.note for f in report.footprints.values() if f.note}),
        "optimistic": any(t.is_optimistic for t in report.thresholds.values()),
        "tables": [_difference_rows(item, report.point) for item in report.comparisons],
        "mix_tables": [_difference_rows(item, report.point) for item in report.at_mix],
        "n_compared": [_n_compared(item) for item in report.comparisons],
        "figures": _compare_figures(report),
        "groups": [_group_table(item) for item in report.comparisons],
        "group_metrics": [wording.name_of(metric) for metric in METRICS],
        "cell_min": CELL_MIN,
        "pairs": _changed_cases(report),
        "has_images": report.image_folder is not None,
        "extra": report.extra,
    }
    write_text(str(path), render("compare.html.j2", context))


def _summary(report: CompareReport, comparison: ModelComparison) -> dict[str, Any]:
    """A model against the reference in one sentence, and its verdicts."""
    base = report.footprints.get(comparison.reference, Footprint())
    own = report.footprints.get(comparison.model, Footprint())
    savings = []
    for title, key in (
        ("fewer parameters", "parameters"),
        ("fewer multiply-accumulates", "macs"),
        ("smaller weights file", "file_bytes"),
        ("shorter time per image", "latency_ms"),
    ):
        before, after = getattr(base, key), getattr(own, key)
        if before and after:
            savings.append(f"{before / after:.1f}\N{MULTIPLICATION SIGN} {title}")
    verdicts = _verdicts(comparison, report.point, "in this study")
    if report.mix is not None:
        for item in report.at_mix:
            if item.model == comparison.model:
                verdicts += _verdicts(item, report.point, f"at the mix of {report.mix.name}")
    return {
        "model": comparison.model,
        "savings": ", ".join(savings),
        "verdicts": verdicts,
        "harmed": _harmed_groups(comparison),
    }


def _verdicts(comparison: ModelComparison, point: str, where: str) -> list[dict[str, Any]]:
    """RSNA score and AUROC of a comparison as sentences."""
    verdicts = []
    for metric in (f"rsna.{point}", "image.auroc"):
        row = comparison.differences.get(metric)
        if row is not None:
            interval = wording.interval_text(row.delta, sign=True) or "no interval"
            verdicts.append(
                {
                    "name": f"{wording.name_of(metric)}, {where}",
                    "text": f"{wording.value_text(row.reference)} to "
                    f"{wording.value_text(row.value)}, difference "
                    f"{wording.value_text(row.delta, sign=True)} ({interval})",
                    "verdict": row.verdict,
                    "badge": badge_class(row.verdict),
                    "needed": patients_text(row),
                }
            )
    return verdicts


def badge_class(verdict: str) -> str:
    """CSS class of a verdict."""
    return verdict.partition(":")[0].replace(" ", "-")


def patients_text(row: MetricDifference) -> str:
    """Sentence on the patients that the margin needs; empty if non-inferior or without a margin."""
    if row.margin is None or row.verdict == NON_INFERIOR:
        return ""
    if row.patients_needed is None:
        return f"The number of patients that a margin of {row.margin:g} needs cannot be estimated."
    return (
        f"A margin of {row.margin:g} needs about {row.patients_needed:,} such patients if the"
        " models are equal (80 % chance of a verdict)."
    )


def _n_compared(comparison: ModelComparison) -> int:
    return sum(bool(np.isfinite(item.p_value)) for item in comparison.groups)


def _harmed_groups(comparison: ModelComparison) -> list[str]:
    """The groups with the largest loss among those significant after Holm's correction, as text."""
    lost = [item for item in comparison.groups if item.survives and item.delta.value < 0]
    texts = []
    for item in sorted(lost, key=lambda item: item.delta.value)[:MOST_HARMED]:
        share = wording.is_share(item.metric)
        texts.append(
            f"{item.facet} {item.name}: {wording.name_of(item.metric)} "
            f"{wording.value_text(item.delta, share, True)} "
            f"({wording.interval_text(item.delta, share, True)})"
        )
    return texts


def _cost_rows(report: CompareReport) -> list[dict[str, Any]]:
    """Cost of every model, with the ratio to the reference."""
    first = next(iter(report.studies))
    rows = []
    for title, key, unit in (
        ("Stored parameters", "parameters", ""),
        ("Multiply-accumulates per image", "macs", ""),
        ("Weights file", "file_bytes", "B"),
        ("Latency per image", "latency_ms", "ms"),
        ("Energy per image", "energy_mj", "mJ"),
    ):
        cells = []
        base = getattr(report.footprints.get(first, Footprint()), key)
        for name in report.studies:
            value = getattr(report.footprints.get(name, Footprint()), key)
            text = (
                wording.count_text(value, unit)
                if unit not in ("ms", "mJ") or value is None
                else f"{value:.2f} {unit}"
            )
            ratio = (
                f"{base / value:.2f}\N{MULTIPLICATION SIGN} less"
                if value and base and name != first
                else ""
            )
            cells.append((text, ratio))
        rows.append({"title": title, "cells": cells})
    return rows


def _difference_rows(comparison: ModelComparison, point: str) -> dict[str, Any]:
    wanted = (
        f"rsna.{point}",
        "coco.",
        "image.",
        f"{point}.sensitivity",
        f"{point}.specificity",
        f"{point}.box_sensitivity",
        f"{point}.false_boxes_per_image",
        "calibration.",
    )
    rows = []
    for metric, row in comparison.differences.items():
        if not metric.startswith(wanted):
            continue
        share = wording.is_share(metric)
        rows.append(
            {
                "name": wording.name_of(metric),
                "reference": wording.value_text(row.reference, share),
                "reference_interval": wording.interval_text(row.reference, share),
                "value": wording.value_text(row.value, share),
                "interval": wording.interval_text(row.value, share),
                "delta": wording.value_text(row.delta, share, True),
                "delta_interval": wording.interval_text(row.delta, share, True),
                "margin": "" if row.margin is None else f"{row.margin:g}",
                "verdict": row.verdict,
                "badge": badge_class(row.verdict),
                "needed": "" if row.patients_needed is None else f"{row.patients_needed:,}",
            }
        )
    return {"comparison": comparison, "rows": rows}


def _compare_figures(report: CompareReport) -> dict[str, Any]:
    from markupsafe import Markup

    studies = report.studies
    figures = {
        "sweep": plots.plot_rsna_sweep(studies),
        "pr": plots.plot_precision_recall(studies, (0.50,)),
        "froc": plots.plot_froc(studies, None, (0.40,)),
        "roc": plots.plot_roc(studies),
    }
    for number, item in enumerate(report.comparisons):
        rows = [
            (wording.name_of(metric), row.delta)
            for metric, row in item.differences.items()
            if row.margin is not None and metric in (f"rsna.{report.point}", "image.auroc")
        ]
        margins = [
            item.differences[metric].margin
            for metric in (f"rsna.{report.point}", "image.auroc")
            if metric in item.differences and item.differences[metric].margin is not None
        ]
        figures[f"margin_{number}"] = plots.plot_intervals(
            rows,
            f"Difference of {item.model} to {item.reference}",
            f"{item.model} minus {item.reference}",
            margins=margins,
        )
    return {name: Markup(svg) for name, svg in figures.items()}


def _group_table(comparison: ModelComparison) -> dict[str, Any]:
    rows: dict[tuple[str, str, int, int], list[tuple[str, str]]] = {}
    for item in comparison.groups:
        share = wording.is_share(item.metric)
        rows.setdefault((item.facet, item.name, item.n, item.n_positive), []).append(
            (
                wording.value_text(item.delta, share, True),
                wording.interval_text(item.delta, share, True)
                + (" \N{ASTERISK}" if item.survives else ""),
            )
        )
    shown = any(np.isfinite(item.delta.value) for item in comparison.groups)
    return {"model": comparison.model, "rows": rows, "any_shown": shown}


def _changed_cases(report: CompareReport) -> list[dict[str, Any]]:
    """Images whose challenge score falls most from the reference to the last model."""
    names = list(report.studies)
    first, last = report.studies[names[0]], report.studies[names[-1]]
    scores = [
        np.nan_to_num(study.table.image_scores(study.thresholds[report.point]), nan=1.0)
        for study in (first, last)
    ]
    fall = scores[0] - scores[1]
    chosen = [int(i) for i in np.argsort(-fall, kind="stable")[:MOST_CHANGED] if fall[i] > 0]
    pairs = []
    for index in chosen:
        tiles = []
        for name, study in ((names[0], first), (names[-1], last)):
            threshold = study.thresholds[report.point]
            errors = find_errors(study.cases, threshold)[index]
            tile = case_tile(study.cases, errors, threshold, report.image_folder)
            tiles.append((name, tile))
        pairs.append({"title": first.cases.ids[index], "tiles": tiles})
    return pairs
