"""The report's figures as self-contained SVG text, without external fonts or scripts."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.analysis.catalogue import FROC_IOU, FROC_RATES, MatchedStudy
from evaluation.metrics.bootstrap import Estimate
from evaluation.metrics.calibration import ReliabilityBin
from evaluation.metrics.image_level import roc_curve
from evaluation.metrics.matching import Float64Array
from evaluation.metrics.ranking import froc_curve, precision_recall
from evaluation.study.operating_points import between_levels

# Okabe and Ito: distinguishable for colour-blind readers and, by lightness, in grey print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#1f2933"
GRID = "#d9dee4"
MARKS = ("o", "^", "s", "D", "v", "P")
PR_IOU = (0.40, 0.50, 0.75)
SWEEP_POINTS = 200


def new_figure(width_in: float = 5.6, height_in: float = 4.0) -> tuple[Any, Any]:
    """A matplotlib figure and its axes in the report's style, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Any, label: str) -> str:
    """A figure as inline SVG with a text alternative; the same figure gives the same text."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # several figures share one page: ids must be unique
    prefix = "f" + re.sub(r"\W+", "-", label)[:40] + "-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def plot_rsna_sweep(studies: Mapping[str, MatchedStudy]) -> str:
    """Challenge score against the score threshold, frozen thresholds marked."""
    figure, axes = new_figure()
    for (name, study), colour in zip(studies.items(), _cycle(studies), strict=True):
        levels = between_levels(np.concatenate([*study.cases.scores, np.zeros(0)]), SWEEP_POINTS)
        label = name if len(studies) > 1 else None
        axes.plot(levels, study.table.sweep(levels), color=colour, label=label)
        for (point, threshold), mark in zip(study.thresholds.items(), _marks(study), strict=True):
            value = float(study.table.sweep([threshold])[0])
            label = point.replace("_", " ") if len(studies) == 1 else None
            axes.plot([threshold], [value], mark, color=colour, markersize=7, label=label,
                      markeredgecolor="white")  # fmt: skip
    axes.set_xlabel("score threshold")
    axes.set_ylabel("RSNA challenge score")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return to_svg(figure, "RSNA score against threshold")


def plot_precision_recall(
    studies: Mapping[str, MatchedStudy], overlaps: Sequence[float] = PR_IOU
) -> str:
    """Precision-recall curves of boxes."""
    figure, axes = new_figure()
    lines = [(name, study, overlap) for name, study in studies.items() for overlap in overlaps]
    for (name, study, overlap), colour in zip(lines, _cycle(lines), strict=True):
        recall, precision, _ = precision_recall(study.ranking, overlap)
        label = f"IoU {overlap:.2f}" if len(studies) == 1 else f"{name}, IoU {overlap:.2f}"
        axes.plot(recall, precision, color=colour, label=label)
    axes.set_xlabel("recall: share of opacities found")
    axes.set_ylabel("precision: share of boxes that are right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=9)
    return to_svg(figure, "Precision and recall of boxes")


def plot_froc(
    studies: Mapping[str, MatchedStudy],
    estimates: Mapping[str, Estimate] | None = None,
    overlaps: Sequence[float] = FROC_IOU,
) -> str:
    """FROC curves with the intervals of the reported points (of a single study)."""
    figure, axes = new_figure()
    lines = [(name, study, overlap) for name, study in studies.items() for overlap in overlaps]
    for (name, study, overlap), colour in zip(lines, _cycle(lines), strict=True):
        rate, sensitivity, _ = froc_curve(study.ranking, overlap)
        if len(rate):  # a curve is constant beyond its last box
            rate, sensitivity = np.append(rate, 99.0), np.append(sensitivity, sensitivity[-1])
        label = f"IoU {overlap:.2f}" if len(studies) == 1 else f"{name}, IoU {overlap:.2f}"
        axes.plot(rate, sensitivity, color=colour, label=label, drawstyle="steps-post")
        for point in FROC_RATES if estimates else ():
            item = (estimates or {}).get(f"froc.iou_{overlap:.2f}.fp_{point:g}")
            if item is not None and np.isfinite(item.ci_low):
                axes.plot([point] * 2, [item.ci_low, item.ci_high], color=colour, linewidth=2.5,
                          alpha=0.5)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(FROC_RATES[0] / 1.3, FROC_RATES[-1] * 1.3)
    axes.set_xticks(FROC_RATES, ["1/16", "1/8", "1/4", "1/2", "1", "2"])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false boxes per image (all images)")
    axes.set_ylabel("share of opacities found")
    axes.legend(frameon=False, fontsize=9, loc="best")
    return to_svg(figure, "FROC")


def plot_roc(studies: Mapping[str, MatchedStudy]) -> str:
    """Image-level ROC with operating points."""
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle=":")
    for (name, study), colour in zip(studies.items(), _cycle(studies), strict=True):
        positive, scores = study.cases.positive, study.cases.image_score
        alarms, hits, _ = roc_curve(positive, scores)
        axes.plot(alarms, hits, color=colour, label=name if len(studies) > 1 else None)
        for (point, threshold), mark in zip(study.thresholds.items(), _marks(study), strict=True):
            called = scores >= threshold
            place = (_share(called[~positive]), _share(called[positive]))
            label = point.replace("_", " ") if len(studies) == 1 else None
            axes.plot(*place, mark, color=colour, markersize=7, label=label,
                      markeredgecolor="white")  # fmt: skip
    axes.set_xlim(-0.01, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("false alarm rate (1 - specificity)")
    axes.set_ylabel("sensitivity")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return to_svg(figure, "ROC of images")


def plot_reliability(bins: Sequence[ReliabilityBin], scores: Float64Array) -> str:
    """Observed share of positives against the mean score, with a histogram of the scores."""
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle=":", label="perfect")
    axes.plot(
        [b.mean_score for b in bins],
        [b.observed for b in bins],
        "o-",
        color=COLOURS[0],
        label="this model",
    )
    counts, edges = np.histogram(scores, bins=20, range=(0, 1))
    heights = counts / max(1, counts.max()) * 0.18
    axes.bar(edges[:-1], heights, width=0.05, align="edge", color=COLOURS[5], alpha=0.5,
             label="images")  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("image score")
    axes.set_ylabel("share that has an opacity")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return to_svg(figure, "Reliability")


def plot_intervals(
    rows: Sequence[tuple[str, Estimate]],
    label: str,
    axis: str,
    margins: Sequence[float | None] = (),
) -> str:
    """A forest plot: one value with its interval per row.

    Args:
        rows: (name, estimate) from top to bottom; rows that are not available are left out.
        label: Text alternative of the figure.
        axis: Label of the x axis.
        margins: Non-inferiority margin of each row, drawn at -margin; None = none.
    """
    stated = margins or [None] * len(rows)
    kept = [
        (row, margin)
        for row, margin in zip(rows, stated, strict=True)
        if np.isfinite(row[1].ci_low)
    ]
    known = [row for row, _ in kept]
    figure, axes = new_figure(6.4, 0.9 + 0.3 * max(1, len(known)))
    places = np.arange(len(known))[::-1]
    for place, (_, item) in zip(places, known, strict=True):
        apart = item.ci_low > 0 or item.ci_high < 0
        colour = COLOURS[1] if apart else COLOURS[0]
        axes.plot([item.ci_low, item.ci_high], [place] * 2, color=colour, linewidth=2)
        axes.plot([item.value], [place], "o", color=colour, markersize=5)
    axes.axvline(0, color=INK, linewidth=1)
    for place, (_, margin) in zip(places, kept, strict=True):
        if margin is not None:
            ends = [place - 0.35, place + 0.35]
            axes.plot([-margin] * 2, ends, color=COLOURS[3], linewidth=1.2, linestyle="--")
            axes.annotate(f"margin {margin:g}", (-margin, place + 0.38), fontsize=8,
                          color=COLOURS[3], ha="center", annotation_clip=False)  # fmt: skip
    axes.set_yticks(places, [name for name, _ in known])
    axes.set_ylim(-0.6, max(1, len(known)) - 0.3)
    axes.set_xlabel(axis)
    return to_svg(figure, label)


def plot_counts(counts: Mapping[str, int], label: str) -> str:
    """Horizontal bars of counts."""
    figure, axes = new_figure(5.6, 0.7 + 0.32 * max(1, len(counts)))
    places = np.arange(len(counts))[::-1]
    values = list(counts.values())
    axes.barh(places, values, color=COLOURS[0], height=0.65)
    for place, value in zip(places, values, strict=True):
        axes.annotate(f"{value:,}", (value, place), textcoords="offset points", xytext=(4, -3),
                      fontsize=9, color=INK)  # fmt: skip
    axes.set_yticks(places, [name.replace("_", " ") for name in counts])
    axes.margins(x=0.12)
    axes.set_xlabel("count")
    return to_svg(figure, label)


def _marks(study: MatchedStudy) -> list[str]:
    return [MARKS[index % len(MARKS)] for index in range(len(study.thresholds))]


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def _cycle(items: Any) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(items))]
