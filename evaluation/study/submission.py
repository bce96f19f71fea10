"""The challenge's submission file: `patientId,PredictionString`, confidence first, then xywh."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.csv_tables import escape_name, read_exact_table, unescape_name
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import LABEL_FRAME
from pneumonia.runtime.model.predictions import Prediction, float32_text

HEADER = ("patientId", "PredictionString")


def is_submission(path: str | Path) -> bool:
    """Whether a csv starts with the header of a submission."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            return tuple(next(csv.reader(stream), [])) == HEADER
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def submission_text(
    predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], threshold: float = 0.0
) -> str:
    """The csv's text.

    Args:
        predictions: Image id -> ((k, 4) xyxy in pixels of the 1024 frame, (k,) scores).
        threshold: Boxes of lower score are left out.

    Raises:
        DataError: A coordinate or score is not finite, or an id is empty.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEADER)
    for image_id, (boxes, scores) in predictions.items():
        rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        values = np.asarray(scores, dtype=np.float64).reshape(-1)
        if not image_id or not np.isfinite(rows).all() or not np.isfinite(values).all():
            raise DataError("Submission is not valid", expected="named images, finite numbers")
        parts = []
        for (x1, y1, x2, y2), score in zip(rows, values, strict=True):
            if score >= threshold:
                parts += [float32_text(value) for value in (score, x1, y1, x2 - x1, y2 - y1)]
        writer.writerow([escape_name(image_id), " ".join(parts)])
    return stream.getvalue()


def write_submission(
    path: str | Path,
    predictions: Mapping[str, tuple[ArrayLike, ArrayLike]],
    threshold: float = 0.0,
) -> None:
    """Write a submission file; see `submission_text`."""
    write_text(str(path), submission_text(predictions, threshold))


def read_submission(path: str | Path, frame: float = LABEL_FRAME) -> list[Prediction]:
    """Read a submission file.

    Args:
        frame: Side of the square frame of its boxes, pixels.

    Returns:
        One prediction per image, in the file's order.

    Raises:
        DataError: Not readable, another header, an image named twice, a number of values that is
            not a multiple of five, a value that is not finite, or a negative width or height.
    """
    predictions: dict[str, Prediction] = {}
    for line, fields in read_exact_table(str(path), HEADER, "submission"):
        where = f"{path}, line {line}"
        image_id = unescape_name(fields[0].strip()) if fields else ""
        if not image_id or len(fields) > 2 or image_id in predictions:
            raise DataError(
                "Row of submission is malformed", expected="each image once", where=where
            )
        boxes, scores = _parse(fields[1] if len(fields) == 2 else "", where)
        predictions[image_id] = Prediction(image_id, boxes, scores, round(frame), round(frame))
    return list(predictions.values())


def _parse(text: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        raise DataError("PredictionString has a value that is not a number", where=where) from None
    if len(values) % 5 or not all(math.isfinite(value) for value in values):
        raise DataError(
            "PredictionString is malformed",
            expected="score x y width height, repeated, all finite",
            found=f"{len(values)} values",
            where=where,
        )
    rows = np.array(values, dtype=np.float64).reshape(-1, 5)
    if (rows[:, 3:] < 0).any():
        raise DataError("Box has a negative width or height", where=where)
    boxes = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:]], axis=1)
    return boxes.astype(np.float32), rows[:, 0].astype(np.float32)
