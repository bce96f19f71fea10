"""The part of a source header that results take over, made safe to write again.

Foreign headers hold values that cannot be encoded, malformed dates, and tables in the byte order of
the file. Elements that cannot be written are left out, so that an invalid header does not prevent a
result. Text stays as it is, in the character set of the source.
"""

import io
import math
import re
import warnings
from typing import Any, Dict, List, Optional, Pattern, Tuple

import pydicom
from pydicom.charset import convert_encodings
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence as DicomSequence

from pneumonia.runtime.image.attributes import (
    OBJECT_UIDS,
    first_number,
    first_text,
    joined_text,
    undecodable_bytes,
)
from pneumonia.runtime.image.codestream import is_irreversible_jpeg2000, is_near_lossless_jpeg_ls
from pneumonia.runtime.image.dicom_header import (
    BIG_ENDIAN,
    JPEG_BASELINE,
    JPEG_EXTENDED,
)
from pneumonia.runtime.image.display import LINEAR, DisplayPlan, LookUpTable, plan_from_header
from pneumonia.runtime.results.files import file_bytes

JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000_ANY, HTJ2K_ANY = "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"
# transfer syntax -> Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)
METHODS = {
    JPEG_BASELINE: "ISO_10918_1",
    JPEG_EXTENDED: "ISO_10918_1",
    JPEG_LS_NEAR: "ISO_14495_1",
    JPEG_2000_ANY: "ISO_15444_1",
    HTJ2K_ANY: "ISO_15444_15",
}


def lossy_method(syntax: str, data: bytes = b"") -> str:
    """The method by which a file was compressed with loss.

    Args:
        syntax: Its transfer syntax.
        data: Its bytes: JPEG-LS and JPEG 2000 say there whether something was lost.

    Returns:
        A value of Lossy Image Compression Method; empty when nothing was lost, as far as is known.
    """
    if syntax == JPEG_LS_NEAR and not is_near_lossless_jpeg_ls(data):
        return ""
    if syntax in (JPEG_2000_ANY, HTJ2K_ANY) and not is_irreversible_jpeg2000(data):
        return ""
    return METHODS.get(syntax, "")


def state_lossy_compression(header: Any, source: Any, syntax: str, data: bytes = b"") -> None:
    """Set the attributes of lossy compression where the source does not state what happened.

    Args:
        header: Gets the attributes.
        data: Its bytes, see `lossy_method`.
    """
    method = lossy_method(syntax, data)
    if not method or first_text(header, "LossyImageCompression") == "01":
        return
    header.LossyImageCompression = "01"
    header.LossyImageCompressionMethod = method
    sides = [first_number(source, keyword) for keyword in ("Rows", "Columns", "BitsAllocated")]
    sides += [first_number(source, k) or 1 for k in ("SamplesPerPixel", "NumberOfFrames")]
    bits = 1.0
    for side in sides:
        bits *= side or 0.0
    if data and bits:
        header.LossyImageCompressionRatio = "{:.2f}".format(max(1.0, bits / 8 / len(data)))


def _names(text: str) -> Tuple[str, ...]:
    return tuple(text.split())


# Attributes of the patient and the study: the same in every object of a study (PS3.3 C.7.1, C.7.2).
IDENTITY = _names(
    "SpecificCharacterSet TimezoneOffsetFromUTC PatientName PatientID IssuerOfPatientID "
    "TypeOfPatientID OtherPatientIDs OtherPatientIDsSequence OtherPatientNames "
    "PatientBirthDate PatientBirthTime PatientSex EthnicGroup PatientComments "
    "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
    "LongitudinalTemporalInformationModified "
    "StudyInstanceUID StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber "
    "IssuerOfAccessionNumberSequence StudyDescription PhysiciansOfRecord "
    "NameOfPhysiciansReadingStudy ProcedureCodeSequence AdmittingDiagnosesDescription "
    "PatientAge PatientSize PatientWeight Occupation AdditionalPatientHistory "
    "PatientSexNeutered"
)
# Attributes of the image itself.
IMAGE = _names(
    "SOPClassUID SOPInstanceUID SeriesInstanceUID Modality InstanceNumber AcquisitionDate "
    "AcquisitionTime ContentDate ContentTime SeriesDate SeriesTime PatientOrientation "
    "Laterality ImageLaterality BodyPartExamined ViewPosition Rows Columns NumberOfFrames "
    "PhotometricInterpretation BitsStored PixelRepresentation PixelSpacing ImagerPixelSpacing "
    "PixelAspectRatio RescaleType LossyImageCompression LossyImageCompressionRatio "
    "LossyImageCompressionMethod BurnedInAnnotation PixelPaddingValue PixelPaddingRangeLimit "
    "SmallestImagePixelValue LargestImagePixelValue RequestAttributesSequence "
    "ReferencedRequestSequence "
    "PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest "
    "RequestedProcedureID RequestedProcedureDescription RequestedProcedureCodeSequence "
    "ReferencedStudySequence"
)
# The grey scale: written as it was understood, which is not always as the source writes it.
DISPLAY = _names(
    "RescaleSlope RescaleIntercept WindowCenter WindowWidth VOILUTFunction ModalityLUTSequence "
    "VOILUTSequence"
)
KEYWORDS = IDENTITY + IMAGE + DISPLAY

