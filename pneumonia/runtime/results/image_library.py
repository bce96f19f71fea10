"""The images that a report is about, with what their headers say of them (TID 1600)."""

from typing import List

from pydicom.dataset import Dataset

from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.image.dicom_header import spacing_mm
from pneumonia.runtime.results import codes
from pneumonia.runtime.results.content import (
    ACQUISITION,
    CONTAINS,
    code,
    container,
    day,
    image,
    number,
    time_of_day,
)
from pneumonia.runtime.results.objects import image_reference


def image_library(header: Dataset) -> Dataset:
    """The library of one image.

    Args:
        header: From `source_header`, checked.
    """
    entry = image(image_reference(header), CONTAINS, children=_descriptors(header))
    group = container(codes.IMAGE_LIBRARY_GROUP, [entry])
    return container(codes.IMAGE_LIBRARY, [group], template="1600")


def _descriptors(header: Dataset) -> List[Dataset]:
    """What the header says (TID 1602, 1603): the times of the image belong here."""
    found = []
    modality = codes.MODALITIES.get(first_text(header, "Modality"))
    if modality is not None:
        found.append(code(codes.MODALITY, modality, ACQUISITION))
    for keyword, name in codes.DATES.items():
        value = first_text(header, keyword)
        if value:
            made = day if keyword.endswith("Date") else time_of_day
            found.append(made(name, value, ACQUISITION))
    found.append(number(codes.ROWS, int(header.Rows), codes.PIXELS, ACQUISITION))
    found.append(number(codes.COLUMNS, int(header.Columns), codes.PIXELS, ACQUISITION))
    spacing = spacing_mm(header)
    if spacing is not None:
        unit = codes.MM_PER_PIXEL
        found.append(number(codes.COLUMN_SPACING, float(spacing[1]), unit, ACQUISITION))
        found.append(number(codes.ROW_SPACING, float(spacing[0]), unit, ACQUISITION))
    return found
