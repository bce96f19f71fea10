"""The structured report: TID 1500 with one planar region (TID 1410) per box."""

from typing import List

from pydicom.dataset import Dataset

from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.image.dicom_header import OWN_MANUFACTURER
from pneumonia.runtime.results import codes
from pneumonia.runtime.results.content import (
    CONCEPT_MODIFIER,
    CONTAINS,
    CONTEXT,
    INFERRED_FROM,
    SELECTED_FROM,
    ConceptCode,
    code,
    container,
    image,
    number,
    outline,
    text,
    uid_reference,
)
from pneumonia.runtime.results.facts import (
    INDETERMINATE,
    NEGATIVE,
    POSITIVE,
    Finding,
    ImageResult,
    ResultFacts,
)
from pneumonia.runtime.results.image_library import image_library
from pneumonia.runtime.results.objects import (
    derived_uid,
    image_reference,
    new_object,
    result_uid_of_model,
    sequence,
    series_uid_of_source,
    set_uid,
    statements,
    study_uid,
    tracking_uid,
)

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
_DEVICE = ConceptCode("121007", "DCM", "Device")
_DEVICE_UID = ConceptCode("121012", "DCM", "Device Observer UID")
_DEVICE_NAME = ConceptCode("121013", "DCM", "Device Observer Name")
_DEVICE_MAKER = ConceptCode("121014", "DCM", "Device Observer Manufacturer")
_DEVICE_MODEL = ConceptCode("121015", "DCM", "Device Observer Model Name")
_DEVICE_SERIAL = ConceptCode("121016", "DCM", "Device Observer Serial Number")
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


def build_report(header: Dataset, result: ImageResult, facts: ResultFacts) -> Dataset:
    """The report as a Comprehensive SR object.

    Args:
        header: From `source_header`, checked.
    """
    return report_object(header, facts, _report_content(header, result, facts))


def report_object(header: Dataset, facts: ResultFacts, content: List[Dataset]) -> Dataset:
    """A TID 1500 report around its content, in the study of the source.

    Args:
        header: From `source_header`, checked.
        facts: The reporting model, or readers in its place.
        content: Items below the title.
    """
    made = new_object(header, facts, "SR", COMPREHENSIVE_SR)
    made.ReferencedPerformedProcedureStepSequence = sequence()
    made.PerformedProcedureCodeSequence = sequence()
    made.CompletionFlag = "COMPLETE"
    made.VerificationFlag = "UNVERIFIED"
    made.PreliminaryFlag = "PRELIMINARY"
    made.CurrentRequestedProcedureEvidenceSequence = sequence(_evidence(header))
    requests = referenced_requests(header)
    if requests:
        made.ReferencedRequestSequence = sequence(*requests)
    root = container(codes.TITLE, content, relation="", template="1500")
    for element in root:
        made[element.tag] = element
    return made


def _evidence(header: Dataset) -> Dataset:
    series = Dataset()
    set_uid(series, "SeriesInstanceUID", series_uid_of_source(header))
    reference = image_reference(header)
    if "ReferencedFrameNumber" in reference:
        del reference.ReferencedFrameNumber  # evidence names instances
    series.ReferencedSOPSequence = sequence(reference)
    study = Dataset()
    set_uid(study, "StudyInstanceUID", study_uid(header))
    study.ReferencedSeriesSequence = sequence(series)
    return study


def _report_content(header: Dataset, result: ImageResult, facts: ResultFacts) -> List[Dataset]:
    measurements = [_score(header, result, facts), _whole_image(header, result, facts)]
    measurements += [
        _region(header, finding, index, facts) for index, finding in enumerate(result.findings, 1)
    ]
    lines = [result.sentence() + "."] + statements(facts, result.warnings)
    if any(finding.size_mm for finding in result.findings):
        lines.append("Lengths are those of the header's pixel spacing, magnification included.")
    evaluations = [_flag(result)]
    evaluations += [text(codes.COMMENT, line, CONTAINS) for line in lines]
    return [
        code(codes.LANGUAGE, codes.ENGLISH, CONCEPT_MODIFIER),
        *_observer(facts),
        code(codes.PROCEDURE, codes.CHEST_RADIOGRAPHY, CONCEPT_MODIFIER),
        image_library(header),
        container(codes.MEASUREMENTS, measurements),
        container(codes.QUALITATIVE, evaluations),
    ]


