"""Pictures of compression as PNG: Pareto front, per-layer rates, residuals, levels, arrays."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.plots import COLOURS, MARKS, new_figure

DOTS_PER_INCH = 110
BINS = 121
MOST_LEVELS = 64  # more vertical lines than this hide the histogram


class Point(NamedTuple):
    """A model in the plane of rate and accuracy; `low` and `high` are its interval."""

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


def plot_pareto(points: Sequence[Point], metric: str) -> bytes:
    """Accuracy against pruning rate; a colour and a mark for each kind, interval as a bar."""
    figure, axes = new_figure()
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
        for point in own:
            axes.annotate(
                point.name, (point.rate, point.value), xytext=(5, 5),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("weights of the reference / stored weights")
    axes.set_ylabel(metric)
    axes.margins(x=0.15, y=0.15)
    axes.legend(frameon=False, fontsize=9)
    return to_png(figure)


def plot_layer_rates(nominal: Mapping[str, float], realised: Mapping[str, float]) -> bytes:
    """Pruning rate of every layer: planned by the masks, and stored after dead paths are gone."""
    figure, axes = new_figure(max(5.6, 0.16 * len(realised) + 1.5), 3.6)
    x = np.arange(len(realised))
    axes.bar(x, list(realised.values()), color=COLOURS[0], label="stored")
    planned = [nominal.get(name, np.nan) for name in realised]
    axes.plot(x, planned, "_", color=COLOURS[1], markersize=7, label="planned")
    axes.set_yscale("log")
    step = max(1, len(x) // 40)
    axes.set_xticks(x[::step], list(realised)[::step], rotation=90, fontsize=7)
    axes.set_ylabel("pruning rate")
    axes.set_xlim(-1, len(x))
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def plot_residuals(updates: Sequence[int], series: Mapping[str, Sequence[float]]) -> bytes:
    """Residuals of ADMM over the Z-steps, one line per name."""
    figure, axes = new_figure()
    for number, (name, values) in enumerate(series.items()):
        axes.plot(updates, np.maximum(values, 1e-6), color=COLOURS[number % 6], label=name)
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
        axes.hist(alive, bins=BINS, color=COLOURS[0], log=alive.size > 0)
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
    axes.set_xlabel("arrays of the dense layer (grey: saved)")
    figure.colorbar(picture, label=label, shrink=0.8)
    return to_png(figure)
