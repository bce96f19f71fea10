"""Findings of a phantom: opacities with boxes, and distractors without boxes."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from data_prep.phantom.anatomy import Chest
from data_prep.phantom.canvas import Canvas, Layer, smooth_curve

MAX_BOXES = 3
# RSNA's boxes: median 217 x 298 of 1024, log-normal spread (evaluation design, 3.1)
_BOX_MEDIAN = np.array([217.0, 298.0]) / 1024
_BOX_SPREAD = np.array([0.26, 0.36])
_GROWTH = 1.28  # compensates for the soft edge and the cut at the lung's border
_MIN_SIDE = 60 / 1024
_VISIBLE = 0.28  # a box encloses where an opacity reaches this share of its peak
_EDGE_PIXELS, _EDGE_SHARE = 4, 0.06  # soft edge outside the box: maximum, share of shorter side


class Opacity(NamedTuple):
    """One consolidation: float32 coverage 0..1 (size, size) and its box xyxy in the unit frame."""

    coverage: Layer
    box: npt.NDArray[np.float64]


def add_opacities(
    canvas: Canvas, chest: Chest, count: int, rng: np.random.Generator
) -> tuple[Layer, npt.NDArray[np.float64]]:
    """Paint consolidations into a chest.

    Args:
        count: Number to place, 1 to 3; the second is placed in the other lung if possible.

    Returns:
        The new density and the boxes, float64 (n, 4) xyxy in the unit frame, 1 <= n <= count.
    """
    density = chest.density.copy()
    boxes: list[npt.NDArray[np.float64]] = []
    first_side = int(rng.integers(2))
    for number in range(count):
        side = (first_side + number) % 2
        opacity = _place_opacity(canvas, chest.sides[side], boxes, rng)
        if opacity is None:
            continue
        boxes.append(opacity.box)
        density = _paint(canvas, density, opacity.coverage, rng)
    if not boxes:  # no draw fits into the lungs: fill the middle of the larger one
        opacity = _fallback(canvas, chest)
        boxes.append(opacity.box)
        density = _paint(canvas, density, opacity.coverage, rng)
    return density, np.array(boxes)


def _place_opacity(
    canvas: Canvas,
    lung: Layer,
    boxes: list[npt.NDArray[np.float64]],
    rng: np.random.Generator,
) -> Opacity | None:
    """Draw size and place until the visible part is large enough and apart from other boxes."""
    rows, columns = np.nonzero(lung[::8, ::8] > 0.5)
    if not len(rows):
        return None
    weights = 0.4 + rows / rows.max(initial=1)  # lower zones more often
    for _ in range(12):
        at = int(rng.choice(len(rows), p=weights / weights.sum()))
        centre = np.array([columns[at], rows[at]]) * 8 / canvas.size
        large, long = rng.normal(), rng.normal(0.0, 1.0, 2)  # width and height go together in part
        extent = _GROWTH * _BOX_MEDIAN * np.exp(_BOX_SPREAD * (0.6 * large + 0.8 * long))
        opacity = _shape(canvas, lung, centre, extent, rng)
        if opacity is None:
            continue
        x1, y1, x2, y2 = opacity.box
        if min(x2 - x1, y2 - y1) >= _MIN_SIDE and not any(_touch(opacity.box, b) for b in boxes):
            return opacity
    return None


def _touch(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    return bool(np.all(np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:])))


def _shape(
    canvas: Canvas,
    lung: Layer,
    centre: npt.NDArray[np.float64],
    extent: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> Opacity | None:
    """An irregular soft blob of about `extent` (width, height), cut off by the lung's edge."""
    axis = (np.arange(canvas.size, dtype=np.float32) + 0.5) / np.float32(canvas.size)
    dx = (axis[None, :] - np.float32(centre[0])) / np.float32(extent[0] / 2)
    dy = (axis[:, None] - np.float32(centre[1])) / np.float32(extent[1] / 2)
    lean = np.float32(rng.normal(0, 0.25))
    field = 1.0 - (dx + lean * dy) ** 2 - dy**2
    field += 0.25 * canvas.noise(rng, int(rng.integers(9, 16)))
    softness = np.float32(rng.uniform(0.5, 1.0))
    coverage = np.clip(field / softness, 0, 1)
    coverage = coverage * coverage * (3 - 2 * coverage)
    return _measured(canvas, np.asarray(coverage * lung, dtype=np.float32))


