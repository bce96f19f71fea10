"""The structured report: TID 1500 with one planar region (TID 1410) per box."""

from typing import List

from pydicom.dataset import Dataset

from pneumonia.runtime.image.dicom_header import OWN_MANUFACTURER
from pneumonia.runtime.results import codes
from pneumonia.runtime.results.content import (
    CONCEPT_MODIFIER,
    CONTAINS,
    CONTEXT,
    SELECTED_FROM,
    Code,
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
    Result,
    ResultFacts,
)
from pneumonia.runtime.results.objects import (
    derived_uid,
    image_reference,
    new_object,
    result_uid,
    result_uid_of_model,
    sequence,
    series_uid_of_source,
    set_uid,
    statements,
    study_uid,
)

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
LOCAL = "99PNEUMONIA"

_DEVICE = Code("121007", "DCM", "Device")
_DEVICE_UID = Code("121012", "DCM", "Device Observer UID")
_DEVICE_NAME = Code("121013", "DCM", "Device Observer Name")
_DEVICE_MAKER = Code("121014", "DCM", "Device Observer Manufacturer")
_DEVICE_MODEL = Code("121015", "DCM", "Device Observer Model Name")
_DEVICE_SERIAL = Code("121016", "DCM", "Device Observer Serial Number")
_LUNG = Code("39607008", "SCT", "Lung")
_SOURCE = Code("121112", "DCM", "Source of Measurement")
_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
_WIDTH = Code("103355008", "SCT", "Width")
_HEIGHT = Code("121207", "DCM", "Height")
_ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
_ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
_ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
_PERCENT = Code("%", "UCUM", "Percent")
_MM = Code("mm", "UCUM", "millimeter")
# No standard code means what the RSNA challenge labelled: a region suspicious of pneumonia.
_OPACITY = Code("LUNG_OPACITY", LOCAL, "Lung opacity")
_FLAG = Code("FLAG", LOCAL, "Result at the operating point")
_FLAGS = {
    POSITIVE: Code("10828004", "SCT", "Positive"),
    NEGATIVE: Code("260385009", "SCT", "Negative"),
    INDETERMINATE: Code("82334004", "SCT", "Indeterminate"),
}


def build_report(header: Dataset, result: Result, facts: ResultFacts) -> Dataset:
    """The report as a Comprehensive SR object.

    Args:
        header: From `source_header`, checked.
        result: What was found.
        facts: The model.
    """
    return report_object(header, facts, _report_content(header, result, facts))


def report_object(header: Dataset, facts: ResultFacts, content: List[Dataset]) -> Dataset:
    """A TID 1500 report around its content, in the study of the source.

    Args:
        header: From `source_header`, checked.
        facts: Who reports: a model, or readers in the place of one.
        content: Items below the title.
    """
    made = new_object(header, facts, "SR", COMPREHENSIVE_SR)
    made.ReferencedPerformedProcedureStepSequence = sequence()
    made.PerformedProcedureCodeSequence = sequence()
    made.CompletionFlag = "COMPLETE"
    made.VerificationFlag = "UNVERIFIED"
    made.PreliminaryFlag = "PRELIMINARY"
    made.CodingSchemeIdentificationSequence = sequence(_local_scheme())
    made.CurrentRequestedProcedureEvidenceSequence = sequence(_evidence(header))
    root = container(codes.TITLE, content, relation="", template="1500")
    for element in root:
        made[element.tag] = element
    return made


def _local_scheme() -> Dataset:
    scheme = Dataset()
    scheme.CodingSchemeDesignator = LOCAL
    scheme.CodingSchemeName = "Local codes of the pneumonia research software"
    scheme.CodingSchemeResponsibleOrganization = OWN_MANUFACTURER
    return scheme


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


def _report_content(header: Dataset, result: Result, facts: ResultFacts) -> List[Dataset]:
    groups = [_whole_image(header, result, facts)]
    groups += [
        _region(header, finding, index, facts) for index, finding in enumerate(result.findings, 1)
    ]
    lines = [result.sentence() + "."] + statements(facts, result.warnings)
    if any(finding.size_mm for finding in result.findings):
        lines.append("Lengths are those of the header's pixel spacing, magnification included.")
    evaluations = [code(_FLAG, _FLAGS[result.flag], CONTAINS)]
    evaluations += [text(codes.COMMENT, line, CONTAINS) for line in lines]
    return [
        code(codes.LANGUAGE, codes.ENGLISH, CONCEPT_MODIFIER),
        *_observer(facts),
        code(codes.PROCEDURE, codes.CHEST_RADIOGRAPHY, CONCEPT_MODIFIER),
        container(codes.MEASUREMENTS, groups),
        container(codes.QUALITATIVE, evaluations),
    ]


def _observer(facts: ResultFacts) -> List[Dataset]:
    """The model as the observer (TID 1001, 1004)."""
    return [
        code(codes.OBSERVER_TYPE, _DEVICE, CONTEXT),
        uid_reference(_DEVICE_UID, derived_uid(result_uid_of_model(facts), "observer"), CONTEXT),
        text(_DEVICE_NAME, facts.model_name, CONTEXT),
        text(_DEVICE_MAKER, OWN_MANUFACTURER, CONTEXT),
        text(_DEVICE_MODEL, "{} {}".format(facts.model_name, facts.model_version), CONTEXT),
        text(_DEVICE_SERIAL, facts.model_hash, CONTEXT),
    ]


def _algorithm(facts: ResultFacts) -> List[Dataset]:
    """Which model, and how it was used (TID 4019)."""
    used = "hash {}; operating point {}; score >= {:.6f}".format(
        facts.model_hash, facts.threshold_name, facts.threshold
    )
    return [
        text(_ALGORITHM_NAME, facts.model_name, CONCEPT_MODIFIER),
        text(_ALGORITHM_VERSION, facts.model_version, CONCEPT_MODIFIER),
        text(_ALGORITHM_PARAMETERS, used, CONCEPT_MODIFIER),
    ]


def _tracked(header: Dataset, name: str, facts: ResultFacts) -> List[Dataset]:
    uid = derived_uid(result_uid(header, facts, "SR"), name)
    return [
        text(codes.TRACKING, name, CONTEXT),
        uid_reference(codes.TRACKING_UID, uid, CONTEXT),
        code(codes.FINDING, _OPACITY, CONTAINS),
    ]


def _whole_image(header: Dataset, result: Result, facts: ResultFacts) -> Dataset:
    """The image's score, also when nothing reaches the threshold (TID 1501)."""
    children = _tracked(header, "Whole image", facts)
    children += _algorithm(facts)
    children.append(image(image_reference(header), CONTAINS, _SOURCE))
    children.append(number(_CERTAINTY, 100 * result.max_score, _PERCENT))
    return container(codes.GROUP, children, template="1501")


def _region(header: Dataset, finding: Finding, index: int, facts: ResultFacts) -> Dataset:
    """One box (TID 1410)."""
    children = _tracked(header, "Region {}".format(index), facts)
    children.append(code(codes.FINDING_SITE, _LUNG, CONCEPT_MODIFIER))
    children += _algorithm(facts)
    source = image(image_reference(header), SELECTED_FROM)
    children.append(outline(codes.REGION, finding.box_xyxy, source))
    children.append(number(_CERTAINTY, 100 * finding.score, _PERCENT))
    if finding.size_mm is not None:
        children.append(number(_WIDTH, finding.size_mm[0], _MM))
        children.append(number(_HEIGHT, finding.size_mm[1], _MM))
    return container(codes.GROUP, children, template="1410")
