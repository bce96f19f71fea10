"""Consensus as a DICOM structured report: TID 1500, one planar region per box, readers as persons.

Built from the same parts as the model's report, in the study of the image.
"""

import hashlib

from pydicom.dataset import Dataset

from data_prep.annotation.consensus import Consensus, ConsensusBox
from data_prep.annotation.records import ABNORMAL, NORMAL, OPACITY, UNUSABLE
from data_prep.reports.assertion import PRESENT
from data_prep.reports.concepts import NIL
from pneumonia import __version__
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.results.content import (
    CONCEPT_MODIFIER,
    CONTAINS,
    CONTEXT,
    SELECTED_FROM,
    Code,
    code,
    container,
    image,
    outline,
    text,
    uid_reference,
)
from pneumonia.runtime.results.facts import ResultFacts
from pneumonia.runtime.results.header import first_text, source_header
from pneumonia.runtime.results.objects import (
    MANUFACTURER,
    check_source,
    derived_uid,
    image_reference,
    new_object,
    plain,
    sequence,
    series_uid_of_source,
    set_uid,
    study_uid,
)

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
SCHEME = "99PNEUMONIA"
_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
_LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
_ENGLISH = Code("en-US", "RFC5646", "English (United States)")
_OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
_PERSON = Code("121006", "DCM", "Person")
_PERSON_NAME = Code("121008", "DCM", "Person Observer Name")
_PROCEDURE = Code("121058", "DCM", "Procedure reported")
_CHEST_RADIOGRAPHY = Code("399208008", "SCT", "Plain chest X-ray")
_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
_GROUP = Code("125007", "DCM", "Measurement Group")
_TRACKING = Code("112039", "DCM", "Tracking Identifier")
_TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
_FINDING = Code("121071", "DCM", "Finding")
_SITE = Code("363698007", "SCT", "Finding Site")
_THORAX = Code("51185008", "SCT", "Thorax")
_REGION = Code("111030", "DCM", "Image Region")
_QUALITATIVE = Code("C0034375", "UMLS", "Qualitative Evaluations")
_COMMENT = Code("121106", "DCM", "Comment")
_ASSERTION = Code("ASSERTION", SCHEME, "Certainty stated by the readers")
_VERDICT = Code("VERDICT", SCHEME, "Verdict on the image")
_READERS = Code("READERS", SCHEME, "Readers who drew the region")
_PRESENT = Code("52101004", "SCT", "Present")
_POSSIBLE = Code("371930009", "SCT", "Possible")
_VERDICTS = {
    OPACITY: Code("LUNG_OPACITY", SCHEME, "Lung opacity"),
    ABNORMAL: Code("263654008", "SCT", "Abnormal"),
    NORMAL: Code("17621005", "SCT", "Normal"),
    UNUSABLE: Code("UNUSABLE", SCHEME, "Image cannot be judged"),
    "": Code("82334004", "SCT", "Indeterminate"),
}


def build_reading_report(source: Dataset, consensus: Consensus) -> Dataset:
    """The report as a Comprehensive SR object, ready for `pneumonia.runtime.results.write_dicom`.

    The same image and consensus give the same UIDs and the same bytes.

    Args:
        source: Header of the image.
        consensus: What the readers say; boxes in pixels of the source.

    Raises:
        DicomError: The source names no SOP class or instance.
    """
    header = source_header(source)
    check_source(header)
    facts = _facts(consensus)
    made = new_object(header, facts, "SR", COMPREHENSIVE_SR)
    made.SeriesNumber = 9004
    made.ReferencedPerformedProcedureStepSequence = sequence()
    made.PerformedProcedureCodeSequence = sequence()
    made.CompletionFlag = "COMPLETE"
    made.VerificationFlag = "UNVERIFIED"
    made.PreliminaryFlag = "PRELIMINARY"
    made.CodingSchemeIdentificationSequence = sequence(_scheme())
    made.CurrentRequestedProcedureEvidenceSequence = sequence(_evidence(header))
    root = container(_TITLE, _content(header, consensus, facts), "", "1500")
    for element in root:
        made[element.tag] = element
    return made


def _facts(consensus: Consensus) -> ResultFacts:
    """The readers in the place of a model: UIDs change with anything they say."""
    digest = hashlib.sha256(repr(consensus).encode()).hexdigest()
    return ResultFacts("reader consensus", __version__, digest, consensus.source, 0.0)


def _scheme() -> Dataset:
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = "Local codes of the pneumonia research software"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
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


def _content(header: Dataset, consensus: Consensus, facts: ResultFacts) -> list[Dataset]:
    children = [code(_LANGUAGE, _ENGLISH, CONCEPT_MODIFIER)]
    for name in consensus.readers:
        children += _observer(name)
    children.append(code(_PROCEDURE, _CHEST_RADIOGRAPHY, CONCEPT_MODIFIER))
    regions = [_region(header, box, number, facts) for number, box in enumerate(consensus.kept, 1)]
    if regions:  # an empty heading would be no valid content
        children.append(container(_MEASUREMENTS, regions))
    lines = [
        DISCLAIMER,
        f"Source: {consensus.source}; readers: {len(consensus.readers)}.",
        "Regions are those that more than half of the readers drew, or an adjudicator.",
    ]
    evaluations = [code(_VERDICT, _VERDICTS[consensus.verdict], CONTAINS)]
    evaluations += [text(_COMMENT, line, CONTAINS) for line in lines]
    return [*children, container(_QUALITATIVE, evaluations)]


def _observer(name: str) -> list[Dataset]:
    """A reader (TID 1001, 1003)."""
    person = Dataset()
    person.RelationshipType = CONTEXT
    person.ValueType = "PNAME"
    person.ConceptNameCodeSequence = sequence(_PERSON_NAME.item())
    person.PersonName = plain(name, 64).replace("^", " ").replace("=", " ")
    return [code(_OBSERVER_TYPE, _PERSON, CONTEXT), person]


def finding_code(concept: str) -> Code:
    """A concept as a coded entry; a code value has at most 16 characters, so it is a hash."""
    if concept == NIL:
        return Code("NIL", SCHEME, "Finding without a concept")
    value = hashlib.sha256(concept.encode()).hexdigest()[:16].upper()
    return Code(value, SCHEME, plain(concept, 64))


def _region(header: Dataset, box: ConsensusBox, number: int, facts: ResultFacts) -> Dataset:
    """One box (TID 1410)."""
    name = f"Region {number}"
    uid = derived_uid(first_text(header, "SOPInstanceUID"), facts.model_hash, name)
    certainty = _PRESENT if box.assertion == PRESENT else _POSSIBLE
    children = [
        text(_TRACKING, name, CONTEXT),
        uid_reference(_TRACKING_UID, uid, CONTEXT),
        code(_FINDING, finding_code(box.code), CONTAINS),
        code(_SITE, _THORAX, CONCEPT_MODIFIER),
        outline(_REGION, box.box_xyxy, image(image_reference(header), SELECTED_FROM)),
        code(_ASSERTION, certainty, CONTAINS),
        text(_READERS, f"{len(box.annotators)} of {box.n_readers}", CONTAINS),
    ]
    return container(_GROUP, children, template="1410")
