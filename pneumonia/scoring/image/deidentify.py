"""`--deidentify basic`: what outputs may hold, after DICOM PS3.15 E.1 (Basic Profile).

The profile defines an action for every attribute. Results copy few attributes, so that this module
lists what is kept instead: the named image attributes stay, UIDs are replaced, attributes that an
object must have are empty, and all others are removed.
"""

import uuid
from dataclasses import replace

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pneumonia.runtime.image.attributes import first_text, joined_text
from pneumonia.scoring.image.find import FoundFile
from pneumonia.scoring.image.records import salted_key

# Action K (keep) or not in the profile: image attributes that do not identify a patient.
KEPT = (
    "SOPClassUID", "Modality", "InstanceNumber", "PatientOrientation", "Laterality",
    "ImageLaterality", "BodyPartExamined", "ViewPosition", "Rows", "Columns", "NumberOfFrames",
    "PhotometricInterpretation", "BitsStored", "PixelRepresentation", "PixelSpacing",
    "ImagerPixelSpacing", "PixelAspectRatio", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", "BurnedInAnnotation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue",
    "LargestImagePixelValue", "ModalityLUTSequence", "VOILUTSequence",
)  # fmt: skip
# Action U: replaced; equal UIDs get equal replacements within an output folder.
REPLACED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# Action Z: present, but empty.
EMPTIED = (
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")


def replaced_uid(uid: str, salt: str) -> str:
    """A replacement UID, which cannot be traced back without the folder's salt."""
    return f"2.25.{uuid.uuid5(uuid.UUID(salt), uid).int}"


def deidentified_header(source: Dataset, salt: str) -> Dataset:
    """The source header without attributes that identify the patient, the study or the image.

    Args:
        source: From `results.source_header`.
        salt: 32 hex digits of the output folder.
    """
    header = Dataset()
    for keyword in KEPT:
        if keyword in source:
            header[keyword] = source[keyword]
    for keyword in REPLACED:
        uid = first_text(source, keyword)
        if uid:
            setattr(header, keyword, replaced_uid(uid, salt))
    for keyword in EMPTIED:
        setattr(header, keyword, "")
    name = joined_text(source, "PatientID") or joined_text(source, "PatientName")
    patient = salted_key(salt, "patient", name)
    header.PatientName = header.PatientID = f"ANON-{patient[:12].upper()}"
    header.PatientIdentityRemoved = "YES"
    header.LongitudinalTemporalInformationModified = "REMOVED"
    header.DeidentificationMethod = "pneumonia: results only, PS3.15 E.1"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = PROFILE
    header.DeidentificationMethodCodeSequence = DicomSequence([code])
    return header


def rename_to_keys(files: list[FoundFile], salt: str) -> list[FoundFile]:
    """The files named by their keys, since a file name may contain the patient's name."""
    keys = [salted_key(salt, file.relative) for file in files]
    return [
        replace(file, relative=key, image_id=key) for file, key in zip(files, keys, strict=True)
    ]
