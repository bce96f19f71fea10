"""What a compression leaves to read: plan of the layers, metrics, residuals and their plot."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia.compression.admm.hook import COLUMNS, read_rows
from pneumonia.compression.phase import ADMM, RETRAIN, SNAP, STRAIGHT_THROUGH
from pneumonia.network.accounting import NetworkAccount
from pneumonia.runs.names import METRICS_TABLE, RESIDUALS_TABLE
from pneumonia.runtime.atomic import write_bytes, write_text
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.training.journal import read_metrics

RESIDUALS_PNG = "residuals.png"


def write_history(out: Path, stages: Sequence[Path]) -> None:
    """Join the stages' metrics.csv and residuals.csv into those of the run, with a plot.

    metrics.csv counts epochs through all stages; `stage` is the stage's number and `masked` 0 in
    ADMM, 1 in the training after it, which holds weights at zero or on their levels.
    """
    metrics: list[dict[str, float]] = []
    residuals: list[tuple[object, ...]] = []
    for number, folder in enumerate(stages, 1):
        residuals += [(number, *row) for row in read_rows(folder / ADMM)]
        for phase, masked in ((ADMM, 0), (RETRAIN, 1), (STRAIGHT_THROUGH, 1), (SNAP, 1)):
            for row in read_metrics(folder / phase / METRICS_TABLE):
                epoch = float(len(metrics) + 1)
                metrics.append({**row, "epoch": epoch, "stage": number, "masked": masked})
    columns = list(dict.fromkeys(key for row in metrics for key in row))
    write_text(
        str(out / METRICS_TABLE),
        csv_text(columns, [[_cell(row.get(key)) for key in columns] for row in metrics]),
    )
    write_text(str(out / RESIDUALS_TABLE), csv_text(["stage", *COLUMNS], residuals))
    if residuals:
        _plot_residuals(out / RESIDUALS_PNG, residuals)


def planned_layers(before: NetworkAccount, plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a pruning planned for each convolution or linear layer, for compression.json.

    Args:
        before: Account of the network before pruning.
        plan: `plan.json` of the last stage.
    """
    nominal = nominal_weights(plan)
    found = {}
    for row in before.layers:
        if row.weights:
            planned = plan["layers"].get(row.name, {})
            found[row.name] = {
                "nominal_rate": row.kept_weights / max(nominal.get(row.name, row.kept_weights), 1),
                "constraint": {k: v for k, v in planned.items() if k != "kept_weights"},
            }
    return found


def nominal_weights(plan: Mapping[str, Any]) -> dict[str, int]:
    """Layer -> weights inside the masks as projected, before dead paths were removed."""
    settled = {name: row["kept_weights"] for name, row in plan["layers"].items()}
    return {**settled, **plan.get("nominal_weights", {})}  # not in plans of older runs


def nominal_mac_rate(dense: NetworkAccount, plan: Mapping[str, Any]) -> float:
    """Multiply-accumulates before / those of the weights inside the masks as projected."""
    nominal = nominal_weights(plan)
    inside = 0.0
    for row in dense.layers:
        if row.weights:
            inside += row.macs / row.weights * nominal.get(row.name, row.kept_weights)
    return dense.totals.kept_macs / inside


def _cell(value: float | None) -> float | str:
    if value is None:
        return ""
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else value


def _plot_residuals(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Largest and median residual over the layers at every Z-step, stages one after another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = list(dict.fromkeys((row[0], row[1]) for row in rows))
    values = {step: [] for step in steps}  # type: dict[Any, list[tuple[float, ...]]]
    for row in rows:
        values[row[0], row[1]].append(tuple(float(str(cell)) for cell in row[6:9]))
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(1, len(steps) + 1)
    for column, name in enumerate(("primal ||W-Z|| / ||W||", "dual", "churn")):
        series = [np.array([v[column] for v in values[step]]) for step in steps]
        (line,) = axes.plot(x, [max(s.max(), 1e-6) for s in series], label=f"{name}, worst layer")
        axes.plot(
            x,
            [max(float(np.median(s)), 1e-6) for s in series],
            color=line.get_color(),
            linestyle=":",
            label=f"{name}, median",
        )
    for step in range(1, len(steps)):
        if steps[step][0] != steps[step - 1][0]:
            axes.axvline(step + 0.5, color="grey", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xlabel("Z-step")
    axes.set_title("ADMM residuals")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    write_bytes(str(path), image.getvalue())
