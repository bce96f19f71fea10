"""The presentation state: boxes and text over the unchanged source image."""

from typing import List, Optional

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pneumonia.runtime.errors import RESEARCH_ONLY
from pneumonia.runtime.image.attributes import first_numbers, first_text, only_integer
from pneumonia.runtime.image.dicom_header import spacing_mm
from pneumonia.runtime.image.display import LINEAR, DisplayPlan, VoiWindow
from pneumonia.runtime.results.content import Box, corners
from pneumonia.runtime.results.facts import ImageResult, ResultFacts
from pneumonia.runtime.results.header import decimal, display_plan
from pneumonia.runtime.results.objects import (
    image_reference,
    new_object,
    plain,
    sequence,
    series_uid_of_source,
    set_body_part,
    set_uid,
)

GREYSCALE_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
LAYER = "AI_RESEARCH"
LINE_HEIGHT = 0.03  # of the display height, for one line of text


def build_presentation(header: Dataset, result: ImageResult, facts: ResultFacts) -> Dataset:
    """The boxes as a Grayscale Softcopy Presentation State.

    Args:
        header: From `source_header`, checked.
    """
    made = new_object(header, facts, "PR", GREYSCALE_STATE)
    set_body_part(made, header)
    made.ContentLabel = LAYER
    made.ContentDescription = plain("RESEARCH ONLY: " + result.sentence(), 64)
    made.ContentCreatorName = "Software^Pneumonia^Research"
    series = Dataset()
    set_uid(series, "SeriesInstanceUID", series_uid_of_source(header))
    series.ReferencedImageSequence = sequence(image_reference(header))
    made.ReferencedSeriesSequence = sequence(series)
    made.DisplayedAreaSelectionSequence = sequence(_displayed_area(header))
    made.GraphicAnnotationSequence = sequence(_annotation(header, result, facts))
    layer = Dataset()
    layer.GraphicLayer = LAYER
    layer.GraphicLayerOrder = 1
    layer.GraphicLayerRecommendedDisplayGrayscaleValue = 0xFFFF
    layer.GraphicLayerDescription = "Research use only"
    made.GraphicLayerSequence = sequence(layer)
    _set_display(made, header)
    return made


def _displayed_area(header: Dataset) -> Dataset:
    """The whole image, fitted into the window."""
    area = Dataset()
    area.ReferencedImageSequence = sequence(image_reference(header))
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [int(header.Columns), int(header.Rows)]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = spacing_mm(header)
    aspect = first_numbers(header, "PixelAspectRatio", 2)
    if spacing is not None:
        area.PresentationPixelSpacing = ["{:.6g}".format(side) for side in spacing]
    elif aspect is not None and min(aspect) > 0:
        area.PresentationPixelAspectRatio = [int(side) for side in aspect]
    else:
        area.PresentationPixelAspectRatio = [1, 1]
    return area


def _annotation(header: Dataset, result: ImageResult, facts: ResultFacts) -> Dataset:
    annotation = Dataset()
    annotation.ReferencedImageSequence = sequence(image_reference(header))
    annotation.GraphicLayer = LAYER
    lines = [RESEARCH_ONLY, plain(facts.caption(), 200), result.sentence()]
    words = [_words(line, index) for index, line in enumerate(lines)]
    boxes = []
    for finding in result.findings:
        boxes.append(_box(finding.box_xyxy))
        words.append(_label("{:.2f}".format(finding.score), finding.box_xyxy))
    annotation.TextObjectSequence = sequence(*words)
    if boxes:
        annotation.GraphicObjectSequence = sequence(*boxes)
    return annotation


def _floats(dataset: Dataset, keyword: str, values: List[float]) -> None:
    dataset[keyword] = DataElement(keyword, "FL", [float(np.float32(value)) for value in values])


def _box(box_xyxy: Box) -> Dataset:
    graphic = Dataset()
    graphic.GraphicAnnotationUnits = "PIXEL"
    graphic.GraphicDimensions = 2
    graphic.NumberOfGraphicPoints = 5
    _floats(graphic, "GraphicData", corners(box_xyxy))
    graphic.GraphicType = "POLYLINE"
    graphic.GraphicFilled = "N"
    return graphic


def _label(score: str, box_xyxy: Box) -> Dataset:
    """A score at the corner of its box."""
    label = Dataset()
    label.AnchorPointAnnotationUnits = "PIXEL"
    label.UnformattedTextValue = score
    _floats(label, "AnchorPoint", list(box_xyxy[:2]))
    label.AnchorPointVisibility = "N"
    return label


def _words(line: str, index: int) -> Dataset:
    """A text line at the top of the display, independent of the image's position."""
    words = Dataset()
    words.BoundingBoxAnnotationUnits = "DISPLAY"
    words.UnformattedTextValue = line
    _floats(words, "BoundingBoxTopLeftHandCorner", [0.0, LINE_HEIGHT * index])
    _floats(words, "BoundingBoxBottomRightHandCorner", [1.0, LINE_HEIGHT * (index + 1)])
    words.BoundingBoxTextHorizontalJustification = "LEFT"
    return words


def _set_display(made: Dataset, header: Dataset) -> None:
    """The grey scale that the model saw: a presentation state replaces the image's own."""
    plan = display_plan(header)
    if plan.modality_lut is not None:
        made.ModalityLUTSequence = header.ModalityLUTSequence
    elif "RescaleSlope" in header:
        made.RescaleSlope = header.RescaleSlope
        made.RescaleIntercept = header.RescaleIntercept
        made.RescaleType = first_text(header, "RescaleType") or "US"
    shown = Dataset()
    window = plan.window or _window_of_values(header, plan)
    if plan.voi_lut is not None:
        shown.VOILUTSequence = header.VOILUTSequence
    elif window is not None:
        shown.WindowCenter = decimal(window.center)
        shown.WindowWidth = decimal(window.width)
        if window.function != LINEAR:
            shown.VOILUTFunction = window.function
    if len(shown):
        shown.ReferencedImageSequence = sequence(image_reference(header))
        made.SoftcopyVOILUTSequence = sequence(shown)
    # the photometric interpretation of the image no longer applies (PS3.3 C.11.6.1)
    made.PresentationLUTShape = "INVERSE" if plan.invert else "IDENTITY"


def _window_of_values(header: Dataset, plan: DisplayPlan) -> Optional[VoiWindow]:
    """The window from the darkest to the brightest value, which the reader used without a VOI.

    None when the full range of the stored values was used as it is, or the values are not known.
    """
    low, high = plan.stored_range()
    if plan.voi() == "full":
        if plan.modality_lut is None and (plan.slope, plan.intercept) == (1.0, 0.0):
            return None
    else:
        smallest = only_integer(header, "SmallestImagePixelValue")
        largest = only_integer(header, "LargestImagePixelValue")
        if smallest is None or largest is None:
            return None
        low, high = smallest, largest
    black, white = plan.spread(np.arange(low, high + 1))
    if white <= black:
        return None
    return VoiWindow((black + white) / 2.0 + 0.5, white - black + 1.0)