def _measured(canvas: Canvas, coverage: Layer) -> Opacity | None:
    peak = float(coverage.max())
    if peak < 0.3:
        return None
    mask = (coverage > _VISIBLE * peak).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, width, height, _area = (int(value) for value in stats[largest])
    # keep only the component that the box encloses
    blob = (labels == largest).astype(np.uint8)
    # a narrower soft edge for small blobs: the box has to enclose the opacity
    edge = min(_EDGE_PIXELS, max(1, round(_EDGE_SHARE * min(width, height))))
    grown = cv2.dilate(blob, np.ones((3, 3), np.uint8), iterations=edge)
    box = np.array([x, y, x + width, y + height], dtype=np.float64) / canvas.size
    return Opacity(np.asarray(coverage * grown), box)


def _fallback(canvas: Canvas, chest: Chest) -> Opacity:
    lung = max(chest.sides, key=lambda side: float(side.sum()))
    measured = _measured(canvas, np.asarray(lung * np.float32(0.8)))
    if measured is not None:
        return measured
    box = np.array([0.3, 0.3, 0.45, 0.5])  # no lung in the frame at all
    return Opacity(canvas.fill([(0.3, 0.3), (0.45, 0.3), (0.45, 0.5), (0.3, 0.5)], 0.02), box)


def _paint(canvas: Canvas, density: Layer, coverage: Layer, rng: np.random.Generator) -> Layer:
    """Raise the density towards patchy soft-tissue brightness, which hides the vessels."""
    strength = np.float32(rng.uniform(0.32, 0.92))
    patch = 1 + 0.16 * canvas.noise(rng, int(rng.integers(14, 26)))
    patch += 0.07 * canvas.noise(rng, int(rng.integers(40, 70)))
    mix = np.clip(strength * coverage * patch, 0, 1)
    target = np.float32(rng.uniform(0.56, 0.64))
    return np.asarray(density + mix * np.maximum(target - density, 0))


# --- distractors: each returns the density it adds, float32 (size, size) ----------------------


