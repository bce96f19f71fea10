"""overlay/: the radiograph as a picture with boxes, scores, the model and the disclaimer."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from pneumonia.runtime.errors import RESEARCH_ONLY
from pneumonia.runtime.image.preprocess import resize
from pneumonia.scoring.outputs.protocol import FinishedBatch, PictureWriter, ScoredStudy

MAX_SIDE = 1024
BOX_COLOUR = (255, 196, 0)  # amber: visible on grey, not the red of an alarm
# One byte per pixel: as RGB, compressing takes ten times as long. The colour takes the place of
# pure white, which is shown one grey level darker.
WHITE, BOX = 254, 255
PALETTE = [level for grey in range(BOX) for level in (grey, grey, grey)] + list(BOX_COLOUR)
FONT_SIZE = 16
LINE_HEIGHT = 22
STRIP = 2 * LINE_HEIGHT + 8


class OverlayWriter(PictureWriter):
    """Makes `overlay/<key>.png`."""

    name = "overlay"
    suffix = ".png"

    def files(self, study: ScoredStudy) -> dict[str, bytes]:
        """The overlay of one image."""
        record = study.record
        if not self.is_wanted(record):
            return {}
        shown = record.above(self.model.threshold)
        assert shown is not None
        picture = draw_overlay(study.pixels, shown.boxes, shown.scores, self.model.caption())
        return {self.path(record.key): picture}

    def finish(self, batch: FinishedBatch) -> dict[str, Any]:
        """Remove overlays of earlier runs that are no longer requested."""
        self.keep_wanted(batch)
        return {}


def draw_overlay(
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    caption: str,
) -> bytes:
    """Draw boxes on a copy; text is in strips above and below, so that it hides no anatomy.

    Args:
        pixels: uint8 (H, W).
        boxes: xyxy (n, 4) in pixels of that image.
        scores: (n,).
        caption: Model, version and operating point.

    Returns:
        PNG bytes; the longer side of the image is at most 1024 pixels, orientation as stored.
    """
    height, width = pixels.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    limits = np.full(size[1], WHITE, np.uint8)  # NumPy takes ten times as long with a scalar
    grey = np.minimum(resize(pixels, *size), limits)
    canvas = Image.new("L", (max(size[1], 480), size[0] + 2 * STRIP))
    left = (canvas.width - size[1]) // 2
    canvas.paste(Image.fromarray(grey), (left, STRIP))
    canvas.paste(_strip((RESEARCH_ONLY, caption), canvas.width), (0, 0))
    canvas.paste(_strip((RESEARCH_ONLY,), canvas.width), (0, STRIP + size[0]))
    canvas.putpalette(PALETTE)
    draw = ImageDraw.Draw(canvas)
    font = _font()
    ratio = np.array([size[1] / width, size[0] / height] * 2)
    for box, score in zip(boxes, scores, strict=True):
        x1, y1, x2, y2 = (box * ratio).tolist()
        corners = (left + x1, STRIP + y1, left + max(x2, x1), STRIP + max(y2, y1))
        draw.rectangle(corners, outline=BOX, width=2)
        label_y = max(STRIP + y1 - 18, 0.0)
        draw.text(
            (left + x1 + 3, label_y),
            f"{score:.2f}",
            fill=BOX,
            font=font,
            stroke_width=2,
            stroke_fill=0,
        )
    return _png(canvas, caption)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


@lru_cache(maxsize=8)  # the same for all images of a batch
def _strip(lines: tuple[str, ...], width: int) -> Image.Image:
    """White text on black, L mode, STRIP high; lines that are too long end in an ellipsis."""
    strip = Image.new("L", (width, STRIP))
    draw = ImageDraw.Draw(strip)
    font = _font()
    for number, line in enumerate(lines):
        text = line
        while len(text) > 1 and draw.textlength(text, font=font) > width - 8:
            text = text.rstrip("…")[:-1] + "…"
        draw.text((4, 4 + number * LINE_HEIGHT), text, fill=WHITE, font=font)
    return strip


def _png(canvas: Image.Image, caption: str) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Disclaimer", RESEARCH_ONLY)
    text.add_text("Model", caption)
    stream = io.BytesIO()
    # packing noise takes longer than decoding and detecting, and saves a quarter
    canvas.save(stream, "PNG", pnginfo=text, compress_level=0)
    return stream.getvalue()
