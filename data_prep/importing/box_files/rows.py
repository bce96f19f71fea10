"""What label files state about images, in the same form for every format."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pneumonia.runtime.label_table import BOX_NOT_FINITE, BOX_WITHOUT_AREA

Frame = tuple[float, float]  # width and height that boxes refer to
RELATIVE: Frame = (1.0, 1.0)  # boxes are shares of width and height


class BoxRow(NamedTuple):
    """A statement of a label file about one image."""

    image: str  # name of the image in the file
    # edges in pixels of the frame; None when the row has no box, or a faulty one
    box_xyxy: tuple[float, ...] | None = None
    category: str = ""  # name of the box's category; empty without categories
    fault: str = ""  # reason to reject the image; empty for a valid row
    negative: bool = False  # whether the row states that the image has no finding
    class_name: str = ""  # class of a negative image; empty when it is not given
    # frame that the file states for this image; None = the pixels of the image
    frame: Frame | None = None
    assertion: str = ""  # `present` or `uncertain` in COCO files of our readers, else empty


class PatientRow(NamedTuple):
    """Patient and given split of one image; empty when not given."""

    image: str
    patient: str
    split: str


class BoxLabels(NamedTuple):
    """Content of a label file."""

    rows: list[BoxRow]  # statements about images, faulty ones included
    patients: Sequence[PatientRow] = ()  # patients and splits, where the file has them
    # whether a stated frame is meant as the size of the image file
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
