"""About 200 headers that ask for a grey scale in different ways, and how dcmtk shows them.

`python -m tests.runtime.image.presentation_headers` writes what dcmtk shows at some pixels of each
into GOLDEN.
"""

import json
import math
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from tests.runtime.dicoms import chest_dataset, save

SIDE = 64
GOLDEN = Path(__file__).with_name("presentation_dcmtk.json")
STEP = 257  # between the pixels in GOLDEN; coprime to SIDE
# name -> BitsAllocated, BitsStored, HighBit
BITS = {
    "8": (8, 8, 7),
    "7": (8, 7, 6),
    "16/8": (16, 8, 7),
    "16/10": (16, 10, 9),
    "16/12": (16, 12, 11),
    "16/12 high": (16, 12, 15),
    "16/14": (16, 14, 13),
    "16/16": (16, 16, 15),
}
# name -> RescaleSlope, RescaleIntercept as written in the file
RESCALE = {
    "none": (None, None),
    "1, 0": ("1", "0"),
    "fraction": ("1.5", "-100"),
    "comma": ("2,5", "-100,5"),
    "slope alone": ("2", None),
    "intercept alone": (None, "-1000"),
    "negative": ("-1", "4095"),
    "zero": ("0", "10"),
    "modality lut": (None, None),
}
# name -> center and width in fractions of the modality range, VOI LUT function
WINDOWS = {
    "none": None,
    "whole": (0.5, 1.0, None),
    "narrow": (0.4, 0.2, None),
    "fraction": (0.37123, 0.5123, None),
    "comma": (0.4, 0.5, None),
    "width 1": (0.5, "1", None),
    "width 0": (0.5, "0", None),
    "negative": (0.5, "-100", None),
    "center alone": (0.5, None, None),
    "two": (0.5, 0.6, None),
    "no number": ("abc", 0.6, None),
    "exact": (0.5, 0.5, "LINEAR_EXACT"),
    "sigmoid": (0.5, 0.3, "SIGMOID"),
    "unknown": (0.5, 0.5, "CURVED"),
}
# name -> bits of the data, bits in the descriptor, bytes per entry
LUTS = {
    "none": None,
    "12": (12, 12, 2),
    "16": (16, 16, 2),
    "12 in 16": (12, 16, 2),
    "10 in 16": (10, 16, 2),
    "15 in 16": (15, 16, 2),
    "16 in 12": (16, 12, 2),
    "8": (8, 8, 2),
    "8 bytes": (8, 8, 1),
    "8 bytes in 16": (8, 16, 1),
    "8 in 16": (8, 16, 2),
    "falling": (12, 12, 2),
    "part": (12, 16, 2),
}


def cases(count=200, seed=0):
    """Headers (name, dataset) that cover every pair of properties."""
    rng = np.random.default_rng(seed)
    axes = [list(BITS), [False, True], list(RESCALE), list(WINDOWS), list(LUTS), [1, 2]]
    weights = [None, None, None, None, None, None]
    weights[4] = np.array([0.4] + [0.6 / (len(LUTS) - 1)] * (len(LUTS) - 1))
    for number in range(count):
        # each value of an axis comes up about equally often, in an order of its own per axis
        row = []
        for axis, weight in zip(axes, weights, strict=True):
            position = number % len(axis)
            if weight is not None or number >= len(axis):
                position = int(rng.choice(len(axis), p=weight))
            row.append(axis[position])
        yield (number, *row)


def build(case, mended=False):
    """The data set of a case.

    Args:
        case: From `cases`.
        mended: Write what is meant where the header breaks the standard: decimal points for
            commas, both rescale values for one, none for a slope of 0.
    """
    number, bits, signed, rescale, window, lut, polarity = case
    allocated, stored_bits, high = BITS[bits]
    low = -(1 << (stored_bits - 1)) if signed else 0
    levels = 1 << stored_bits
    rng = np.random.default_rng(number)
    first, last = (0.0, 1.0) if number % 3 else (0.2, 0.7)  # the picture need not fill the range
    ramp = np.linspace(first, last, SIDE * SIDE) * (levels - 1)
    stored = np.clip(np.rint(ramp), 0, levels - 1).astype(np.int64) + low
    rng.shuffle(stored)
    kind = {8: "u1", 16: "<u2"}[allocated]
    shifted = (stored.reshape(SIDE, SIDE) & (levels - 1)) << (high + 1 - stored_bits)
    if signed and high + 1 < allocated:  # sign bits above, as devices write them
        shifted |= np.where(stored.reshape(SIDE, SIDE) < 0, -1 << (high + 1), 0)
    pixels = (shifted & ((1 << allocated) - 1)).astype(kind)
    dataset = chest_dataset(
        pixels, stored_bits, f"MONOCHROME{polarity}",
        HighBit=high, PixelRepresentation=int(signed),
        SOPInstanceUID=f"2.25.{1000 + number}",
    )  # fmt: skip
    low_unit, high_unit = _set_modality(dataset, rescale, low, levels, mended)
    if WINDOWS[window] is not None:
        _set_window(dataset, WINDOWS[window], window, (low_unit, high_unit), mended)
    if LUTS[lut] is not None:
        _set_voi_lut(dataset, LUTS[lut], lut, low_unit, high_unit)
    return dataset