SEXES = ("M", "F", "O")
INVERSE = "MONOCHROME1"
MAX_DEPTH = 4  # of sequences; none of those above needs more
_FORMS: Dict[str, Pattern[str]] = {
    "DA": re.compile(r"^\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"),
    "TM": re.compile(r"^([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?$"),
    "AS": re.compile(r"^\d{3}[DWMY]$"),
    "CS": re.compile(r"^[A-Z0-9 _-]{0,16}$"),
    # A malformed UID is kept: archives file a result beside its source by the same UID.
    "UI": re.compile(r"^[!-\[\]-~]{1,64}$"),
}


def source_header(source: Dataset, data: bytes = b"") -> Dataset:
    """The attributes of KEYWORDS that can be written again, as a new dataset.

    Args:
        source: Header of the image, with or without pixel data; not changed.
        data: The file, which shows whether some kinds of compression lost anything.
    """
    meta = getattr(source, "file_meta", None) or Dataset()
    big_endian = first_text(meta, "TransferSyntaxUID") == BIG_ENDIAN
    header = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values of the file
        for keyword in IDENTITY + IMAGE:
            element = _element(source, keyword)
            if element is not None:
                header[element.tag] = element
        _set_display(header, display_plan(source, big_endian))
        if "SOPClassUID" not in header and "MediaStorageSOPClassUID" in meta:
            header.SOPClassUID = meta.MediaStorageSOPClassUID
        state_lossy_compression(header, source, first_text(meta, "TransferSyntaxUID"), data)
    return header


def _element(source: Dataset, keyword: str, depth: int = 0) -> Optional[DataElement]:
    """A copy of one element, None when it is absent, not valid or cannot be written.

    Text that does not fit its character set is a DataElement of VR OB with its bytes.
    """
    try:
        data = undecodable_bytes(source, tag_for_keyword(keyword)) if depth == 0 else None
        if data is not None:
            return DataElement(keyword, "OB", data, already_converted=True)
        element = source[keyword]
        if element.VR == "SQ":
            return _sequence(element, depth)
        if element.VR in ("UN", "OB", "OW"):
            return None
        copy = DataElement(element.tag, element.VR, element.value, already_converted=True)
        if not _is_valid(copy):
            copy = DataElement(element.tag, element.VR, _in_current_format(copy))
        if not _is_valid(copy) or not _is_writable(copy, source):
            return None
        return copy
    except Exception:  # absent, or whatever a parser makes of a damaged value
        return None


def _sequence(element: DataElement, depth: int) -> Optional[DataElement]:
    if depth >= MAX_DEPTH:
        return None
    items = []
    for item in element.value:
        copy = Dataset()
        for nested in item:
            keyword = nested.keyword
            kept = _element(item, keyword, depth + 1) if keyword else None  # private: no keyword
            if kept is not None:
                copy[kept.tag] = kept
        items.append(copy)
    return DataElement(element.tag, "SQ", DicomSequence(items))


def _is_valid(element: DataElement) -> bool:
    """Whether the value has the form of its VR; text may be anything."""
    if element.tag == 0x00080005:  # character sets are written as the source declares them
        return True
    if element.is_empty:
        return True
    values = element.value if element.VM > 1 else [element.value]
    if element.VR in ("DS", "IS"):
        return all(math.isfinite(float(value)) for value in values if value not in (None, ""))
    form = _FORMS.get(element.VR)
    if element.keyword in OBJECT_UIDS:
        return True  # `check_source` refuses an invalid UID: without it a result is misfiled
    return form is None or all(form.match(str(value).strip()) for value in values)


