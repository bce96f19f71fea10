"""Read the label and class tables of a source; images with doubtful truth are rejected.

Every rejected image is recorded with its reason.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia.runtime.csv_tables import read_table
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import (
    CLASSES,
    LABEL_COLUMNS,
    LABEL_FRAME,
    LUNG_OPACITY,
    read_label_rows,
)


class SourceLabels(NamedTuple):
    """Boxes and classes of a source's csv files."""

    # image_id -> float64 (n, 4) xyxy in the frame of 1024; n = 0 without opacity
    boxes: dict[str, npt.NDArray[np.float64]]
    classes: dict[str, str]  # image_id -> class; empty when there is no class table
    rejected: dict[str, str]  # image_id -> reason, disjoint from `boxes`
    adjusted: Counter[str]  # repaired rows by kind of repair


def read_labels(labels_csv: Path, class_csv: Path | None) -> SourceLabels:
    """Read the official label csv and, when there is one, the class csv.

    A row is faulty when it has no id, another Target than 0 or 1, a box that is not finite, has
    no area or lies outside the frame, or a box with Target 0. An image with a faulty row, with
    rows of both targets, or whose class contradicts its target is rejected. A box that reaches
    over the frame is clipped, a repeated row is dropped; both are counted.

    Raises:
        DataError: File missing, not a table, other columns, no rows, or no usable row.
    """
    found: dict[str, set[tuple[float, ...]]] = {}
    rejected: dict[str, str] = {}
    adjusted: Counter[str] = Counter()
    for row in read_label_rows(str(labels_csv)):
        box = () if row.box_xyxy is None else _clip_to_frame(row.box_xyxy, adjusted)
        outside = row.box_xyxy is not None and not box
        if row.fault or outside:
            rejected.setdefault(row.image_id, row.fault or "box_outside_frame")
            continue
        rows = found.setdefault(row.image_id, set())
        if box in rows:
            adjusted["repeated_row"] += 1
        rows.add(box)
    boxes = {}
    for image_id, rows in found.items():
        if len(rows) > 1 and () in rows:
            rejected.setdefault(image_id, "target_mismatch")
        # sorted, since a set's order is not the file's
        kept = sorted(row for row in rows if row)
        boxes[image_id] = np.array(kept, dtype=np.float64).reshape(-1, 4)
    classes = _read_classes(class_csv, boxes, rejected) if class_csv is not None else {}
    boxes = {image_id: value for image_id, value in boxes.items() if image_id not in rejected}
    if not boxes:
        raise DataError(
            "Label table has no usable row",
            expected=",".join(LABEL_COLUMNS),
            found=_reasons(rejected),
            where=str(labels_csv),
        )
    return SourceLabels(boxes, classes, rejected, adjusted)


def _clip_to_frame(box: tuple[float, ...], adjusted: Counter[str]) -> tuple[float, ...]:
    """The part of a box inside the frame, () when it is less than a pixel wide or high."""
    clipped = tuple(min(max(side, 0.0), float(LABEL_FRAME)) for side in box)
    if clipped[2] - clipped[0] < 1 or clipped[3] - clipped[1] < 1:
        return ()
    if clipped != box:
        adjusted["box_clipped_to_frame"] += 1
    return clipped


def _read_classes(
    path: Path, boxes: Mapping[str, npt.NDArray[np.float64]], rejected: dict[str, str]
) -> dict[str, str]:
    """image_id -> class; marks contradictions in `rejected`."""
    classes: dict[str, str] = {}
    for _, row in read_table(str(path), ("patientId", "class")):
        image_id, name = row["patientId"].strip(), row["class"].strip()
        if name and name not in CLASSES:
            rejected.setdefault(image_id, "unknown_class")
        elif classes.setdefault(image_id, name) != name:
            rejected.setdefault(image_id, "class_conflict")
    for image_id, found in boxes.items():
        name = classes.get(image_id, "")
        if name and (name == LUNG_OPACITY) != bool(len(found)):
            rejected.setdefault(image_id, "class_target_mismatch")
    return classes


def _reasons(rejected: Mapping[str, str]) -> str:
    counts = Counter(rejected.values())
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
