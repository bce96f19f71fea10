"""The audit as one self-contained HTML page: tables, plots and a few images with their boxes."""

import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from data_prep.dataset.reader import Dataset
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.image.preprocess import resize
from pneumonia.runtime.image.raster import picture_uri
from pneumonia.runtime.label_table import LABEL_FRAME

_TEMPLATE = Path(__file__).with_name("audit.html.j2")
_SAMPLES = 12
_SAMPLE_SIDE = 224
_MAP_SIDE = 64


def write_html(path: Path, dataset: Dataset, report: dict[str, Any]) -> None:
    """Write the page of an audit.

    Args:
        path: HTML file.
        dataset: The audited dataset; a few of its images are shown.
        report: From `data_prep.dataset.audit.audit_dataset`.

    Raises:
        OutputError: The file cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        name=dataset.folder.resolve().name,
        disclaimer=DISCLAIMER,
        report=report,
        box_plot=_box_plot(dataset) if report["boxes"]["count"] else "",
        age_plot=_age_plot(dataset),
        samples=_samples(dataset),
    )
    write_text(str(path), page)


def _box_plot(dataset: Dataset) -> str:
    """Plots of box widths, heights, boxes per image and box positions."""
    boxes = _framed_boxes(dataset)
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    bins = np.linspace(0, LABEL_FRAME, 52)
    axes[0].hist([width, height], bins=bins, label=["width", "height"], histtype="step")
    axes[0].set(xlabel=f"pixels of {LABEL_FRAME}", ylabel="boxes", title="Size")
    axes[0].legend()
    axes[1].hist(np.log2(height / width), bins=40, color="0.4")
    axes[1].set(xlabel="log2(height / width)", title="Shape")
    shown = axes[2].imshow(
        _coverage(boxes), extent=(0, LABEL_FRAME, LABEL_FRAME, 0), cmap="magma", vmin=0
    )
    axes[2].set(title="Share of boxes that cover a place")
    figure.colorbar(shown, ax=axes[2])
    return _png(figure)


def _age_plot(dataset: Dataset) -> str:
    """Plot of patient ages with and without boxes; empty when no age is known."""
    ages: dict[bool, list[int]] = {True: [], False: []}
    for i, record in enumerate(dataset.records):
        if record.age is not None and record.labelled:
            ages[len(dataset.boxes(i)) > 0].append(record.age)
    if not ages[True] and not ages[False]:
        return ""
    figure = Figure(figsize=(5.5, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.hist(
        [ages[True], ages[False]],
        bins=[float(age) for age in range(0, 125, 5)],
        label=["with box", "without"],
        stacked=True,
        color=["#c33", "#888"],
    )
    axes.set(xlabel="age in years", ylabel="images")
    axes.legend()
    return _png(figure)


def _framed_boxes(dataset: Dataset) -> npt.NDArray[np.float64]:
    """Boxes (n, 4) xyxy in the frame of 1024; only those with an area can be drawn."""
    framed = [
        dataset.boxes(i) / (np.array([record.width, record.height] * 2) / LABEL_FRAME)
        for i, record in enumerate(dataset.records)
    ]
    boxes = np.concatenate(framed)
    return np.asarray(boxes[(boxes[:, 2:] - boxes[:, :2] > 0).all(axis=1)])


def _coverage(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    cells = np.clip(np.round(boxes / LABEL_FRAME * _MAP_SIDE).astype(int), 0, _MAP_SIDE)
    total = np.zeros((_MAP_SIDE, _MAP_SIDE))
    for x1, y1, x2, y2 in cells:
        total[y1:y2, x1:x2] += 1
    return total / max(1, len(boxes))


def _samples(dataset: Dataset) -> list[dict[str, str]]:
    """Evenly spaced sample of images with their boxes, per kind, to reveal a wrong frame."""
    by_kind: dict[str, list[int]] = {}
    for i, record in enumerate(dataset.records):
        if len(dataset.boxes(i)):
            by_kind.setdefault(record.kind, []).append(i)
    samples = []
    for kind, members in sorted(by_kind.items()):
        count = min(len(members), max(1, _SAMPLES // len(by_kind)))
        chosen = np.linspace(0, len(members) - 1, count).astype(int)
        samples += [{"image": _sample(dataset, members[at]), "caption": kind} for at in chosen]
    return samples


def _sample(dataset: Dataset, i: int) -> str:
    pixels = dataset.pixels(i)
    scale = _SAMPLE_SIDE / max(pixels.shape)
    shape = [max(1, round(side * scale)) for side in pixels.shape]
    image = Image.fromarray(resize(pixels, shape[0], shape[1])).convert("RGB")
    draw = ImageDraw.Draw(image)
    for x1, y1, x2, y2 in dataset.cache_boxes(i).astype(np.float64) * scale:
        if x2 > x1 and y2 > y1:
            draw.rectangle((x1, y1, x2, y2), outline=(255, 220, 0), width=2)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return picture_uri(stream.getvalue())


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    return picture_uri(stream.getvalue())
