"""Consensus as a DICOM structured report: TID 1500, one planar region per box, readers as persons.

Built from the same parts as the model's report, in the study of the image.
"""

import hashlib

from pydicom.dataset import Dataset

from data_prep.annotation.agreement.consensus import Consensus, ConsensusBox
from data_prep.annotation.workspace.records import ABNORMAL, NORMAL, OPACITY, UNUSABLE
from data_prep.reports.findings.concepts import NIL
from data_prep.reports.findings.scope import PRESENT
from pneumonia import __version__
from pneumonia.runtime.errors import DISCLAIMER
from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.image.dicom_header import OWN_MANUFACTURER
from pneumonia.runtime.results import codes
from pneumonia.runtime.results.content import (
    CONCEPT_MODIFIER,
    CONTAINS,
    CONTEXT,
    SELECTED_FROM,
    ConceptCode,
    code,
    container,
    image,
    outline,
    text,
    uid_reference,
)
from pneumonia.runtime.results.facts import ResultFacts
from pneumonia.runtime.results.header import source_header
from pneumonia.runtime.results.identity import NOW, ObjectCreation, identify
from pneumonia.runtime.results.image_library import image_library
from pneumonia.runtime.results.objects import (
    check_source,
    derived_uid,
    image_reference,
    plain,
    sequence,
)
from pneumonia.runtime.results.report import report_object
from pneumonia.runtime.text import plain_letters

LOCAL = "99PNEUMONIA"

_PERSON = ConceptCode("121006", "DCM", "Person")
_PERSON_NAME = ConceptCode("121008", "DCM", "Person Observer Name")
_THORAX = ConceptCode("51185008", "SCT", "Thorax")
_ASSERTION = ConceptCode("ASSERTION", LOCAL, "Certainty stated by the readers")
_VERDICT = ConceptCode("VERDICT", LOCAL, "Verdict on the image")
_READERS = ConceptCode("READERS", LOCAL, "Readers who drew the region")
_PRESENT = ConceptCode("52101004", "SCT", "Present")
POSSIBLE = ConceptCode("371930009", "SCT", "Possible")
VERDICTS = {
    OPACITY: ConceptCode("LUNG_OPACITY", LOCAL, "Lung opacity"),
    ABNORMAL: ConceptCode("263654008", "SCT", "Abnormal"),
    NORMAL: ConceptCode("17621005", "SCT", "Normal"),
    UNUSABLE: ConceptCode("UNUSABLE", LOCAL, "Image cannot be judged"),
    "": ConceptCode("82334004", "SCT", "Indeterminate"),
}


def build_reading_report(
    source: Dataset, consensus: Consensus, creation: ObjectCreation = NOW
) -> Dataset:
    """The report as a Comprehensive SR object, ready for `pneumonia.runtime.results.write_dicom`.

    The same image and consensus give the same UIDs.

    Args:
        consensus: Consensus of the readers; boxes in pixels of the source.

    Raises:
        DicomError: The source has no SOP class UID or instance UID.
    """
    header = source_header(source)
    check_source(header)
    facts = _facts(consensus)
    made = report_object(header, facts, _content(header, consensus, facts))
    made.CodingSchemeIdentificationSequence = sequence(_local_scheme())
    made.SeriesNumber = 9004
    identify(made, "SR", header, creation)
    return made


def _local_scheme() -> Dataset:
    scheme = Dataset()
    scheme.CodingSchemeDesignator = LOCAL
    scheme.CodingSchemeName = "Local codes of the pneumonia research software"
    scheme.CodingSchemeResponsibleOrganization = OWN_MANUFACTURER
    return scheme


def _facts(consensus: Consensus) -> ResultFacts:
    """Facts of a result with the consensus in place of the model: UIDs depend on it."""
    digest = hashlib.sha256(repr(consensus).encode()).hexdigest()
    return ResultFacts("reader consensus", __version__, digest, consensus.source, 0.0)


def _content(header: Dataset, consensus: Consensus, facts: ResultFacts) -> list[Dataset]:
    children = [code(codes.LANGUAGE, codes.ENGLISH, CONCEPT_MODIFIER)]
    for name in consensus.readers:
        children += _observer(name)
    children.append(code(codes.PROCEDURE, codes.CHEST_RADIOGRAPHY, CONCEPT_MODIFIER))
    children.append(image_library(header))
    regions = [_region(header, box, number, facts) for number, box in enumerate(consensus.kept, 1)]
    if regions:  # a container without content is invalid
        children.append(container(codes.MEASUREMENTS, regions))
    lines = [
        DISCLAIMER,
        f"Source: {consensus.source}; readers: {len(consensus.readers)}.",
        "Regions are those that more than half of the readers drew, or an adjudicator.",
    ]
    evaluations = [code(_VERDICT, VERDICTS[consensus.verdict], CONTAINS)]
    evaluations += [text(codes.COMMENT, line, CONTAINS) for line in lines]
    return [*children, container(codes.QUALITATIVE, evaluations)]


def _observer(name: str) -> list[Dataset]:
    """A reader (TID 1001, 1003)."""
    person = Dataset()
    person.RelationshipType = CONTEXT
    person.ValueType = "PNAME"
    person.ConceptNameCodeSequence = sequence(_PERSON_NAME.item())
    # José -> Jose, for every character set
    person.PersonName = plain(plain_letters(name), 64).replace("^", " ").replace("=", " ")
    return [code(codes.OBSERVER_TYPE, _PERSON, CONTEXT), person]


def finding_code(concept: str) -> ConceptCode:
    """A concept as a coded entry; a code value has at most 16 characters, so it is a hash."""
    if concept == NIL:
        return ConceptCode("NIL", LOCAL, "Finding without a concept")
    value = hashlib.sha256(concept.encode()).hexdigest()[:16].upper()
    return ConceptCode(value, LOCAL, plain(concept, 64))


def _region(header: Dataset, box: ConsensusBox, number: int, facts: ResultFacts) -> Dataset:
    """One box (TID 1410)."""
    name = f"Region {number}"
    uid = derived_uid(first_text(header, "SOPInstanceUID"), facts.model_hash, name)
    certainty = _PRESENT if box.assertion == PRESENT else POSSIBLE
    children = [
        text(codes.TRACKING, name, CONTEXT),
        uid_reference(codes.TRACKING_UID, uid),
        code(codes.FINDING, finding_code(box.code), CONTAINS),
        code(codes.FINDING_SITE, _THORAX, CONCEPT_MODIFIER),
        outline(codes.REGION, box.box_xyxy, image(image_reference(header), SELECTED_FROM)),
        code(_ASSERTION, certainty, CONTAINS),
        text(_READERS, f"{len(box.annotators)} of {box.n_readers}", CONTAINS),
    ]
    return container(codes.GROUP, children, template="1410")
