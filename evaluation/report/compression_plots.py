"""Figures of compression as PNG: Pareto front, per-layer rates, residuals, levels, arrays."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.report.plots import COLOURS, GRID, MARKS, new_figure

DOTS_PER_INCH = 110
MOST_BINS = 121
WIDE_SPAN = 100  # spans from which a logarithmic axis has room for two labels per decade
LABEL_PLACES = ((6, 5), (6, -12), (-6, 5), (-6, -12), (6, 16), (6, -23))  # offset, points
RATE_LABEL = "weights of the reference / stored weights"
MOST_LEVELS = 64  # more vertical lines than this hide the histogram


class ParetoPoint(NamedTuple):
    """A model's compression rate and accuracy; `low` and `high` are the interval of `value`."""

    name: str
    kind: str
    rate: float
    value: float
    low: float
    high: float


def to_png(figure: Any) -> bytes:
    """A figure as PNG bytes."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DOTS_PER_INCH)
    return image.getvalue()


def _plain_ticks(axis: Any, unit: str = "") -> None:
    """Label a logarithmic axis 1, 2, 5, 10 instead of powers of ten, without minor labels."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    wide = high > WIDE_SPAN * low
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}" + unit))
    axis.set_minor_formatter(NullFormatter())


def pareto_front(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """Points that no other point exceeds in both rate and accuracy, by ascending rate."""
    found: list[ParetoPoint] = []
    for point in sorted(points, key=lambda p: (-p.rate, -p.value)):
        if not found or point.value > found[-1].value:
            found.append(point)
    return found[::-1]


def plot_pareto(points: Sequence[ParetoPoint], metric: str, rate: str = RATE_LABEL) -> bytes:
    """Accuracy with its interval against pruning rate; one colour and mark per kind of model.

    A grey line connects the Pareto front.
    """
    figure, axes = new_figure(7.2, 4.6)
    kinds = list(dict.fromkeys(point.kind for point in points))
    for number, kind in enumerate(kinds):
        own = [point for point in points if point.kind == kind]
        values = np.array([point.value for point in own])
        bars = np.array([[p.value - p.low for p in own], [p.high - p.value for p in own]])
        axes.errorbar(
            [point.rate for point in own], values, yerr=np.nan_to_num(bars).clip(min=0),
            fmt=MARKS[number % len(MARKS)], color=COLOURS[number % len(COLOURS)],
            label=kind, capsize=3,
        )  # fmt: skip
    front = pareto_front(points)
    axes.plot(
        [p.rate for p in front], [p.value for p in front], color=GRID, linewidth=2.5, zorder=1,
        label="Pareto front",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel(rate)
    axes.set_ylabel(metric)
    axes.margins(x=0.15, y=0.15)
    axes.autoscale_view()
    _plain_ticks(axes.xaxis, "x")
    _label(figure, axes, points)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return to_png(figure)


def _label(figure: Any, axes: Any, points: Sequence[ParetoPoint]) -> None:
    """Write each point's name at the first place around it that overlaps no other name."""
    figure.canvas.draw()
    taken: list[Any] = []
    for point in points:
        box = None
        for dx, dy in LABEL_PLACES:
            text = axes.annotate(
                point.name, (point.rate, point.value), xytext=(dx, dy), fontsize=8,
                textcoords="offset points", ha="left" if dx > 0 else "right",
            )  # fmt: skip
            box = text.get_window_extent(figure.canvas.get_renderer())
            if not any(box.overlaps(other) for other in taken):
                break
            if (dx, dy) != LABEL_PLACES[-1]:
                text.remove()
        taken.append(box)


def plot_layer_rates(nominal: Mapping[str, float], realised: Mapping[str, float]) -> bytes:
    """Pruning rate of every layer: planned by the masks, and stored after dead-path removal."""
    figure, axes = new_figure(max(5.6, 0.16 * len(realised) + 1.5), 3.6)
    x = np.arange(len(realised))
    axes.bar(x, list(realised.values()), color=COLOURS[0], label="stored")
    planned = [nominal.get(name, np.nan) for name in realised]
    axes.plot(x, planned, "_", color=COLOURS[1], markersize=7, label="planned")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1.0)
    _plain_ticks(axes.yaxis, "x")
    step = max(1, len(x) // 40)
    axes.set_xticks(x[::step], list(realised)[::step], rotation=90, fontsize=7)
    axes.set_ylabel("pruning rate")
    axes.set_xlim(-1, len(x))
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def plot_residuals(updates: Sequence[int], series: Mapping[str, Sequence[float]]) -> bytes:
    """Residuals of ADMM over the Z-steps, one line per name."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, (name, values) in enumerate(series.items()):
        heights = np.maximum(values, 1e-6)
        axes.plot(updates, heights, MARKS[number] + "-", markersize=3, color=COLOURS[number],
                  label=name)  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("Z-step")
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def plot_weights(
    weights: Mapping[str, npt.NDArray[np.float32]], levels: Mapping[str, Sequence[float]]
) -> bytes:
    """Histogram of each layer's non-zero weights, with its levels as lines where there are few."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_wide = 3
    n_high = -(-len(weights) // n_wide)
    figure = Figure(figsize=(8.4, 1.9 * n_high + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(n_high, n_wide, squeeze=False).ravel()
    for axes in places[len(weights) :]:
        axes.set_visible(False)
    for axes, (name, weight) in zip(places, weights.items(), strict=False):
        alive = weight[weight != 0]
        bins = int(np.clip(2 * alive.size**0.5, 8, MOST_BINS))
        axes.hist(alive, bins=bins, color=COLOURS[0], log=alive.size > 0)
        if alive.size:
            axes.set_ylim(bottom=0.8)
            _plain_ticks(axes.yaxis)
        found = levels.get(name, ())
        if 0 < len(found) <= MOST_LEVELS:
            for level in found:
                axes.axvline(level, color=COLOURS[1], linewidth=0.8, alpha=0.6)
        axes.set_title(f"{name}: {alive.size:,} of {weight.size:,}", fontsize=8)
        axes.tick_params(labelsize=6)
    return to_png(figure)


def plot_arrays(used: Mapping[str, npt.NDArray[np.float64]], label: str) -> bytes:
    """Heat map of the arrays of every layer: one row per layer, its arrays side by side.

    Args:
        used: Layer -> share of each array's cells that hold a weight (n,), NaN = array saved.
        label: Of the colour bar.
    """
    from matplotlib.ticker import MaxNLocator

    width = max((len(values) for values in used.values()), default=1)
    grid = np.full((len(used), width), -1.0)
    for row, values in enumerate(used.values()):
        grid[row, : len(values)] = np.nan_to_num(values, nan=-0.5)
    figure, axes = new_figure(8.4, max(2.4, 0.15 * len(used) + 1.2))
    axes.grid(visible=False)
    shown = np.ma.masked_less(grid, 0)
    saved = np.ma.masked_where(grid != -0.5, np.ones_like(grid))
    axes.imshow(saved, cmap="Greys", vmin=0, vmax=8, aspect="auto", interpolation="nearest")
    picture = axes.imshow(
        shown, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    axes.set_yticks(range(len(used)), list(used), fontsize=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("number of the array within its layer (grey: saved)")
    figure.colorbar(picture, label=label, shrink=0.8)
    return to_png(figure)