def _lung_point(chest: Chest, canvas: Canvas, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    rows, columns = np.nonzero(chest.lungs[::8, ::8] > 0.6)
    if not len(rows):
        return np.array([0.3, 0.5])
    at = int(rng.integers(len(rows)))
    return np.array([columns[at], rows[at]]) * 8 / canvas.size


def _nodules(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Layer:
    plain = Canvas(canvas.size, np.eye(2, 3))
    total = np.zeros_like(chest.density)
    turn = np.linspace(0, 2 * np.pi, 9)[:-1]
    for _ in range(int(rng.integers(1, 5))):
        radius = rng.uniform(0.010, 0.024)
        ring = np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius
        spot = plain.fill(_lung_point(chest, canvas, rng) + ring, soften=0.008)
        total += np.float32(rng.uniform(0.12, 0.24)) * spot
    return np.asarray(total * chest.lungs)


def _bands(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Layer:
    """Plate-like atelectases: thin, nearly horizontal, in the lower zones."""
    plain = Canvas(canvas.size, np.eye(2, 3))
    curves, widths = [], []
    for _ in range(int(rng.integers(1, 4))):
        x, y = _lung_point(chest, canvas, rng)
        half, tilt = rng.uniform(0.04, 0.09), rng.normal(0, 0.25)
        points = [
            (x - half, y - tilt * half),
            (x, y + rng.normal(0, 0.006)),
            (x + half, y + tilt * half),
        ]
        curves.append(smooth_curve(points, closed=False))
        widths.append(rng.uniform(0.005, 0.011))
    strength = np.float32(rng.uniform(0.15, 0.28))
    return np.asarray(strength * plain.strokes(curves, widths, soften=0.005) * chest.lungs)


def _effusion(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Layer:
    """A blunted costophrenic angle: fluid with a meniscus that climbs the chest wall."""
    side = int(rng.integers(2))
    level = rng.uniform(0.745, 0.80)
    points = np.array(
        [(0.04, level - 0.11), (0.115, level - 0.05), (0.16, level), (0.24, level + 0.02),
         (0.34, level + 0.012), (0.34, 0.98), (0.02, 0.98)]
    )  # fmt: skip
    if side:
        points = points * [-1, 1] + [1, 0]
    return np.asarray(0.36 * canvas.fill(points, soften=0.014) * chest.lungs)


def _reticular(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Layer:
    """Diffuse interstitial pattern of both lungs, without a focus."""
    fine = canvas.noise(rng, 56)
    net = np.clip(1.0 - np.abs(fine) * 2.2, 0, 1)
    return np.asarray(np.float32(rng.uniform(0.05, 0.09)) * (net + 0.3) * chest.lungs)


def _lines(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Layer:
    """Tubes, catheters and electrode cables."""
    curves, widths, level = [], [], []
    if rng.random() < 0.6:  # central venous catheter
        x = 0.47 + rng.normal(0, 0.006)
        points = [
            (0.36, -0.02),
            (0.385, 0.10),
            (0.43, 0.17),
            (x - 0.01, 0.25),
            (x, rng.uniform(0.36, 0.48)),
        ]
        curves.append(smooth_curve(points, closed=False))
        widths.append(0.006)
        level.append(0.17)
    if rng.random() < 0.5:  # endotracheal tube
        curves.append(np.array([(0.502, -0.02), (0.503, rng.uniform(0.20, 0.29))]))
        widths.append(0.012)
        level.append(0.15)
    if rng.random() < 0.4:  # nasogastric tube
        end = 0.60 + rng.normal(0, 0.03)
        curves.append(smooth_curve([(0.505, -0.02), (0.52, 0.4), (0.53, 0.7), (end, 0.95)], False))
        widths.append(0.006)
        level.append(0.14)
    for _ in range(int(rng.integers(0 if curves else 2, 4))):  # electrode cables
        start, middle = rng.uniform(-0.05, 1.05, 2), rng.uniform(0.2, 0.8, 2)
        points = [
            (start[0], 1.02),
            (middle[0], 0.3 + middle[1] * 0.4),
            (rng.uniform(0.1, 0.9), 0.2),
        ]
        curves.append(smooth_curve(points, closed=False))
        widths.append(0.0045)
        level.append(0.14)
    total = np.zeros_like(chest.density)
    for curve, width, strength in zip(curves, widths, level, strict=True):
        total += np.float32(strength) * canvas.strokes([curve], [width], soften=0.002)
    return total


def _pacemaker(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Layer:
    x, y = rng.uniform(0.74, 0.82), rng.uniform(0.16, 0.24)
    angle = np.linspace(0, 2 * np.pi, 13)[:-1]
    can = np.stack([x + 0.052 * np.cos(angle), y + 0.043 * np.sin(angle)], axis=1)
    lead = smooth_curve(
        [(x - 0.04, y), (0.66, 0.13), (0.56, 0.16), (0.48, 0.30), (0.47, 0.55), (0.56, 0.74)], False
    )
    wire = canvas.strokes([lead], [0.005], soften=0.002)
    return np.asarray(0.75 * canvas.fill(can, soften=0.003) + 0.32 * wire)


DISTRACTORS: dict[str, Callable[[Canvas, Chest, np.random.Generator], Layer]] = {
    "nodules": _nodules,
    "bands": _bands,
    "effusion": _effusion,
    "reticular": _reticular,
    "lines": _lines,
    "pacemaker": _pacemaker,
}
HARMLESS = ("lines", "pacemaker")  # devices, drawn with and without an opacity


def add_distractors(
    canvas: Canvas, chest: Chest, names: tuple[str, ...], rng: np.random.Generator
) -> Chest:
    """The chest with the named findings added."""
    density = chest.density
    for name in names:
        density = np.asarray(density + DISTRACTORS[name](canvas, chest, rng))
    return chest._replace(density=density)