def _observer(facts: ResultFacts) -> List[Dataset]:
    """The model as the observer (TID 1001, 1004)."""
    return [
        code(codes.OBSERVER_TYPE, _DEVICE, CONTEXT),
        uid_reference(_DEVICE_UID, derived_uid(result_uid_of_model(facts), "observer")),
        text(_DEVICE_NAME, facts.model_name, CONTEXT),
        text(_DEVICE_MAKER, OWN_MANUFACTURER, CONTEXT),
        text(_DEVICE_MODEL, "{} {}".format(facts.model_name, facts.model_version), CONTEXT),
        text(_DEVICE_SERIAL, facts.model_hash, CONTEXT),
    ]


def _algorithm(facts: ResultFacts) -> List[Dataset]:
    """Which model, and how it was used (TID 4019)."""
    parameters = (
        "model hash {}".format(facts.model_hash),
        "operating point {}".format(facts.threshold_name),
        "score >= {:.6f}".format(facts.threshold),
    )
    return [
        text(codes.ALGORITHM_NAME, facts.model_name, CONCEPT_MODIFIER),
        text(codes.ALGORITHM_VERSION, facts.model_version, CONCEPT_MODIFIER),
    ] + [text(codes.ALGORITHM_PARAMETERS, line, CONCEPT_MODIFIER) for line in parameters]


def _tracked(header: Dataset, name: str, facts: ResultFacts) -> List[Dataset]:
    return [
        text(codes.TRACKING, name, CONTEXT),
        uid_reference(codes.TRACKING_UID, tracking_uid(header, facts, name)),
    ]


def _flag(result: ImageResult) -> Dataset:
    flags = {
        POSITIVE: codes.POSITIVE,
        NEGATIVE: codes.NEGATIVE,
        INDETERMINATE: codes.INDETERMINATE,
    }
    return code(codes.INTERPRETATION, flags[result.flag], CONTAINS)


def _score(header: Dataset, result: ImageResult, facts: ResultFacts) -> Dataset:
    """The image's score, whether or not it reaches the threshold.

    It stands beside the groups: OHIF reads the coordinates of every number in a group, and cannot
    open a report with a number that has none.
    """
    children = _algorithm(facts) + [image(image_reference(header), INFERRED_FROM)]
    return number(codes.SCORE, 100 * result.max_score, codes.PERCENT, children=children)


def _whole_image(header: Dataset, result: ImageResult, facts: ResultFacts) -> Dataset:
    """The image's result (TID 1501): a finding only if the model found one."""
    children = _tracked(header, "Whole image", facts)
    if result.findings:
        children.append(code(codes.FINDING, codes.OPACITY, CONTAINS))
        children.append(code(codes.FINDING_SITE, codes.LUNG, CONCEPT_MODIFIER))
    children += _algorithm(facts)
    children.append(image(image_reference(header), CONTAINS, codes.SOURCE))
    children.append(_flag(result))
    return container(codes.GROUP, children, template="1501")


def _region(header: Dataset, finding: Finding, index: int, facts: ResultFacts) -> Dataset:
    """One box (TID 1410)."""
    children = _tracked(header, "Region {}".format(index), facts)
    children.append(code(codes.FINDING, codes.OPACITY, CONTAINS))
    children.append(code(codes.FINDING_SITE, codes.LUNG, CONCEPT_MODIFIER))
    children += _algorithm(facts)
    source = image(image_reference(header), SELECTED_FROM)
    children.append(outline(codes.REGION, finding.box_xyxy, source))
    children.append(number(codes.CERTAINTY, 100 * finding.score, codes.PERCENT))
    if finding.size_mm is not None:
        children.append(number(codes.WIDTH, finding.size_mm[0], codes.MM))
        children.append(number(codes.HEIGHT, finding.size_mm[1], codes.MM))
    return container(codes.GROUP, children, template="1410")
