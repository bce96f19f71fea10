"""Radiographs with truth and predicted boxes, for the pages of worst cases.

Truth is drawn solid in blue, predictions dashed in orange with their score: distinguishable for
colour-blind readers, and by line style in greyscale print.
"""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.analysis.failures import ImageErrors
from evaluation.metrics.matching import Float64Array
from evaluation.study.cases import EvaluationCases
from evaluation.study.image_files import find_image, read_pixels
from pneumonia.runtime.errors import PneumoniaError
from pneumonia.runtime.image.raster import picture_uri

TILE_PX = 420
TRUTH_COLOUR = (86, 180, 233)
BOX_COLOUR = (240, 140, 20)
BLANK_GREY = 38
DASH_PX = 9


@dataclass(frozen=True)
class OverlayTile:
    """A picture with its caption."""

    data_uri: str  # JPEG as a data URI
    title: str  # the image id
    caption: str  # score, class and error types
    has_image: bool  # false = boxes on a blank frame


def draw_tile(
    pixels: np.ndarray | None,
    size: tuple[int, int],
    truths: Float64Array,
    boxes: Float64Array,
    scores: Float64Array,
) -> bytes:
    """Draw one case.

    Args:
        pixels: (H, W) uint8, or None for a blank frame.
        size: Width and height of the image in whose pixels the boxes are.
        truths: (n, 4) xyxy.
        boxes: (k, 4) xyxy.
        scores: (k,).

    Returns:
        The JPEG file's bytes; the long side has `TILE_PX` pixels.
    """
    scale = TILE_PX / max(size)
    canvas = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if pixels is None:
        image = Image.new("RGB", canvas, (BLANK_GREY,) * 3)
    else:
        image = Image.fromarray(pixels).resize(canvas, Image.Resampling.LANCZOS).convert("RGB")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=22)
    for box in truths * scale:
        pen.rectangle([float(edge) for edge in box], outline=TRUTH_COLOUR, width=3)
    for box, score in zip(boxes * scale, scores, strict=True):
        _dashed(pen, box)
        x, y = max(2.0, float(box[0])), max(2.0, float(box[1]) - 27)
        text = f"{score:.2f}"
        pen.rectangle(pen.textbbox((x, y), text, font=font), fill=(0, 0, 0))
        pen.text((x, y), text, fill=BOX_COLOUR, font=font)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def case_tile(
    cases: EvaluationCases, errors: ImageErrors, threshold: float, folder: str | Path | None
) -> OverlayTile:
    """A case as a tile, on a blank frame when its image is missing or unreadable."""
    index = errors.image
    pixels = _pixels(folder, cases.ids[index])
    scale = np.tile(cases.scales[index], 2)
    shown = cases.scores[index] >= threshold
    width, height = (int(value) for value in cases.sizes[index])
    picture = draw_tile(
        pixels,
        (width, height),
        cases.truths[index] / scale,
        cases.boxes[index][shown] / scale,
        cases.scores[index][shown],
    )
    return OverlayTile(
        data_uri=picture_uri(picture),
        title=cases.ids[index],
        caption=_caption(cases, errors),
        has_image=pixels is not None,
    )


def _caption(cases: EvaluationCases, errors: ImageErrors) -> str:
    def listed(kinds: Sequence[str]) -> str:
        return ", ".join(kind.replace("_", " ") for kind in kinds)

    index = errors.image
    parts = [f"score {cases.image_score[index]:.2f}"]
    name = cases.cohort.get(cases.ids[index], "class")
    if name and not errors.truth_types:
        parts.append(name)
    if errors.truth_types:
        parts.append("opacities: " + listed(errors.truth_types))
    if errors.box_types:
        parts.append("boxes: " + listed(errors.box_types))
    return "; ".join(parts)


def _pixels(folder: str | Path | None, image_id: str) -> np.ndarray | None:
    path = find_image(folder, image_id) if folder is not None else None
    if path is None:
        return None
    try:
        return read_pixels(path)
    except PneumoniaError:
        return None  # drawn as a blank frame


def _dashed(pen: ImageDraw.ImageDraw, box: Float64Array) -> None:
    """A dashed rectangle."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        length = max(abs(bx - ax), abs(by - ay))
        steps = max(1, int(length // DASH_PX))
        for step in range(0, steps, 2):
            low, high = step / steps, min(1.0, (step + 1) / steps)
            start = (ax + (bx - ax) * low, ay + (by - ay) * low)
            end = (ax + (bx - ax) * high, ay + (by - ay) * high)
            pen.line([start, end], fill=BOX_COLOUR, width=3)
