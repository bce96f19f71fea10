"""Common parts of all result objects: deterministic UIDs, patient, equipment, references."""

import uuid
from typing import Any, List, Tuple

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.attributes import first_number, first_text
from pneumonia.runtime.image.dicom_header import OWN_MANUFACTURER, OWN_SERIES, malformed_uids
from pneumonia.runtime.results.facts import ResultFacts
from pneumonia.runtime.results.header import IDENTITY, SEXES

ROOT = uuid.UUID("ac4df9d6-e46f-429c-af84-efb7affd4f3a")  # namespace of all UIDs made here
# Type 2: present, though empty, when the source has none.
_ALWAYS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
# Classes whose objects have frames: only of those may a reference name one.
MULTI_FRAME = tuple(
    "1.2.840.10008.5.1.4.1.1." + suffix
    for suffix in ("3.1", "7.1", "7.2", "7.3", "7.4", "12.1", "12.1.1", "12.2", "12.2.1")
    + ("13.1.1", "13.1.2", "13.1.3", "20")
)
NO_DATE, NO_TIME = "19000101", "000000"


def derived_uid(*parts: str) -> str:
    """A UID below 2.25 that depends on the parts alone (PS3.5 B.2, a version 5 UUID)."""
    return "2.25.{}".format(uuid.uuid5(ROOT, "\0".join(parts)).int)


def tracking_uid(header: Dataset, facts: ResultFacts, name: str) -> str:
    """The UID by which a finding is followed: of the image, the model and the finding's name."""
    image = [study_uid(header), series_uid_of_source(header), first_text(header, "SOPInstanceUID")]
    return derived_uid(*(image + [result_uid_of_model(facts), name]))


def plain(text: str, length: int) -> str:
    """ASCII that fits a text attribute: any character set can write it; no value separator."""
    kept = text.encode("ascii", "replace").decode("ascii").replace("\\", "/")
    return "".join(character if " " <= character <= "~" else " " for character in kept)[:length]


def check_source(header: Dataset) -> None:
    """Refuse a source that no result can refer to.

    Raises:
        DicomError: rejected, `no_sop_instance`: class or instance UID is missing; `uid_malformed`:
            a UID has several values, is too long or cannot be written.
    """
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not first_text(header, keyword):
            raise DicomError(
                "No result can be made for this image",
                "rejected",
                "no_sop_instance",
                expected=keyword,
                found="none",
            )
    malformed = malformed_uids(header)
    if malformed:
        raise DicomError(
            "A result could not be filed with its image",
            "rejected",
            "uid_malformed",
            expected="{} of one value, at most 64 characters".format(malformed[0]),
        )


def study_uid(header: Dataset) -> str:
    """The Study Instance UID of the source, or a derived one where it is absent."""
    given = first_text(header, "StudyInstanceUID")
    return given or derived_uid(first_text(header, "SOPInstanceUID"), "study")


def series_uid_of_source(header: Dataset) -> str:
    """The Series Instance UID of the source, or a derived one where it is absent."""
    given = first_text(header, "SeriesInstanceUID")
    return given or derived_uid(first_text(header, "SOPInstanceUID"), "series")


def image_moment(header: Dataset) -> Tuple[str, str]:
    """Date and time of the image: of its acquisition, else the next best; NO_DATE without any."""
    for name in ("Acquisition", "Content", "Series", "Study"):
        date = first_text(header, name + "Date")
        if date:
            return date, first_text(header, name + "Time") or NO_TIME
    return NO_DATE, NO_TIME


