"""Ground truth of images: the official RSNA csv, one row per box.

`patientId,x,y,width,height,Target`; the RSNA `patientId` names one *image*. Boxes are in pixels of
the labels' frame, 1024 x 1024 for RSNA whatever the size of the image file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import FAULTS, LABEL_FRAME, LabelRow, read_label_rows

BoxArray = NDArray[np.float32]


@dataclass(frozen=True)
class TruthLabels:
    """Truth boxes of labelled images."""

    ids: tuple[str, ...]  # image ids in the order of the file
    # image id -> (n, 4) float32 xyxy in pixels of `frame`; n = 0 for a negative image
    boxes: dict[str, BoxArray]
    positive: NDArray[np.bool_]  # (len(ids),) bool, aligned with `ids`
    # side of the square frame in pixels; None = each image's own pixels
    frame: float | None = LABEL_FRAME

    def select(self, ids: Iterable[str]) -> "TruthLabels":
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


def make_labels(boxes: dict[str, BoxArray], frame: float | None = LABEL_FRAME) -> TruthLabels:
    """Labels from boxes by image id; an image is positive when it has a box."""
    positive = np.array([len(rows) > 0 for rows in boxes.values()], dtype=bool)
    return TruthLabels(tuple(boxes), boxes, positive, frame)


def read_labels(path: str | Path, frame: float | None = LABEL_FRAME) -> TruthLabels:
    """Read the official RSNA csv.

    Args:
        frame: Side of the frame of its boxes in pixels; None = each image's own pixels.

    Raises:
        DataError: Not readable, a column is missing, a number is missing or not finite, a box
            without area, a box on a negative row, a positive row without a box, an image both
            positive and negative, or a repeated row. The message names the line, not the id.
    """
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in read_label_rows(str(path)):
        _add_row(boxes, row, f"{path}, line {row.line}")
    arrays = {
        image_id: np.array(rows, dtype=np.float32).reshape(-1, 4)
        for image_id, rows in boxes.items()
    }
    return make_labels(arrays, frame)


def _add_row(
    boxes: dict[str, list[tuple[float, float, float, float]]], row: LabelRow, where: str
) -> None:
    """Add one row to the boxes of its image."""
    if row.fault:
        raise DataError(FAULTS[row.fault], where=where)
    known = boxes.get(row.image_id)
    if row.box_xyxy is None:
        if known is not None:
            raise DataError(
                "Image is labelled twice", expected="one row for a negative image", where=where
            )
        boxes[row.image_id] = []
        return
    if known is not None and not known:
        raise DataError("Image is labelled both negative and positive", where=where)
    if known and row.box_xyxy in known:
        raise DataError("Box is repeated", where=where, fix="Remove the second row")
    boxes.setdefault(row.image_id, []).append(row.box_xyxy)
