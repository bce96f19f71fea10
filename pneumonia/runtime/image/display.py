"""Stored pixel values to display values: modality LUT, VOI, inversion, 8 bits (DICOM PS3.3 C.11).

A stored value has at most 16 bits, so the whole chain is computed once per possible value and
applied as one table look-up.
"""

import math
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.attributes import (
    first_number,
    first_text,
    number_warnings,
    sequence_items,
)

LINEAR = "LINEAR"
LINEAR_EXACT = "LINEAR_EXACT"
SIGMOID = "SIGMOID"
FUNCTIONS = (LINEAR, LINEAR_EXACT, SIGMOID)
_NUMBERS = ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept")


class LookUpTable(NamedTuple):
    """A DICOM LUT."""

    values: np.ndarray  # uint16 or uint8 (n,)
    # the input value that maps to values[0]; lower ones do too, and those above the table map to
    # its last value
    first: int
    bits: int  # bits of an output value

    def apply(self, inputs: np.ndarray) -> np.ndarray:
        """Look up float or integer inputs; returns float64 of the same shape."""
        index = np.clip(np.floor(inputs) - self.first, 0, len(self.values) - 1)
        return np.asarray(self.values[index.astype(np.int64)], dtype=np.float64)

    def used_bits(self) -> int:
        """Bits of the largest value, at least 1: devices state 16 for tables that end at 4095."""
        return max(1, int(self.values.max()).bit_length())


class VoiWindow(NamedTuple):
    """A VOI window in modality units."""

    center: float
    width: float
    function: str = LINEAR

    def is_valid(self) -> bool:
        """Widths below 1 (LINEAR) or not above 0 have no meaning."""
        least = 1.0 if self.function == LINEAR else 0.0
        finite = math.isfinite(self.center) and math.isfinite(self.width)
        return finite and self.width >= least and self.width > 0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map modality values to 0..1 (PS3.3 C.11.2.1.2, C.11.2.1.3)."""
        if self.function == SIGMOID:
            scaled = np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0)
            return np.asarray(1.0 / (1.0 + np.exp(scaled)))
        center, width = self.center, self.width
        if self.function == LINEAR:
            center, width = center - 0.5, width - 1.0
            if width == 0:
                return np.where(values > center, 1.0, 0.0)
        return np.asarray(np.clip((values - (center - width / 2.0)) / width, 0.0, 1.0))


class DisplayPlan(NamedTuple):
    """The display chain of one image: stored values to grey levels."""

    bits_stored: int  # bits of a stored value
    signed: bool = False  # whether stored values are two's complement
    slope: float = 1.0  # rescale slope, used when there is no modality LUT
    intercept: float = 0.0  # rescale intercept
    modality_lut: Optional[LookUpTable] = None  # used instead of slope and intercept
    voi_lut: Optional[LookUpTable] = None  # used before any window
    window: Optional[VoiWindow] = None  # the first window
    invert: bool = False  # MONOCHROME1: the lowest value is white
    # range (low, high) of stored values that mark padding, not image
    padding: Optional[Tuple[int, int]] = None

    def stored_range(self) -> Tuple[int, int]:
        """The lowest and highest value that `bits_stored` can hold."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1

    def modality(self, stored: np.ndarray) -> np.ndarray:
        """Stored values to modality units, float64."""
        if self.modality_lut is not None:
            return self.modality_lut.apply(stored)
        return np.asarray(stored * self.slope + self.intercept)

    def voi(self) -> str:
        """`lut`, `window`, `full` (8 bits and less: as stored) or `minmax` (more, no VOI given)."""
        if self.voi_lut is not None:
            return "lut"
        if self.window is not None:
            return "window"
        return "full" if self.bits_stored <= 8 else "minmax"

    def spread(self, present: np.ndarray) -> Tuple[float, float]:
        """The modality values shown black and white when the header gives no VOI transform.

        Args:
            present: Stored values that occur in the image, padding left out.
        """
        if self.voi() == "full" and self.modality_lut is not None:
            return 0.0, float((1 << self.modality_lut.used_bits()) - 1)
        ends = self.modality(np.array(self.stored_range()) if self.voi() == "full" else present)
        return float(ends.min()), float(ends.max())


