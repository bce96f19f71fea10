"""What label files state about images, in the same form for every format."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pneumonia.runtime.label_table import BOX_NOT_FINITE, BOX_WITHOUT_AREA

Frame = tuple[float, float]  # width and height that boxes refer to
RELATIVE: Frame = (1.0, 1.0)  # boxes are shares of width and height


class BoxRow(NamedTuple):
    """A statement of a label file about one image.

    Attributes:
        image: Name of the image in the file.
        box_xyxy: Edges in pixels of the frame; None when the row has no box, or a faulty one.
        category: Name of the box's category; empty without categories.
        fault: Reason to reject the image; empty for a valid row.
        negative: Whether the row states that the image has no finding.
        class_name: Class of a negative image; empty when it is not given.
        frame: Frame that the file states for this image; None = the pixels of the image.
    """

    image: str
    box_xyxy: tuple[float, ...] | None = None
    category: str = ""
    fault: str = ""
    negative: bool = False
    class_name: str = ""
    frame: Frame | None = None


class PatientRow(NamedTuple):
    """Patient and given split of one image; empty when not given."""

    image: str
    patient: str
    split: str


class BoxLabels(NamedTuple):
    """Content of a label file.

    Attributes:
        rows: Statements about images, faulty ones included.
        patients: Patients and splits, where the file has them.
        frame_is_image_size: Whether a stated frame is meant as the size of the image file.
    """

    rows: list[BoxRow]
    patients: Sequence[PatientRow] = ()
    frame_is_image_size: bool = False


def box_row(image: str, box_xyxy: Sequence[float], category: str, frame: Frame | None) -> BoxRow:
    """A row with a box, or with the fault of the box."""
    if not all(map(math.isfinite, box_xyxy)):
        return BoxRow(image, category=category, fault=BOX_NOT_FINITE)
    if box_xyxy[2] <= box_xyxy[0] or box_xyxy[3] <= box_xyxy[1]:
        return BoxRow(image, category=category, fault=BOX_WITHOUT_AREA)
    return BoxRow(image, tuple(box_xyxy), category, frame=frame)


def number(value: object) -> float:
    """A number of a file, as text or not; NaN when it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
