"""Read label tables and say of every faulty row what is wrong with it.

An image whose truth is in doubt is left out and named: a detector must not learn from a guess.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dataset.reader import CLASSES, LABEL_FRAME, OPACITY
from pneumonia.runtime.errors import DataError

LABEL_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_MAX_AGE_YEARS = 120


class Labels(NamedTuple):
    """What the csv files say.

    Attributes:
        boxes: image_id -> float64 (n, 4) xyxy in the frame of 1024; n = 0 without opacity.
        classes: image_id -> class; empty when there is no class table.
        rejected: image_id -> reason, disjoint from `boxes`.
        adjusted: Repaired rows by kind of repair.
    """

    boxes: dict[str, npt.NDArray[np.float64]]
    classes: dict[str, str]
    rejected: dict[str, str]
    adjusted: Counter[str]


class _BadRowError(Exception):
    """A row cannot be used; its text is the reason."""


def read_labels(labels_csv: Path, class_csv: Path | None) -> Labels:
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
    for row in read_table(labels_csv, LABEL_COLUMNS):
        image_id = (row["patientId"] or "").strip()
        box: tuple[float, ...] = ()
        try:
            box = _row_box(image_id, row, adjusted)
        except _BadRowError as fault:
            rejected.setdefault(image_id, str(fault))
            continue
        rows = found.setdefault(image_id, set())
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
    return Labels(boxes, classes, rejected, adjusted)


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows of a csv that has at least these columns.

    Raises:
        DataError: Missing, unreadable, not UTF-8, without these columns or without rows.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataError(
                    "Table lacks columns",
                    expected=",".join(columns),
                    found=",".join(header)[:200] or "an empty file",
                    where=str(path),
                )
            reader.fieldnames = header
            empty = True
            for row in reader:
                empty = False
                yield {name: row[name] or "" for name in header}
    except OSError as error:
        raise DataError(
            "Cannot read table", found=error.strerror or str(error), where=str(path)
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "Table is not a UTF-8 csv", found=type(error).__name__, where=str(path)
        ) from None
    if empty:
        raise DataError("Table has no rows", where=str(path))


def parse_age(text: str) -> int | None:
    """Years from `056Y`, `8M`, `20D` or `56`; None when absent, malformed or over 120."""
    text = text.strip()
    unit = 1.0
    if text[-1:] in "YMWD" and text:
        unit = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[text[-1]]
        text = text[:-1]
    try:
        years = float(text) / unit
    except ValueError:
        return None
    # NaN fails the comparison too
    return int(years) if 0 <= years <= _MAX_AGE_YEARS else None


def _row_box(image_id: str, row: Mapping[str, str], adjusted: Counter[str]) -> tuple[float, ...]:
    """The row's box xyxy, () for a negative; raises _BadRowError."""
    if not image_id:
        raise _BadRowError("no_id")
    target = _number(row["Target"])
    if target not in (0.0, 1.0):
        raise _BadRowError("bad_target")
    sides = [_number(row[name]) for name in ("x", "y", "width", "height")]
    if target == 0.0:
        if any(math.isfinite(side) for side in sides):
            raise _BadRowError("target_mismatch")
        return ()
    if not all(math.isfinite(side) for side in sides):
        raise _BadRowError("box_not_finite")
    x, y, width, height = sides
    if width <= 0 or height <= 0:
        raise _BadRowError("box_without_area")
    box = (x, y, x + width, y + height)
    clipped = tuple(min(max(side, 0.0), float(LABEL_FRAME)) for side in box)
    if clipped[2] - clipped[0] < 1 or clipped[3] - clipped[1] < 1:
        raise _BadRowError("box_outside_frame")
    if clipped != box:
        adjusted["box_clipped_to_frame"] += 1
    return clipped


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_classes(
    path: Path, boxes: Mapping[str, npt.NDArray[np.float64]], rejected: dict[str, str]
) -> dict[str, str]:
    """image_id -> class; marks contradictions in `rejected`."""
    classes: dict[str, str] = {}
    for row in read_table(path, ("patientId", "class")):
        image_id, name = row["patientId"].strip(), row["class"].strip()
        if name not in CLASSES:
            rejected.setdefault(image_id, "unknown_class")
        elif classes.setdefault(image_id, name) != name:
            rejected.setdefault(image_id, "class_conflict")
    for image_id, found in boxes.items():
        name = classes.get(image_id, "")
        if name and (name == OPACITY) != bool(len(found)):
            rejected.setdefault(image_id, "class_target_mismatch")
    return classes


def _reasons(rejected: Mapping[str, str]) -> str:
    counts = Counter(rejected.values())
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
