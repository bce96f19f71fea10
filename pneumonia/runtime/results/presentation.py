"""The presentation state: boxes and text over the unchanged source image."""

from typing import List

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pneumonia.runtime.image.attributes import first_number, first_numbers, first_text
from pneumonia.runtime.image.dicom_header import spacing_mm
from pneumonia.runtime.results.content import Box, corners
from pneumonia.runtime.results.facts import RESEARCH_ONLY, Result, ResultFacts
from pneumonia.runtime.results.objects import (
    content_moment,
    image_reference,
    new_object,
    plain,
    sequence,
    series_uid_of_source,
    set_uid,
)

GREYSCALE_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
LAYER = "AI_RESEARCH"
LINE_HEIGHT = 0.03  # of the display height, for one line of text


def build_presentation(header: Dataset, result: Result, facts: ResultFacts) -> Dataset:
    """The boxes as a Grayscale Softcopy Presentation State.

    Args:
        header: From `source_header`, checked.
        result: What was found.
        facts: The model.
    """
    made = new_object(header, facts, "PR", GREYSCALE_STATE)
    made.PresentationCreationDate, made.PresentationCreationTime = content_moment(header)
    made.Laterality = ""
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


def _annotation(header: Dataset, result: Result, facts: ResultFacts) -> Dataset:
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
    """Grey as the source asks for it: a presentation state replaces the image's own transforms."""
    slope = first_number(header, "RescaleSlope")
    intercept = first_number(header, "RescaleIntercept")
    if "ModalityLUTSequence" in header:
        made.ModalityLUTSequence = header.ModalityLUTSequence
    elif slope is not None and intercept is not None and slope != 0:
        made.RescaleSlope = "{:.9g}".format(slope)
        made.RescaleIntercept = "{:.9g}".format(intercept)
        made.RescaleType = first_text(header, "RescaleType") or "US"
    window = Dataset()
    center = first_number(header, "WindowCenter")
    width = first_number(header, "WindowWidth")
    if "VOILUTSequence" in header:
        window.VOILUTSequence = header.VOILUTSequence
    elif center is not None and width is not None and width >= 1:
        window.WindowCenter = "{:.9g}".format(center)
        window.WindowWidth = "{:.9g}".format(width)
        if first_text(header, "VOILUTFunction"):
            window.VOILUTFunction = first_text(header, "VOILUTFunction")
    if len(window):
        window.ReferencedImageSequence = sequence(image_reference(header))
        made.SoftcopyVOILUTSequence = sequence(window)
    # the photometric interpretation of the image counts no more (PS3.3 C.11.6.1)
    inverse = first_text(header, "PhotometricInterpretation") == "MONOCHROME1"
    made.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