def _set_modality(dataset, rescale, low, levels, mended):
    """Set the modality transform; returns the range of its output."""
    slope, intercept = RESCALE[rescale]
    if rescale == "modality lut":
        item = Dataset()
        count = min(levels, 4096)
        item.add_new("LUTDescriptor", "SS" if low < 0 else "US", [count, low, 16])
        curve = np.rint(4095 * (np.arange(count) / (count - 1)) ** 0.8)
        item.add_new("LUTData", "OW", curve.astype("<u2").tobytes())
        item.ModalityLUTType = "US"
        dataset.ModalityLUTSequence = [item]
        return 0.0, 4095.0
    meant = ("1", "0") if slope == "0" else (slope or "1", intercept or "0")
    meant = [text.replace(",", ".") for text in meant]
    if mended and (slope or intercept):
        slope, intercept = meant
    put_text(dataset, "RescaleSlope", slope)
    put_text(dataset, "RescaleIntercept", intercept)
    dataset.RescaleType = "US"
    ends = [float(meant[0]) * x + float(meant[1]) for x in (low, low + levels)]
    return min(ends), max(ends)


def _set_window(dataset, shape, name, ends, mended):
    center, width, function = shape
    low, span = ends[0], ends[1] - ends[0]
    center = f"{low + center * span:.6g}" if isinstance(center, float) else center
    width = f"{max(width * span, 1.0):.6g}" if isinstance(width, float) else width
    if name == "comma" and not mended:
        center, width = center.replace(".", ","), f"{float(width):.1f}".replace(".", ",")
    if name == "two":
        center, width = center + "\\1", width + "\\2"
    put_text(dataset, "WindowCenter", center)
    put_text(dataset, "WindowWidth", width)
    if function:
        dataset.VOILUTFunction = function


def _set_voi_lut(dataset, shape, name, low, high):
    data_bits, stated_bits, entry_bytes = shape
    first, last = int(np.floor(max(low, -32768))), int(np.ceil(min(high, 65535)))
    if name == "part":
        first, last = first + (last - first) // 4, last - (last - first) // 4
    count = int(np.clip(last - first, 2, 65535))
    curve = (np.arange(count) / (count - 1)) ** 1.4
    if name == "falling":
        curve = 1 - curve
    values = np.rint(curve * ((1 << data_bits) - 1))
    data = values.astype("u1" if entry_bytes == 1 else "<u2").tobytes()
    item = Dataset()
    kind = "<h" if first < 0 else "<H"
    words = struct.pack("<H", count & 0xFFFF) + struct.pack(kind, first)
    words += struct.pack("<H", stated_bits)
    tag = Tag(tag_for_keyword("LUTDescriptor"))
    item._dict[tag] = RawDataElement(tag, "SS" if first < 0 else "US", 6, words, 0, False, True)
    item.add_new("LUTData", "OW", data + b"\0" * (len(data) % 2))
    dataset.VOILUTSequence = [item]


def put_text(dataset, keyword, text):
    """Write a decimal string as it is, valid or not."""
    if text is not None:
        data = text.encode() + b" " * (len(text) % 2)
        tag = Tag(tag_for_keyword(keyword))
        dataset._dict[tag] = RawDataElement(tag, "DS", len(data), data, 0, False, True)


def expected_warnings(case):
    """Warnings about the header of a case, by its deviations from the standard."""
    _, bits, _, rescale, window, lut, _ = case
    codes = set()
    if rescale == "comma" or window == "comma":
        codes.add("decimal_comma")
    if window == "no number":
        codes.add("number_malformed")
    if rescale in ("slope alone", "intercept alone"):
        codes.add("rescale_incomplete")
    if rescale == "zero":
        codes.add("rescale_slope_zero")
    if LUTS[lut] is not None:
        if LUTS[lut][0] != LUTS[lut][1]:
            codes.add("lut_bits_differ")
        return codes  # windows are not looked at
    if window in ("width 0", "negative", "center alone", "no number"):
        codes.add("window_invalid")
    if window == "unknown":
        codes.add("voi_function_unknown")
    if rescale == "modality lut" and "window_invalid" in codes | {_no_voi(window)}:
        codes |= {"lut_bits_differ"} if BITS[bits][1] <= 8 else set()
    return codes


def _no_voi(window):
    return "window_invalid" if window == "none" else ""


def tolerance(case):
    """Grey levels by which dcmtk may differ.

    It rounds modality values to whole numbers, shows 7 bits by doubling (127 as 254), and takes
    LINEAR_EXACT for LINEAR, whose window is one value narrower and half a value lower.
    """
    _, bits, _, rescale, window, lut, _ = case
    levels = 3 if bits == "7" or (rescale in ("fraction", "comma") and BITS[bits][1] <= 8) else 1
    if window == "exact" and LUTS[lut] is None:
        levels += math.ceil(255 / (float(build(case, mended=True).WindowWidth) - 1))
    return levels


def shown_by_dcmtk(case, folder):
    """The picture dcmj2pnm makes: of the LUT if there is one, else the window, else all levels.

    Args:
        case: From `cases`.
        folder: For files.

    Returns:
        uint8 (SIDE, SIDE).
    """
    _, bits, _, _, window, lut, _ = case
    if LUTS[lut] is not None:
        options = ["+Mv", "+Wl", "1"]
    elif window in ("none", "width 0", "negative", "center alone", "no number"):
        options = ["-W"] if BITS[bits][1] <= 8 else ["+Wm"]
    else:
        options = ["+Wi", "1"]
    source = save(folder / "source.dcm", build(case, mended=True))
    target = folder / "shown.pgm"
    command = ["/usr/bin/dcmj2pnm", "+Mm", *options, "+op", source, target]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(target) as image:
        return np.array(image)


def write_golden():
    """Write the grey levels of dcmtk at every STEP-th pixel."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            shown = shown_by_dcmtk(case, Path(folder))
            found[str(case[0])] = shown.ravel()[::STEP].tolist()
    lines = [f'"{number}": {json.dumps(levels)}' for number, levels in found.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")


if __name__ == "__main__":
    write_golden()
