"""Metrics of a run: metrics.csv, TensorBoard events and plots."""

import csv
import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonia.runs.names import METRICS_TABLE
from pneumonia.runtime.atomic import write_bytes, write_text

log = logging.getLogger(__name__)

Row = dict[str, float]


def read_metrics(path: Path) -> list[Row]:
    """Rows of a metrics.csv, empty cells left out; no rows when there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(stream)
        ]


class MetricsJournal:
    """One row of numbers per epoch, kept as csv, TensorBoard events and plots.

    Args:
        keep_epochs: Rows of these first epochs are kept from an earlier run (resume); the rows
            after them belong to an epoch that will be done again.
    """

    def __init__(self, out: Path, keep_epochs: int) -> None:
        self.out = out
        self.rows = [
            row for row in read_metrics(out / METRICS_TABLE) if row.get("epoch", 0) <= keep_epochs
        ]
        self._events = _open_events(out / "tensorboard", keep_epochs)

    def add(self, row: Mapping[str, float]) -> None:
        """Append an epoch and rewrite metrics.csv whole, so that it is never half a line."""
        self.rows.append(dict(row))
        columns = list(dict.fromkeys(key for line in self.rows for key in line))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in line.items()} for line in self.rows)
        write_text(str(self.out / METRICS_TABLE), stream.getvalue())
        if self._events is not None:
            for key, value in row.items():
                if key != "epoch" and math.isfinite(value):
                    self._events.add_scalar(key, value, int(row["epoch"]))
            self._events.flush()

    def close(self) -> None:
        """End the event file and draw the plots."""
        if self._events is not None:
            self._events.close()
        if self.rows:
            losses = [key for row in self.rows for key in row if key.startswith("loss")]
            scores = [key for row in self.rows for key in row if key.startswith("val_")]
            _plot(self.out / "loss.png", self.rows, losses, "training loss")
            _plot(self.out / "metrics.png", self.rows, scores, "validation")


def _cell(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return (
        str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    )


def _open_events(folder: Path, keep_epochs: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        log.info("No TensorBoard log: install the extra `tensorboard` to have one")
        return None
    return SummaryWriter(str(folder), purge_step=keep_epochs + 1)


def _plot(path: Path, rows: list[Row], keys: list[str], title: str) -> None:
    # The object interface needs neither a display nor matplotlib's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=100)
    axes = figure.add_subplot()
    for key in dict.fromkeys(keys):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), marker=".", label=key)
    axes.set_xlabel("epoch")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if keys:
        axes.legend(fontsize="small")
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    write_bytes(str(path), image.getvalue())