def _in_current_format(element: DataElement) -> str:
    """A date, time or age in an older format (2024.01.02, 10:11:12, 2Y), in today's format."""
    text = str(element.value).strip()
    if element.VR == "DA":
        return re.sub(r"^(\d{4})([.\-/])(\d\d)\2(\d\d)$", r"\1\3\4", text)
    if element.VR == "TM":
        return re.sub(r"^(\d\d):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?$", r"\1\2\3", text)
    if element.VR == "AS":
        return re.sub(r"^0*(\d{1,3})([DWMY])$", lambda age: age.group(1).zfill(3) + age.group(2),
                      text.upper())  # fmt: skip
    return text


def header_warnings(source: Dataset, header: Dataset) -> List[str]:
    """Warning codes of attributes that results hold otherwise than the source, or not at all.

    Args:
        header: Of `source_header`.

    Returns:
        `identity_rewritten` for dates, times and ages in an older form, `identity_left_out` for
        attributes of patient, study or image that are malformed.
    """
    codes = set()
    for keyword in IDENTITY + IMAGE:
        before = joined_text(source, keyword)
        if not before or keyword == "PatientIdentityRemoved":
            continue
        after = joined_text(header, keyword)
        if not after or (keyword == "PatientSex" and after not in SEXES):
            codes.add("identity_left_out")
        elif keyword in header and header[keyword].VR in ("DA", "TM", "AS") and after != before:
            codes.add("identity_rewritten")
    return sorted(codes)


def _is_writable(element: DataElement, source: Dataset) -> bool:
    """Whether pydicom can encode the element; raises whatever it raises when it cannot."""
    stream = DicomBytesIO()
    stream.is_little_endian = True
    stream.is_implicit_VR = False
    write_data_element(stream, element, convert_encodings(source.get("SpecificCharacterSet")))
    return True


def display_plan(source: Dataset, big_endian: bool = False) -> DisplayPlan:
    """The display chain of a header; one of 8 bits without transforms where it cannot be read.

    Args:
        big_endian: Byte order of tables stored as bytes.
    """
    try:
        return plan_from_header(source, big_endian, [])
    except Exception:  # an attribute is absent, or whatever a parser makes of a damaged one
        return DisplayPlan(8, invert=first_text(source, "PhotometricInterpretation") == INVERSE)


def _set_display(header: Dataset, plan: DisplayPlan) -> None:
    """Write a display chain as attributes from which `display_plan` reads the same chain."""
    if plan.modality_lut is not None:
        item = table_item(plan.modality_lut)
        item.ModalityLUTType = "US"  # unspecified
        header.ModalityLUTSequence = DicomSequence([item])
    elif (plan.slope, plan.intercept) != (1.0, 0.0):
        header.RescaleSlope = decimal(plan.slope)
        header.RescaleIntercept = decimal(plan.intercept)
    if plan.voi_lut is not None:
        header.VOILUTSequence = DicomSequence([table_item(plan.voi_lut)])
    elif plan.window is not None:
        header.WindowCenter = decimal(plan.window.center)
        header.WindowWidth = decimal(plan.window.width)
        if plan.window.function != LINEAR:
            header.VOILUTFunction = plan.window.function


def decimal(value: float) -> str:
    """A number as a decimal string (VR DS) of at most 16 characters."""
    return "{:.9g}".format(value)


def table_item(lut: LookUpTable) -> Dataset:
    """An item of a look-up table sequence, with the depth that its values have."""
    item = Dataset()
    count = len(lut.values) & 0xFFFF
    if lut.first < 0 and count <= 0x7FFF:
        item.add_new("LUTDescriptor", "SS", [count, lut.first, lut.bits])
    else:  # pydicom cannot write so long a table with a signed descriptor
        item.add_new("LUTDescriptor", "US", [count, lut.first & 0xFFFF, lut.bits])
    item.add_new("LUTData", "OW", lut.values.astype("<u2").tobytes())
    return item


def header_bytes(header: Dataset) -> bytes:
    """A header of `source_header` as a DICOM file; pydicom reads it back, text and all."""
    return file_bytes(header)


def header_from_bytes(data: bytes) -> Dataset:
    """Read what `header_bytes` wrote."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data))
