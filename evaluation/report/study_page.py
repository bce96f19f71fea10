"""`report.html`: the results of one study in one self-contained file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.analysis.evidence import StudyEvidence
from evaluation.analysis.failures import EXPLANATIONS, count_errors
from evaluation.analysis.subgroups import CELL_MIN, METRICS
from evaluation.report import plots, wording
from evaluation.report.claim import fill_checklist
from evaluation.report.cohort_table import describe_cohort
from evaluation.report.first_page import first_page, mix_rows
from evaluation.report.model_card import limits
from evaluation.report.overlays import OverlayTile, case_tile
from evaluation.report.page import ExtraSection, metric_line, metric_lines, render
from evaluation.study.perturb import perturbation_text
from pneumonia.runtime.atomic import write_text

HEADLINE = ("coco.ap50", "image.auroc")
WORST_TITLES = {
    "missed": "Missed: positive images with the lowest score",
    "alarms": "False alarms: negative images with the highest score",
    "misplaced": "Misplaced: rightly called positive, with boxes that fit badly",
}


@dataclass(frozen=True)
class OverlayGallery:
    """Worst cases of one kind."""

    title: str
    tiles: Sequence[OverlayTile] = field(default_factory=tuple)


@dataclass(frozen=True)
class SummaryCard:
    """A metric at the top of the page, in the study and at the mix of classes (empty without)."""

    name: str
    value: str
    interval: str
    at_mix: str


def write_report(
    path: str | Path,
    evidence: StudyEvidence,
    image_folder: str | Path | None = None,
    extra: Sequence[ExtraSection] = (),
) -> None:
    """Write report.html.

    Args:
        path: The file.
        evidence: Results of the study.
        image_folder: Radiographs for the worst cases; None = boxes on blank frames.
        extra: Sections added at the end.

    Raises:
        OutputError: The file cannot be written.
    """
    study, point = evidence.study, evidence.thresholds.primary
    subgroups = _subgroup_rows(evidence)
    context = {
        "title": "Evaluation report",
        "evidence": evidence,
        "coverage": study.cases.coverage,
        "n_positive": int(study.cases.positive.sum()),
        "n_truths": int(study.cases.n_truths.sum()),
        "point": point,
        "optimistic": evidence.thresholds.is_optimistic,
        "cards": _cards(evidence),
        "questions": first_page(evidence),
        "mix_rows": mix_rows(evidence),
        "cohort": describe_cohort(study.cases),
        "detection": metric_lines(evidence.estimates, "coco."),
        "froc": metric_lines(evidence.estimates, "froc."),
        "images": metric_lines(evidence.estimates, "image."),
        "calibration": metric_lines(evidence.estimates, "calibration."),
        "points": _point_columns(evidence),
        "figures": _figures(evidence),
        "subgroups": subgroups,
        "any_group_shown": any(cell["shown"] for row in subgroups for cell in row["cells"]),
        "cell_min": CELL_MIN,
        "n_compared": sum(len(group.p_values) for group in evidence.groups),
        "n_survive": sum(len(group.survives) for group in evidence.groups),
        "failures": count_errors(evidence.errors),
        "explanations": EXPLANATIONS,
        "galleries": _galleries(evidence, image_folder),
        "has_images": image_folder is not None,
        "robustness": _robustness_rows(evidence),
        "checklist": fill_checklist(evidence),
        "limits": limits(evidence),
        "extra": extra,
    }
    write_text(str(path), render("report.html.j2", context))


def _cards(evidence: StudyEvidence) -> list[SummaryCard]:
    """The metrics at the top of the page."""
    point = evidence.thresholds.primary
    suffix = f" at {wording.point_name(point)}"
    at_mix = {} if evidence.at_mix is None else evidence.at_mix.estimates
    cards = []
    for metric in (f"rsna.{point}", *HEADLINE, f"{point}.sensitivity", f"{point}.specificity"):
        row = metric_line(metric, evidence.estimates[metric])
        weighted = wording.value_text(at_mix[metric], wording.is_share(metric)) if at_mix else ""
        cards.append(SummaryCard(row.name.removesuffix(suffix), row.value, row.interval, weighted))
    return cards


def _point_columns(evidence: StudyEvidence) -> list[dict[str, Any]]:
    """One column of metrics per operating point."""
    columns = []
    for name, point in evidence.thresholds.points.items():
        chosen = [f"rsna.{name}", *wording.pick(evidence.estimates, f"{name}.")]
        lines = [metric_line(metric, evidence.estimates[metric]) for metric in chosen]
        suffix = f" at {wording.point_name(name)}"
        rows = {line.name.removesuffix(suffix): line for line in lines}
        columns.append({"name": name, "point": point, "rows": rows})
    return columns


def _figures(evidence: StudyEvidence) -> dict[str, Any]:
    from markupsafe import Markup

    one = {"model": evidence.study}
    counts = count_errors(evidence.errors)
    figures = {
        "sweep": plots.plot_rsna_sweep(one),
        "pr": plots.plot_precision_recall(one),
        "froc": plots.plot_froc(one, evidence.estimates),
        "roc": plots.plot_roc(one),
        "reliability": plots.plot_reliability(evidence.bins, evidence.study.cases.image_score),
        "truths": plots.plot_counts(counts["truths"], "Opacities by outcome"),
        "boxes": plots.plot_counts(counts["boxes"], "Boxes by outcome"),
    }
    for metric in METRICS:
        rows = [
            (f"{group.facet}: {group.name}", group.gaps[metric])
            for group in evidence.groups
            if metric in group.gaps
        ]
        if any(item.ci_low == item.ci_low for _, item in rows):
            name = wording.name_of(metric)
            figures[f"gap_{metric}"] = plots.plot_intervals(
                rows, f"Gap by subgroup {name}", f"{name}: group minus all"
            )
    return {name: Markup(svg) for name, svg in figures.items()}


def _subgroup_rows(evidence: StudyEvidence) -> list[dict[str, Any]]:
    rows = []
    for group in evidence.groups:
        cells = []
        for metric in METRICS:
            item, share = group.values[metric], wording.is_share(metric)
            star = " *" if metric in group.survives else ""
            cells.append(
                {
                    "value": wording.value_text(item, share) + star,
                    "interval": wording.interval_text(item, share),
                    "shown": item.value == item.value,
                }
            )
        rows.append({"group": group, "cells": cells})
    return rows


def _robustness_rows(evidence: StudyEvidence) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "text": perturbation_text(row.name),
            "cells": [
                {
                    "value": wording.value_text(item, wording.is_share(metric)),
                    "delta": wording.value_text(row.deltas[metric], wording.is_share(metric), True),
                    "interval": wording.interval_text(
                        row.deltas[metric], wording.is_share(metric), True
                    ),
                }
                for metric, item in row.values.items()
            ],
        }
        for row in evidence.robustness
    ]


def _galleries(evidence: StudyEvidence, folder: str | Path | None) -> list[OverlayGallery]:
    threshold = evidence.study.thresholds[evidence.thresholds.primary]
    worst = evidence.worst
    return [
        OverlayGallery(
            title,
            [
                case_tile(evidence.study.cases, evidence.errors[index], threshold, folder)
                for index in getattr(worst, kind)
            ],
        )
        for kind, title in WORST_TITLES.items()
    ]