def new_object(header: Dataset, facts: ResultFacts, kind: str, sop_class: str) -> Dataset:
    """An object with the patient and study of the source; `identity.identify` completes it.

    Args:
        header: From `source_header`.
        kind: `SR`, `PR` or `SC`.
    """
    made = Dataset()
    for keyword in _ALWAYS:
        setattr(made, keyword, None if keyword == "PatientName" else "")
    for keyword in IDENTITY:
        if keyword in header:
            made[header[keyword].tag] = _copied(header[keyword])
    _mend_patient(made)
    made.SOPClassUID = sop_class
    set_uid(made, "StudyInstanceUID", study_uid(header))
    made.Modality = {"SR": "SR", "PR": "PR", "SC": "OT"}[kind]
    made.SeriesNumber = {"SR": 9001, "PR": 9002, "SC": 9003}[kind]
    made.SeriesDescription = plain(OWN_SERIES + facts.model_name, 64)
    made.InstanceNumber = _instance_number(header)
    made.Manufacturer = OWN_MANUFACTURER
    made.ManufacturerModelName = plain(facts.model_name, 64)
    made.DeviceSerialNumber = plain(facts.model_hash, 64)
    made.SoftwareVersions = plain(facts.model_version, 64)
    return made


def _copied(element: DataElement) -> DataElement:
    """A copy of an element; text outside of its character set as the bytes that it was."""
    if element.VR != "OB":
        return DataElement(element.tag, element.VR, element.value, already_converted=True)
    kind, data = dictionary_VR(element.tag), bytes(element.value)
    value = UnchangedName(data) if kind == "PN" else data  # pydicom writes bytes as they are
    return DataElement(element.tag, kind, value, already_converted=True)


class UnchangedName:
    """A person's name of unknown character set, which pydicom writes byte for byte."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __str__(self) -> str:
        return str(self._data, "latin-1")

    def encode(self, encodings: Any = None) -> bytes:
        """The bytes, whatever the character set."""
        return self._data


def _mend_patient(made: Dataset) -> None:
    """Remove an invalid Patient Sex, and Patient Identity Removed without a stated method."""
    if first_text(made, "PatientSex") not in SEXES:
        made.PatientSex = ""
    stated = "DeidentificationMethod" in made or "DeidentificationMethodCodeSequence" in made
    if "PatientIdentityRemoved" in made and not stated:
        del made.PatientIdentityRemoved  # not valid without a method


def result_uid_of_model(facts: ResultFacts) -> str:
    """Text that identifies model and threshold."""
    return "{} {} {!r}".format(facts.model_hash, facts.threshold_name, float(facts.threshold))


def set_uid(dataset: Dataset, keyword: str, value: str) -> None:
    """Set a UID without validation: a result keeps the malformed study UID of its source."""
    dataset[keyword] = DataElement(keyword, "UI", value, already_converted=True)


def set_body_part(made: Dataset, header: Dataset) -> None:
    """Body part and laterality: the latter only where there is or may be one (PS3.3 C.7.3.1)."""
    if first_text(header, "BodyPartExamined").upper() == "CHEST":
        made.BodyPartExamined = "CHEST"
    else:
        made.Laterality = ""


def _instance_number(header: Dataset) -> int:
    number = first_number(header, "InstanceNumber")
    return int(number) if number is not None and 0 <= number < 1 << 31 else 1


def image_reference(header: Dataset) -> Dataset:
    """An item of Referenced SOP Sequence; of a multi-frame object the first frame was scored."""
    item = Dataset()
    set_uid(item, "ReferencedSOPClassUID", first_text(header, "SOPClassUID"))
    set_uid(item, "ReferencedSOPInstanceUID", first_text(header, "SOPInstanceUID"))
    frames = first_number(header, "NumberOfFrames")
    if frames is not None and frames > 1 and first_text(header, "SOPClassUID") in MULTI_FRAME:
        item.ReferencedFrameNumber = 1
    return item


def sequence(*items: Dataset) -> Any:
    """A DICOM sequence."""
    return DicomSequence(list(items))


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def statements(facts: ResultFacts, warnings: Tuple[str, ...]) -> List[str]:
    """Statements for the reader besides the scores, one sentence per line."""
    lines = [
        "Research use only. Not a medical device.",
        "Scores are those of the model, not calibrated probabilities of disease.",
        "Model {}, version {}, hash {}.".format(
            facts.model_name, facts.model_version, facts.model_hash
        ),
        "Operating point {}: boxes with score >= {:.4f}.".format(
            facts.threshold_name, facts.threshold
        ),
    ]
    if warnings:
        lines.append("Warnings about the image: {}.".format(", ".join(warnings)))
    return lines