def _unit_range(plan: DisplayPlan, stored: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Stored values -> 0..1 before inversion; `present` are the values that occur in the image."""
    values = plan.modality(stored)
    if plan.voi_lut is not None:
        return np.asarray(plan.voi_lut.apply(values) / float((1 << plan.voi_lut.bits) - 1))
    if plan.window is not None:
        return plan.window.apply(values)
    low, high = plan.spread(present)
    if high <= low:
        return np.zeros(len(values))
    return np.asarray((values - low) / (high - low))


def to_grey(pixels: np.ndarray, plan: DisplayPlan) -> np.ndarray:
    """Apply the plan.

    Args:
        pixels: Stored values, integer (H, W), inside the plan's stored range.

    Returns:
        uint8 (H, W); 255 is white as a radiologist sees it (dense tissue bright).
    """
    if pixels.dtype == np.uint8 and plan.voi() != "minmax":  # one table for all images
        table = _table(plan, np.arange(256), np.ones(256, dtype=bool))
        if (table == np.arange(256)).all():
            return pixels
        data = pixels.tobytes().translate(table.tobytes())
        return np.frombuffer(data, dtype=np.uint8).reshape(pixels.shape)
    low, high = int(pixels.min()), int(pixels.max())
    shifted = pixels.astype(np.int32) - low
    occurs = np.zeros(high - low + 1, dtype=bool)
    occurs[shifted] = True
    return np.asarray(_table(plan, np.arange(low, high + 1), occurs)[shifted])


def occurring_range(pixels: np.ndarray, plan: DisplayPlan) -> Tuple[int, int]:
    """The smallest and largest stored value of an image, padding left out where it can be."""
    if plan.padding is not None:
        image = pixels[(pixels < min(plan.padding)) | (pixels > max(plan.padding))]
        pixels = image if image.size else pixels
    return int(pixels.min()), int(pixels.max())


def _table(plan: DisplayPlan, stored: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """The grey level, uint8, of each stored value; `occurs` marks those in the image."""
    is_padding = np.zeros(len(stored), dtype=bool)
    if plan.padding is not None:
        is_padding = (stored >= min(plan.padding)) & (stored <= max(plan.padding))
    present = stored[occurs & ~is_padding]
    unit = _unit_range(plan, stored, present if len(present) else stored)
    if plan.invert:
        unit = 1.0 - unit
    table = np.floor(np.clip(unit, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    table[is_padding] = 0
    return np.asarray(table)


# --- reading the plan from a header -------------------------------------------------------------


def read_lut(item: Any, signed_input: bool, big_endian: bool) -> LookUpTable:
    """A LUT from an item of Modality LUT Sequence or VOI LUT Sequence.

    Raises:
        DicomError: rejected, `lut`: descriptor and data do not fit.
    """
    try:
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = (count & 0xFFFF) or 65536
        values = _lut_values(item.LUTData, count, big_endian)
    except (AttributeError, TypeError, ValueError):
        raise _bad_lut("a descriptor of 3 numbers and data", "others") from None
    if len(values) < count or not 1 <= bits <= 16:
        raise _bad_lut("{} entries of 1..16 bits".format(count), "{}".format(len(values)))
    first &= 0xFFFF
    if signed_input and first >= 0x8000:
        first -= 0x10000
    return LookUpTable(values[:count], first, bits)


def _lut_values(data: Any, count: int, big_endian: bool) -> np.ndarray:
    """Entries of a LUT, uint16, or uint8 where there is one byte (padded to even) per entry."""
    if not isinstance(data, (bytes, bytearray)):
        numbers = np.asarray(data if hasattr(data, "__len__") else [data]).astype(np.int64)
        data, big_endian = (numbers & 0xFFFF).astype("<u2").tobytes(), False
    if len(data) == count or (len(data) == count + 1 and count > 1):
        return np.frombuffer(bytes(data), dtype=np.uint8)
    return np.frombuffer(bytes(data), dtype=">u2" if big_endian else "<u2")


def _bad_lut(expected: str, found: str) -> DicomError:
    return DicomError("Look-up table of the image is malformed", "rejected", "lut", expected, found)


def _first_item(dataset: Any, keyword: str) -> Optional[Any]:
    items = sequence_items(dataset, keyword)
    if items is None:
        raise _bad_lut("a sequence of items", "other bytes")
    return items[0] if items and "LUTData" in items[0] else None


def _window(dataset: Any, warnings: List[str]) -> Optional[VoiWindow]:
    center = first_number(dataset, "WindowCenter")
    width = first_number(dataset, "WindowWidth")
    if center is None and width is None:
        return None
    if center is None or width is None:
        warnings.append("window_invalid")
        return None
    function = (first_text(dataset, "VOILUTFunction") or LINEAR).upper()
    if function not in FUNCTIONS:
        warnings.append("voi_function_unknown")
        function = LINEAR
    window = VoiWindow(center, width, function)
    if not window.is_valid():
        warnings.append("window_invalid")
        return None
    return window


def _rescale(dataset: Any, warnings: List[str]) -> Tuple[float, float]:
    """Rescale slope and intercept; one that is missing changes nothing, nor does a slope of 0."""
    slope = first_number(dataset, "RescaleSlope")
    intercept = first_number(dataset, "RescaleIntercept")
    if slope == 0:
        warnings.append("rescale_slope_zero")
        return 1.0, 0.0
    if (slope is None) != (intercept is None):
        warnings.append("rescale_incomplete")
    return 1.0 if slope is None else slope, intercept or 0.0


def _padding(dataset: Any) -> Optional[Tuple[int, int]]:
    value = first_number(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = first_number(dataset, "PixelPaddingRangeLimit")
    return int(value), int(value if limit is None else limit)


def plan_from_header(dataset: Any, big_endian: bool, warnings: List[str]) -> DisplayPlan:
    """Read the display chain of a checked DICOM header.

    Args:
        dataset: pydicom dataset with valid image attributes.
        big_endian: Byte order of LUT data stored as bytes.
        warnings: List to which a code is appended for each deviation from the standard.

    Raises:
        DicomError: rejected, `lut`: a LUT is malformed.
    """
    warnings += number_warnings(dataset, _NUMBERS)
    signed = int(dataset.PixelRepresentation) == 1
    invert = first_text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    slope, intercept = _rescale(dataset, warnings)
    modality_item = _first_item(dataset, "ModalityLUTSequence")
    voi_item = _first_item(dataset, "VOILUTSequence")
    shape = first_text(dataset, "PresentationLUTShape").upper()
    if shape and (shape == "INVERSE") != invert:
        warnings.append("presentation_lut_conflict")
    plan = DisplayPlan(
        bits_stored=int(dataset.BitsStored),
        signed=signed,
        slope=slope,
        intercept=intercept,
        modality_lut=read_lut(modality_item, signed, big_endian) if modality_item else None,
        invert=invert,
        padding=_padding(dataset),
    )
    if voi_item is not None:
        lowest = float(plan.modality(np.array(plan.stored_range())).min())
        voi_lut = read_lut(voi_item, lowest < 0, big_endian)
        if voi_lut.used_bits() != voi_lut.bits:
            warnings.append("lut_bits_differ")
        return plan._replace(voi_lut=voi_lut._replace(bits=voi_lut.used_bits()))
    plan = plan._replace(window=_window(dataset, warnings))
    lut = plan.modality_lut
    if lut is not None and plan.voi() == "full" and lut.used_bits() != lut.bits:
        warnings.append("lut_bits_differ")
    return plan
