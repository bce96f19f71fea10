"""The official RSNA tables: the label csv, one row per box, and the names of the classes.

The `patientId` names one image. Import and evaluation read it here; import leaves out faulty
images and counts them, evaluation refuses the file.
"""

import math
from typing import Iterator, NamedTuple, Optional, Tuple

from pneumonia.runtime.csv_tables import read_table

LABEL_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
LABEL_FRAME = 1024  # side of the square frame in which the table gives boxes
# Classes of an image, as the official class csv names them.
LUNG_OPACITY = "Lung Opacity"
NOT_NORMAL = "No Lung Opacity / Not Normal"
NORMAL = "Normal"
CLASSES = (LUNG_OPACITY, NOT_NORMAL, NORMAL)

NO_ID = "no_id"
BAD_TARGET = "bad_target"
TARGET_MISMATCH = "target_mismatch"
BOX_NOT_FINITE = "box_not_finite"
BOX_WITHOUT_AREA = "box_without_area"

# Messages by fault.
FAULTS = {
    NO_ID: "Label row has no patientId",
    BAD_TARGET: "Target is neither 0 nor 1",
    TARGET_MISMATCH: "A negative row (Target 0) has a box",
    BOX_NOT_FINITE: "Box is not made of finite numbers",
    BOX_WITHOUT_AREA: "Box has no area",
}


class LabelRow(NamedTuple):
    """One row of the table."""

    line: int  # line number in the file, from 1
    image_id: str  # the image's name; empty with the fault `no_id`
    # edges in pixels of the labels' frame; None for a negative row or a faulty one
    box_xyxy: Optional[Tuple[float, float, float, float]]
    fault: str = ""  # a key of FAULTS, or empty


def read_label_rows(path: str) -> Iterator[LabelRow]:
    """Rows of a label csv, faulty ones included.

    Raises:
        DataError: Missing, not a UTF-8 csv, other columns, or no rows.
    """
    for line, row in read_table(path, LABEL_COLUMNS):
        image_id = row["patientId"].strip()
        target = _number(row["Target"])
        sides = [_number(row[name]) for name in ("x", "y", "width", "height")]
        finite = [math.isfinite(side) for side in sides]
        fault, box = "", None
        if not image_id:
            fault = NO_ID
        elif target not in (0.0, 1.0):
            fault = BAD_TARGET
        elif target == 0.0:
            fault = TARGET_MISMATCH if any(finite) else ""
        elif not all(finite):
            fault = BOX_NOT_FINITE
        elif sides[2] <= 0 or sides[3] <= 0:
            fault = BOX_WITHOUT_AREA
        else:
            x, y, width, height = sides
            box = (x, y, x + width, y + height)
        yield LabelRow(line, image_id, box, fault)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
