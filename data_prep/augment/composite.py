"""Paste radiographs masked to the lungs into a whole radiograph of another patient.

A detector trained on masked lungs is applied to whole radiographs, with shoulders, diaphragm,
tubes, markers, and lungs without a cut-out edge. Pasting the masked lungs into a whole radiograph
without opacity teaches it to ignore the surroundings. The area outside the mask then shows healthy
tissue of the other patient, so a box that lies mostly outside the mask is dropped.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from data_prep.dataset.reader import Boxes, Dataset, Pixels

MASKED_KIND = "lungs"
_BLACK = 10  # JPEG leaves grey values up to about this outside a mask
_STREAM = 0xC0FFEE  # separates these draws from augmentation, which uses the same seed


class CompositeSettings(BaseModel):
    """Settings for pasting masked lungs into whole radiographs.

    Attributes:
        probability: Probability of pasting per masked training image; 0 = never.
        feather: Width of the soft edge as a share of the image's side.
        min_visible: A box is dropped when less than this share of it shows the masked lungs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: float = Field(default=0.0, ge=0, le=1)
    feather: float = Field(default=0.012, ge=0, le=0.1)
    min_visible: float = Field(default=0.35, ge=0, le=1)


def lung_mask(pixels: Pixels) -> Pixels:
    """Binary mask of the visible lungs in a masked radiograph.

    Opening removes specks and closing fills pinholes; larger holes belong to the mask and stay.

    Args:
        pixels: uint8 (h, w), black outside the lungs.

    Returns:
        uint8 (h, w), 1 inside.
    """
    seen = (pixels > _BLACK).astype(np.uint8)
    seen = cv2.morphologyEx(seen, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask: Pixels = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return mask


def visible_share(mask: Pixels, boxes: Boxes) -> npt.NDArray[np.float64]:
    """Share of each box (n, 4) xyxy in mask pixels that lies inside the mask; (n,)."""
    shares = np.zeros(len(boxes))
    for number, (x1, y1, x2, y2) in enumerate(np.rint(boxes).astype(int)):
        part = mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
        shares[number] = part.mean() if part.size else 0.0
    return shares


def paste(lungs: Pixels, mask: Pixels, whole: Pixels, feather: float) -> Pixels:
    """Put the lungs into a whole radiograph of another patient.

    The surroundings are scaled to the lungs' mean and standard deviation of grey, measured inside
    the mask, so that the seam is hardly visible.

    Args:
        lungs: uint8 (h, w).
        mask: uint8 (h, w), 1 where `lungs` counts.
        whole: uint8, any size; both show the whole frame, so it is stretched to (h, w).
        feather: Width of the soft edge as a share of the longer side.

    Returns:
        uint8 (h, w).
    """
    height, width = lungs.shape
    around = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    inside = mask.astype(bool)
    if inside.any():
        mean, spread = float(around[inside].mean()), float(around[inside].std())
        wanted, wanted_spread = float(lungs[inside].mean()), float(lungs[inside].std())
        gain = np.clip(wanted_spread / max(spread, 1.0), 0.7, 1.4)
        around = (around - mean) * gain + wanted
    sigma = feather * max(height, width)
    share = mask.astype(np.float32)
    if sigma > 0:
        # feather inwards only: outside the mask the lungs' pixels are black
        size = 2 * max(1, round(sigma)) + 1
        share = cv2.GaussianBlur(cv2.erode(share, np.ones((size, size), np.uint8)), (0, 0), sigma)
        share *= mask
    mixed = share * lungs + (1 - share) * around
    pasted: Pixels = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return pasted


class Compositor:
    """Pastes masked training images into whole negative ones of the training split.

    Args:
        items: Training items, of which whole negatives serve as surroundings.
    """

    def __init__(self, dataset: Dataset, items: Sequence[int], settings: CompositeSettings) -> None:
        self.dataset = dataset
        self.settings = settings
        self.surroundings = [
            i for i in items if dataset.records[i].kind != MASKED_KIND and not len(dataset.boxes(i))
        ]

    def __call__(self, item: int, seed: int) -> tuple[Pixels, Boxes]:
        """Pixels and boxes (n, 4) xyxy in cache pixels of an item, pasted or unchanged.

        The same seed gives the same result.
        """
        pixels, boxes = self.dataset.pixels(item), self.dataset.cache_boxes(item)
        record, s = self.dataset.records[item], self.settings
        if record.kind != MASKED_KIND or not self.surroundings or not s.probability:
            return pixels, boxes
        draw = np.random.default_rng((seed, _STREAM))
        if draw.random() >= s.probability:
            return pixels, boxes
        mask = lung_mask(pixels)
        whole = self.dataset.pixels(self.surroundings[draw.integers(len(self.surroundings))])
        kept = boxes[visible_share(mask, boxes) >= s.min_visible]
        return paste(pixels, mask, whole, s.feather), kept
