"""Window and level at the stored bit depth, beyond the range of the header's window.

A window is given in units of the image as it is first displayed: centre 0.5 and width 1 change
nothing, width 2 adds half the range on either side.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.dataset.reader import Pixels
from pneumonia.runtime.image.dicom_header import BIG_ENDIAN, read_header
from pneumonia.runtime.image.dicom_pixels import decode_pixels
from pneumonia.runtime.image.display import (
    LINEAR,
    LINEAR_EXACT,
    SIGMOID,
    DisplayPlan,
    VoiWindow,
    plan_from_header,
    to_grey,
)
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS

MIN_WIDTH, MAX_WIDTH = 0.005, 16.0
_HEAD_BYTES = 132


def windowed_png(path: Path, center: float, width: float) -> bytes:
    """The image under another window as 8-bit grey PNG; see `windowed_pixels`.

    Raises:
        DicomError: The file cannot be read.
    """
    stream = io.BytesIO()
    Image.fromarray(windowed_pixels(path, center, width)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def windowed_pixels(path: Path, center: float, width: float) -> Pixels:
    """The image under another window.

    Args:
        center: Centre of the window; 0..1 is the range of the first display.
        width: Width of the window in the same unit, > 0.

    Returns:
        uint8 (H, W). DICOM with a linear window or none: from the stored values. Otherwise (look-up
        table, sigmoid, PNG, JPEG) from the 8 bits of the first display.

    Raises:
        DicomError: The file cannot be read.
    """
    shown = read_radiograph(str(path)).pixels  # also checks the file
    if (center, width) == (0.5, 1.0):
        return shown
    deep = _from_stored(path, center, width)
    if deep is not None:
        return deep
    unit = (np.arange(256) / 255.0 - (center - width / 2)) / width
    table = np.floor(np.clip(unit, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return np.asarray(table[shown])


def _from_stored(path: Path, center: float, width: float) -> Pixels | None:
    with path.open("rb") as stream:
        if stream.read(_HEAD_BYTES)[128:] != b"DICM":
            return None
        header = read_header(stream, DEFAULT_LIMITS, True)
        plan = plan_from_header(header.dataset, header.syntax == BIG_ENDIAN, [])
        values = decode_pixels(stream, header).values
    ends = _range(plan, values)
    if ends is None:
        return None
    low, span = ends
    start = center - width / 2
    if plan.invert:  # MONOCHROME1: the window is mirrored
        start = 1 - start - width
    middle = low + (start + width / 2) * span
    window = VoiWindow(middle, width * span, LINEAR_EXACT)
    return to_grey(values, plan._replace(window=window))


def _range(plan: DisplayPlan, values: npt.NDArray[np.integer]) -> tuple[float, float] | None:
    """Lower bound and width of the first display's range in modality units; None if undefined."""
    if plan.voi_lut is not None or (plan.window and plan.window.function == SIGMOID):
        return None
    if plan.window is not None:
        c, w, function = plan.window
        low, span = (c - 0.5 - (w - 1) / 2, w - 1) if function == LINEAR else (c - w / 2, w)
    else:
        ends = plan.modality(np.array(_ends(plan, values)))
        low, span = float(ends.min()), float(ends.max() - ends.min())
    return (low, span) if span > 0 else None


def _ends(plan: DisplayPlan, values: npt.NDArray[np.integer]) -> tuple[int, int]:
    if plan.voi() == "full":
        return plan.stored_range()
    if plan.padding is not None:
        first, last = min(plan.padding), max(plan.padding)
        image = values[(values < first) | (values > last)]
        values = image if image.size else values
    return int(values.min()), int(values.max())
