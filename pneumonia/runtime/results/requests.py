"""The order that a report answers, taken over from the image's header."""

from typing import List

from pydicom.dataset import Dataset

from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.results.objects import study_uid

# Type 2 attributes of Referenced Request Sequence (PS3.3 table C.17-2): present, though empty.
_TEXTS = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
_SEQUENCES = ("ReferencedStudySequence", "RequestedProcedureCodeSequence")


def referenced_requests(header: Dataset) -> List[Dataset]:
    """Items of Referenced Request Sequence; none when the source names no request.

    Args:
        header: From `source_header`, checked.
    """
    attributes = list(
        header.get("RequestAttributesSequence") or header.get("ReferencedRequestSequence") or ()
    )
    if not attributes and any(first_text(header, keyword) for keyword in _TEXTS[1:]):
        attributes = [Dataset()]
    return [_request(item, header) for item in attributes]


def _request(item: Dataset, header: Dataset) -> Dataset:
    """One request; attributes absent from its item are taken from the header itself."""
    made = Dataset()
    made.StudyInstanceUID = first_text(item, "StudyInstanceUID") or study_uid(header)
    for keyword in _TEXTS + _SEQUENCES:
        found = item if keyword in item else header
        if keyword in found:
            made[keyword] = found[keyword]
        else:
            setattr(made, keyword, [] if keyword in _SEQUENCES else "")
    return made
