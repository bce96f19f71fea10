"""predictions.csv: what `score` writes and `evaluate` reads (contract in docs/architecture.md)."""

import csv
import io
import math
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.csv_tables import escape_name, read_exact_table, unescape_name
from pneumonia.runtime.errors import DataError

HEADER = ("image_id", "score", "x1", "y1", "x2", "y2", "width", "height")

Row = Tuple[Optional[Tuple[float, ...]], int, int]  # (score, x1, y1, x2, y2) or None; width, height


class Prediction(NamedTuple):
    """The boxes found in one image."""

    image_id: str  # RSNA patientId or file stem
    boxes: np.ndarray  # float32 xyxy (n, 4) in pixels of the image as given
    scores: np.ndarray  # float32 (n,)
    width: int  # width of that image
    height: int  # height of that image


def float32_text(value: float) -> str:
    """The shortest text that reads back as the same float32."""
    return str(np.format_float_positional(np.float32(value), trim="-"))


def predictions_text(predictions: Iterable[Prediction]) -> str:
    """The csv's text; see `write_predictions`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEADER)
    seen = set()
    for number, item in enumerate(predictions, 1):
        values = np.concatenate([np.ravel(item.scores), np.ravel(item.boxes)])
        named = item.image_id and not any(ord(character) < 32 for character in item.image_id)
        if item.image_id in seen or not named or not np.isfinite(values).all():
            raise DataError(
                "Predictions are not valid",
                expected="each image once, with a printable name and finite numbers",
                where="image {} of them".format(number),  # a name may name a patient
            )
        seen.add(item.image_id)
        name = escape_name(item.image_id)
        size = [str(int(item.width)), str(int(item.height))]
        if len(item.scores) == 0:
            writer.writerow([name, "", "", "", "", ""] + size)
        for score, box in zip(item.scores, item.boxes):
            writer.writerow(
                [name, float32_text(score)] + [float32_text(edge) for edge in box] + size
            )
    return stream.getvalue()


def write_predictions(path: str, predictions: Iterable[Prediction]) -> None:
    """Write predictions.csv atomically; reading it back gives the same names and float32 values.

    A name that a spreadsheet would take for a formula gets an apostrophe, which reading takes off.

    Raises:
        DataError: An image occurs twice, has no name or one with control characters, or a number
            is not finite.
        OutputError: The file cannot be written.
    """
    write_text(path, predictions_text(predictions))


def _parse_row(fields: Sequence[str], where: str) -> Row:
    if len(fields) != len(HEADER) or not fields[0]:
        raise DataError(
            "Row of predictions is malformed",
            expected=",".join(HEADER),
            found="{} fields".format(len(fields)),
            where=where,
        )
    try:
        width, height = int(fields[6]), int(fields[7])
        empty = not any(fields[1:6])
        numbers = None if empty else tuple(float(field) for field in fields[1:6])
    except ValueError:
        raise DataError("Predictions hold something that is not a number", where=where) from None
    if width < 1 or height < 1:
        raise DataError(
            "Image size is not positive", found=fields[6] + "x" + fields[7], where=where
        )
    if numbers is not None:
        _, x1, y1, x2, y2 = numbers
        if not all(math.isfinite(number) for number in numbers) or x2 < x1 or y2 < y1:
            raise DataError(
                "Box is not valid",
                expected="finite, x1 <= x2, y1 <= y2",
                found=str(numbers),
                where=where,
            )
    return numbers, width, height


def read_predictions(path: str) -> List[Prediction]:
    """Read predictions.csv.

    Returns:
        One Prediction per image, in the file's order.

    Raises:
        DataError: Not readable, another header, a malformed row, an image with two sizes, or one
            that is both empty and has boxes.
    """
    path = str(path)
    groups: Dict[str, List[Row]] = {}
    lines: Dict[str, List[int]] = {}
    for line, fields in read_exact_table(path, HEADER, "predictions"):
        if fields:
            row = _parse_row(fields, "{}, line {}".format(path, line))
            name = unescape_name(fields[0])
            groups.setdefault(name, []).append(row)
            lines.setdefault(name, []).append(line)
    return [
        _prediction(image_id, rows, "{}, lines {} to {}".format(path, *_ends(lines[image_id])))
        for image_id, rows in groups.items()
    ]


def _ends(numbers: List[int]) -> Tuple[int, int]:
    return numbers[0], numbers[-1]


def _prediction(image_id: str, rows: List[Row], where: str) -> Prediction:
    sizes = {row[1:] for row in rows}
    found = [row[0] for row in rows if row[0] is not None]
    if len(sizes) != 1 or (found and len(found) != len(rows)) or (not found and len(rows) > 1):
        # The error gives the lines, not the image: a file name may name a patient.
        raise DataError(
            "Rows of one image contradict each other",
            expected="one size, and either boxes or one empty row",
            where=where,
        )
    table = np.array(found, dtype=np.float32).reshape(-1, 5)
    return Prediction(image_id, table[:, 1:], table[:, 0], rows[0][1], rows[0][2])
