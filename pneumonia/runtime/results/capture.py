"""The secondary capture: a picture with the boxes burned in, for viewers without SR or GSPS."""

from typing import Any, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from pneumonia.runtime.errors import RESEARCH_ONLY
from pneumonia.runtime.image.attributes import first_text, joined_text
from pneumonia.runtime.image.dicom_header import spacing_mm
from pneumonia.runtime.image.preprocess import resize
from pneumonia.runtime.results.facts import ImageResult, ResultFacts
from pneumonia.runtime.results.objects import (
    image_reference,
    new_object,
    plain,
    sequence,
    set_body_part,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MAX_SIDE = 1024
MIN_WIDTH = 640  # the text must fit
LINE_PX = 24
_AROUND = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
FONT_PX = 18


def build_capture(
    header: Dataset, pixels: np.ndarray, result: ImageResult, facts: ResultFacts
) -> Dataset:
    """The picture as a grey Secondary Capture Image: radiology monitors are grey.

    Args:
        header: From `source_header`, checked.
        pixels: The image as it is displayed, uint8 (H, W).
    """
    picture = draw_capture(pixels, result, [facts.caption(), result.sentence()])
    made = new_object(header, facts, "SC", SECONDARY_CAPTURE)
    made.ConversionType = "WSD"
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.PatientOrientation = joined_text(header, "PatientOrientation")
    set_body_part(made, header)
    made.DerivationDescription = plain(
        "Boxes of {} drawn into the picture; research use only".format(facts.caption()), 1024
    )
    made.ImageComments = plain("{}. {}".format(RESEARCH_ONLY, result.sentence()), 1024)
    made.SourceImageSequence = sequence(image_reference(header))
    burned_in = first_text(header, "BurnedInAnnotation")
    if burned_in in ("YES", "NO"):
        made.BurnedInAnnotation = burned_in  # text in the source's pixels is in this picture, too
    for keyword in ("AcquisitionDate", "AcquisitionTime"):  # of the image that the picture shows
        if keyword in header:
            made[keyword] = header[keyword]
    _set_lossy(made, header)
    _set_spacing(made, header, scale_of(*pixels.shape))
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = picture.shape
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelRepresentation = 0
    made.WindowCenter, made.WindowWidth = 128, 256
    made.PresentationLUTShape = "IDENTITY"
    data = picture.tobytes()
    made.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
    return made


def scale_of(height: int, width: int) -> Tuple[float, float]:
    """Size of the picture's pixels in pixels of the image, by row and by column."""
    rows, columns = picture_size(height, width)
    return height / float(rows), width / float(columns)


def picture_size(height: int, width: int) -> Tuple[int, int]:
    """Rows and columns of the image in the picture: the longer side has at most MAX_SIDE."""
    scale = min(1.0, MAX_SIDE / float(max(height, width)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _set_spacing(made: Dataset, header: Dataset, scale: Tuple[float, float]) -> None:
    """The spacing of the picture, from the spacing that lengths in the results are measured with.

    Equal Pixel Spacing and Imager Pixel Spacing say that it is that of the detector, not of the
    patient (PS3.3 10.7.1.3).
    """
    spacing = spacing_mm(header)
    if spacing is None:
        return
    made.PixelSpacing = ["{:.8g}".format(side * by) for side, by in zip(spacing, scale)]
    if "PixelSpacing" not in header:
        made.ImagerPixelSpacing = made.PixelSpacing


def _set_lossy(made: Dataset, header: Dataset) -> None:
    """Copy the lossy compression attributes of the source (PS3.3 C.7.6.1.1.5)."""
    if first_text(header, "LossyImageCompression") != "01":
        made.LossyImageCompression = "00"
        return
    made.LossyImageCompression = "01"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in header:
            made[keyword] = header[keyword]


def draw_capture(pixels: np.ndarray, result: ImageResult, lines: Sequence[str]) -> np.ndarray:
    """Draw boxes and text on a copy; text is in strips above and below and hides no anatomy.

    Args:
        pixels: uint8 (H, W).
        result: What was found, boxes in pixels of that image.
        lines: Lines of text above the picture, below the disclaimer.

    Returns:
        uint8; the longer side of the image in it is at most 1024 pixels, orientation as stored.
    """
    height, width = pixels.shape
    rows, columns = picture_size(height, width)
    top = LINE_PX * (1 + len(lines)) + 4
    canvas = Image.new("L", (max(columns, MIN_WIDTH), top + rows + LINE_PX + 4))
    left = (canvas.width - columns) // 2
    canvas.paste(Image.fromarray(resize(pixels, rows, columns)), (left, top))
    pen = ImageDraw.Draw(canvas)
    for index, line in enumerate([RESEARCH_ONLY] + list(lines)):
        _write(pen, (6, 3 + LINE_PX * index), line, canvas.width)
    _write(pen, (6, top + rows + 3), RESEARCH_ONLY, canvas.width)
    for finding in result.findings:
        x1, y1, x2, y2 = finding.box_xyxy
        place = (
            left + x1 * columns / width,
            top + y1 * rows / height,
            left + x2 * columns / width,
            top + y2 * rows / height,
        )
        _frame(pen, place)
        corner = (place[0] + 5, max(float(top), place[1] - LINE_PX))
        _write(pen, corner, "{:.2f}".format(finding.score), canvas.width, _AROUND)
    return np.asarray(canvas, dtype=np.uint8)


def _frame(pen: Any, place: Tuple[float, float, float, float]) -> None:
    """Draw a white line between two black ones, visible on air and on bone."""
    for inset, grey in ((0, 0), (1, 255), (2, 255), (3, 0)):
        x1, y1 = place[0] + inset, place[1] + inset
        x2, y2 = max(x1, place[2] - inset), max(y1, place[3] - inset)
        pen.rectangle([x1, y1, x2, y2], outline=grey)


def _font() -> Any:
    try:
        return ImageFont.load_default(FONT_PX)
    except TypeError:  # Pillow before 10.1 has one size
        return ImageFont.load_default()


def _write(
    pen: Any,
    place: Tuple[float, float],
    line: str,
    width: int,
    around: Sequence[Tuple[int, int]] = (),
) -> None:
    """Write white text; over the image it has a black outline."""
    font = _font()
    shown = plain(line, 200)
    while len(shown) > 4 and place[0] + _length(pen, shown, font) > width:
        shown = shown.rstrip(".")[:-1] + "..."
    for dx, dy in around:
        pen.text((place[0] + dx, place[1] + dy), shown, fill=0, font=font)
    pen.text(place, shown, fill=255, font=font)


def _length(pen: Any, line: str, font: Any) -> float:
    return float(pen.textlength(line, font=font))
