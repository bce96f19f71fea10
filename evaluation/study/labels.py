"""Ground truth of images: the official RSNA csv, one row per box.

`patientId,x,y,width,height,Target`; the RSNA `patientId` names one *image*. Boxes are in pixels of
the labels' frame, 1024 x 1024 for RSNA whatever the size of the image file.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia.runtime.errors import DataError

RSNA_FRAME = 1024.0
COLUMNS = ("patientId", "x", "y", "width", "height", "Target")

BoxArray = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """Truth boxes of labelled images.

    Attributes:
        ids: Image ids in the order of the file.
        boxes: Image id -> (n, 4) float32 xyxy in pixels of `frame`; n = 0 for a negative image.
        positive: (len(ids),) bool, aligned with `ids`.
        frame: Side of the square frame in pixels; None = each image's own pixels.
    """

    ids: tuple[str, ...]
    boxes: dict[str, BoxArray]
    positive: NDArray[np.bool_]
    frame: float | None = RSNA_FRAME

    def select(self, ids: Iterable[str]) -> "Labels":
        """The labels of some images, in the order given.

        Raises:
            DataError: An id has no label, or is named twice.
        """
        chosen = tuple(ids)
        unknown = sum(1 for image_id in chosen if image_id not in self.boxes)
        if unknown:
            raise DataError("Subset names images without a label", found=f"{unknown} such ids")
        if len(set(chosen)) != len(chosen):
            raise DataError("Subset names an image twice")
        return make_labels({image_id: self.boxes[image_id] for image_id in chosen}, self.frame)


def make_labels(boxes: dict[str, BoxArray], frame: float | None = RSNA_FRAME) -> Labels:
    """Labels from boxes by image id; an image is positive when it has a box."""
    positive = np.array([len(rows) > 0 for rows in boxes.values()], dtype=bool)
    return Labels(tuple(boxes), boxes, positive, frame)


def read_labels(path: str | Path, frame: float | None = RSNA_FRAME) -> Labels:
    """Read the official RSNA csv.

    Args:
        path: The csv file.
        frame: Side of the frame of its boxes in pixels; None = each image's own pixels.

    Raises:
        DataError: Not readable, a column is missing, a number is missing or not finite, a box
            without area, a box on a negative row, a positive row without a box, an image both
            positive and negative, or a repeated row. Lines are named, identifiers are not.
    """
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    "Labels lack a column",
                    expected=",".join(COLUMNS),
                    found="no " + ", ".join(missing),
                    where=str(path),
                )
            for row in reader:
                _add_row(boxes, row, f"{path}, line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("Labels cannot be read", found=str(error), where=str(path)) from None
    if not boxes:
        raise DataError("Labels hold no image", where=str(path))
    arrays = {
        image_id: np.array(rows, dtype=np.float32).reshape(-1, 4)
        for image_id, rows in boxes.items()
    }
    return make_labels(arrays, frame)


def _add_row(
    boxes: dict[str, list[tuple[float, float, float, float]]],
    row: dict[str, str | None],
    where: str,
) -> None:
    """Add one csv row to the boxes gathered so far."""
    image_id = (row["patientId"] or "").strip()
    target = (row["Target"] or "").strip()
    if not image_id or target not in ("0", "1"):
        raise DataError(
            "Label row is not valid",
            expected="a patientId and Target 0 or 1",
            found="an empty patientId" if not image_id else f"Target {target!r}",
            where=where,
        )
    cells = [(row[name] or "").strip() for name in ("x", "y", "width", "height")]
    known = boxes.get(image_id)
    if target == "0":
        if any(cells):
            raise DataError("A negative row (Target 0) has a box", where=where)
        if known is not None:
            raise DataError(
                "Image is labelled twice", expected="one row for a negative image", where=where
            )
        boxes[image_id] = []
        return
    if known is not None and not known:
        raise DataError("Image is labelled both negative and positive", where=where)
    box = _parse_box(cells, where)
    if known and box in known:
        raise DataError("Box is repeated", where=where, fix="Remove the second row")
    boxes.setdefault(image_id, []).append(box)


def _parse_box(cells: list[str], where: str) -> tuple[float, float, float, float]:
    """Turn x, y, width, height into finite xyxy with area."""
    try:
        x, y, width, height = (float(cell) for cell in cells)
    except ValueError:
        raise DataError(
            "Box is not made of numbers",
            expected="x,y,width,height",
            found=repr(cells),
            where=where,
        ) from None
    if not all(math.isfinite(value) for value in (x, y, width, height)):
        raise DataError("Box is not finite", found=repr(cells), where=where)
    if width <= 0 or height <= 0:
        raise DataError(
            "Box has no area", expected="width and height > 0", found=repr(cells), where=where
        )
    return x, y, x + width, y + height
