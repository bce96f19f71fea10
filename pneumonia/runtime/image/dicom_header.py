"""DICOM headers: read with limits, checked before a pixel is decoded, facts without identifiers."""

import re
import zlib
from typing import Any, BinaryIO, Dict, FrozenSet, List, NamedTuple, Optional, Sequence

import pydicom
from pydicom.filereader import read_dataset

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.age import stated_age
from pneumonia.runtime.image.attributes import (
    OBJECT_UIDS,
    all_values,
    first_numbers,
    first_text,
    joined_text,
    only_integer,
)
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.runtime.image.views import stated_view

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = (IMPLICIT_LITTLE, "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED)
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
HTJ2K = tuple("1.2.840.10008.1.2.4.20{}".format(i) for i in (1, 2, 3))
RLE = "1.2.840.10008.1.2.5"
KNOWN_SYNTAXES = (
    NATIVE + (JPEG_BASELINE, JPEG_EXTENDED, RLE) + JPEG_LOSSLESS + JPEG_LS + JPEG_2000 + HTJ2K
)

_DICOMDIR = "1.2.840.10008.1.3.10"
# Storage classes without an image of their own: waveforms, presentation states, registrations,
# structured reports, encapsulated documents, radiotherapy plans and structure sets.
_NOT_IMAGES = tuple(
    "1.2.840.10008.5.1.4." + root
    for root in ("1.1.9.", "1.1.11.", "1.1.66.1", "1.1.66.2", "1.1.66.3", "1.1.67", "1.1.88.")
    + ("1.1.104.", "1.1.481.3", "1.1.481.4", "1.1.481.5", "34.")
)
# Digital X-ray, mammography and intra-oral images.
_FOR_PRESENTATION = tuple("1.2.840.10008.5.1.4.1.1.1." + kind for kind in ("1", "2", "3"))
PROCESSING = "PROCESSING"  # of Presentation Intent Type
_FOR_PROCESSING = tuple(uid + ".1" for uid in _FOR_PRESENTATION)
# What `runtime.results` writes into the objects it makes, so that a later batch can name them.
OWN_MANUFACTURER = "pneumonia (research software)"
OWN_SERIES = "RESEARCH ONLY: "  # start of Series Description
_UID = re.compile(r"^[!-\[\]-~]{1,64}$")
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing")
_COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def _words(text: str) -> FrozenSet[str]:
    return frozenset(text.split())


# Coded values that may leave the file; anything else becomes OTHER, so that no identifier a
# site typed into a coded field can pass.
MODALITIES = _words("CR DX RG XR CT MR US MG XA RF NM PT SC OT ES SEG RTDOSE RTIMAGE IO PX BI ECG")
BODY_PARTS = _words(
    "CHEST THORAX LUNG RIB RIBS HEART STERNUM ABDOMEN PELVIS HIP SPINE CSPINE TSPINE LSPINE SKULL "
    "HEAD NECK SHOULDER CLAVICLE SCAPULA ARM ELBOW FOREARM WRIST HAND FINGER LEG KNEE ANKLE FOOT "
    "TOE EXTREMITY BREAST BRAIN WHOLEBODY"
)


class DicomHeader(NamedTuple):
    """A checked header: the dataset without pixel data, its transfer syntax and frame count."""

    dataset: Any
    syntax: str
    frames: int


def rejected(
    what: str,
    reason: str,
    expected: Optional[str] = None,
    found: Optional[str] = None,
    fix: Optional[str] = None,
) -> DicomError:
    """A DicomError of status `rejected`."""
    return DicomError(what, "rejected", reason, expected=expected, found=found, fix=fix)


def coded(values: Sequence[Any], allowed: FrozenSet[str]) -> Optional[str]:
    """The value of a coded attribute if `allowed` has it, else `OTHER`; None if there is none.

    Several different values are `OTHER`: they contradict each other.
    """
    texts = {str(value).strip().upper().replace(" ", "") for value in values if value is not None}
    texts.discard("")
    if not texts:
        return None
    return texts.pop() if len(texts) == 1 and texts <= allowed else "OTHER"


def _check_inflated_size(stream: BinaryIO, limits: ReadLimits) -> None:
    """Inflate what follows the file meta information, piece by piece, and count."""
    total = 0
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = stream.read(1 << 16)
    while data and not inflater.eof:
        total += len(inflater.decompress(data, 1 << 20))
        if total > limits.max_file_bytes:
            raise rejected("Deflated data set is too large", "resource_limit")
        data = inflater.unconsumed_tail or stream.read(1 << 16)


def _check_class(sop_class: str) -> None:
    if sop_class == _DICOMDIR or sop_class.startswith(_NOT_IMAGES):
        raise DicomError("DICOM object is not an image", "skipped", "not_an_image")


def _after_meta(tag: Any, vr: Any, length: Any) -> bool:
    return bool(tag >> 16 != 2)


def read_meta(stream: BinaryIO) -> Any:
    """The file meta information (group 0002) of a file with preamble; nothing is inflated.

    The stream ends at the first element after it.
    """
    stream.seek(132)
    return read_dataset(stream, False, True, stop_when=_after_meta)


def _check_meta(stream: BinaryIO, limits: ReadLimits) -> None:
    meta = read_meta(stream)
    _check_class(first_text(meta, "MediaStorageSOPClassUID"))
    syntax = first_text(meta, "TransferSyntaxUID")
    if syntax == DEFLATED:
        if not limits.allow_deflated:
            raise rejected(
                "Deflated DICOM is not read by default", "deflated", found=DEFLATED,
                fix="A small one can fill the memory; recompress it, or use --allow-deflated",
            )  # fmt: skip
        _check_inflated_size(stream, limits)
    elif syntax and syntax not in KNOWN_SYNTAXES:
        raise rejected(
            "Transfer syntax is not supported", "transfer_syntax", found=syntax[:64]
        )  # fmt: skip


def read_header(stream: BinaryIO, limits: ReadLimits, has_preamble: bool) -> DicomHeader:
    """Read and check everything but the pixels.

    Args:
        stream: The file, at any position. Afterwards it is at the pixel data, unless the data set
            is deflated.
        limits: Limits, and which non-standard files are accepted.
        has_preamble: Whether bytes 128..132 are `DICM`.

    Raises:
        DicomError: With the status and reason for the manifest.
    """
    if has_preamble:
        _check_meta(stream, limits)
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=not has_preamble)
    sop_class = first_text(dataset, "SOPClassUID")
    sop_class = sop_class or first_text(dataset.file_meta, "MediaStorageSOPClassUID")
    if not sop_class and "SOPInstanceUID" not in dataset:
        if not has_preamble:
            raise rejected("Not a DICOM file", "not_dicom")
        raise rejected("File holds no DICOM object", "no_sop_instance")
    _check_class(sop_class)
    if is_own_result(dataset):
        raise DicomError("Object is a result of this software", "skipped", "own_result")
    syntax = first_text(dataset.file_meta, "TransferSyntaxUID")
    if not syntax and not has_preamble and dataset.is_implicit_VR:
        syntax = IMPLICIT_LITTLE
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    if not syntax:
        raise rejected("File names no transfer syntax", "transfer_syntax", found="none")
    return DicomHeader(dataset, syntax, _check_image(dataset, syntax, limits))


def _whole(dataset: Any, keyword: str, reason: str, low: int, high: int) -> int:
    """An integer attribute in low..high; the error shows numbers only, hence no identifier."""
    value = only_integer(dataset, keyword)
    if value is None or not low <= value <= high:
        what, expected = "{} is not valid".format(keyword), "{}..{}".format(low, high)
        raise rejected(what, reason, expected, _shown(dataset, keyword))
    return value


def _shown(dataset: Any, keyword: str) -> str:
    """The value of an attribute that must be one integer, for messages; text is not shown."""
    values = all_values(dataset, keyword)
    if not values:
        return "nothing"
    if len(values) > 1:
        return "{} values".format(len(values))
    return str(values[0]) if isinstance(values[0], int) else "no number"


def high_bit(dataset: Any) -> int:
    """The most significant bit of a stored value; BitsStored - 1 where the header has none."""
    values = all_values(dataset, "HighBit")
    return int(values[0]) if values else int(dataset.BitsStored) - 1


def _check_high_bit(dataset: Any, syntax: str, stored: int, allocated: int) -> None:
    """Old files keep values in the upper bits; a codestream holds them without such a shift."""
    highest = allocated - 1 if syntax in (*NATIVE, RLE) else stored - 1
    allowed = range(stored - 1, highest + 1)
    if all_values(dataset, "HighBit") and only_integer(dataset, "HighBit") not in allowed:
        expected = "{}..{}".format(allowed[0], allowed[-1])
        found = _shown(dataset, "HighBit")
        raise rejected("HighBit is not supported", "high_bit", expected, found)


def _check_image(dataset: Any, syntax: str, limits: ReadLimits) -> int:
    """Check the image attributes; returns the number of frames."""
    rows = _whole(dataset, "Rows", "rows", 1, limits.max_side)
    columns = _whole(dataset, "Columns", "columns", 1, limits.max_side)
    photometric = joined_text(dataset, "PhotometricInterpretation")
    plain = re.sub(r"[^0-9A-Z]", "", photometric.upper())
    if plain in ("MONOCHROME1", "MONOCHROME2"):  # viewers ignore case and blanks, too
        dataset.PhotometricInterpretation = photometric = plain
    if photometric in _COLOUR or all_values(dataset, "SamplesPerPixel") not in ([], [1]):
        raise rejected("Image is in colour", "colour", "MONOCHROME1 or MONOCHROME2")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise rejected(
            "PhotometricInterpretation is not known",
            "photometric_interpretation",
            "MONOCHROME1 or MONOCHROME2",
        )
    allocated = only_integer(dataset, "BitsAllocated")
    if allocated not in (8, 16):
        shown = _shown(dataset, "BitsAllocated")
        raise rejected("BitsAllocated is not supported", "bits_allocated", "8 or 16", shown)
    stored = _whole(dataset, "BitsStored", "bits_stored", 1, allocated)
    _whole(dataset, "PixelRepresentation", "pixel_representation", 0, 1)
    _check_high_bit(dataset, syntax, stored, allocated)
    return _check_frames(dataset, rows * columns, limits)


def _check_frames(dataset: Any, frame_pixels: int, limits: ReadLimits) -> int:
    found = only_integer(dataset, "NumberOfFrames") if all_values(dataset, "NumberOfFrames") else 1
    if found is None or found < 0:
        shown = _shown(dataset, "NumberOfFrames")
        raise rejected("NumberOfFrames is not valid", "number_of_frames", ">= 1", shown)
    frames = found or 1  # some devices write 0 for one
    if frames * frame_pixels > limits.max_pixels:
        raise rejected(
            "Image is too large",
            "resource_limit",
            "<= {} pixels".format(limits.max_pixels),
            str(frames * frame_pixels),
        )
    if frames > 1 and not limits.first_frame:
        raise rejected("Image has several frames", "multi_frame", "1", str(frames))
    return frames


def spacing_mm(dataset: Any) -> Optional[List[float]]:
    """Millimetres from row to row and from column to column; None when the header has none."""
    for keyword in SPACINGS:
        pair = first_numbers(dataset, keyword, 2)
        is_pair = pair is not None and len(all_values(dataset, keyword)) == 2
        if pair is not None and is_pair and all(0 < side < 100 for side in pair):
            return pair
    return None


def coded_facts(dataset: Any) -> Dict[str, Optional[str]]:
    """Modality, view and body part as known codes."""
    return {
        "modality": coded(all_values(dataset, "Modality"), MODALITIES),
        "view": stated_view(dataset).code,
        "body_part": coded(all_values(dataset, "BodyPartExamined"), BODY_PARTS),
    }


def is_for_processing(dataset: Any) -> bool:
    """Whether the image holds detector values that were not made for display."""
    return first_text(dataset, "SOPClassUID") in _FOR_PROCESSING or _intent(dataset) == PROCESSING


def _intent(dataset: Any) -> str:
    """Presentation Intent Type without `FOR`: PROCESSING, PRESENTATION, or empty."""
    letters = re.sub(r"[^A-Z]", "", first_text(dataset, "PresentationIntentType").upper())
    return re.sub(r"^FOR", "", letters)


def contradictions(dataset: Any) -> List[str]:
    """Warning codes of attributes that contradict each other."""
    intent = _intent(dataset)
    sop_class = first_text(dataset, "SOPClassUID")
    raw_class, raw_intent = sop_class in _FOR_PROCESSING, intent == PROCESSING
    pairs = sop_class in _FOR_PROCESSING + _FOR_PRESENTATION and bool(intent)
    checks = (
        ("view_conflict", stated_view(dataset).is_contradicted),
        ("age_conflict", stated_age(dataset).is_contradicted),
        ("presentation_intent_conflict", pairs and raw_class != raw_intent),
    )
    return [code for code, holds in checks if holds]


def malformed_uids(dataset: Any) -> List[str]:
    """Keywords of those of OBJECT_UIDS that have several values, are too long or no UID at all.

    Other characters than digits are allowed: a result with the same malformed UID as its source is
    still filed beside it.
    """
    texts = ((keyword, joined_text(dataset, keyword)) for keyword in OBJECT_UIDS)
    return [keyword for keyword, text in texts if text and not _UID.match(text)]


def is_own_result(dataset: Any) -> bool:
    """Whether a data set is a structured report, presentation state or capture made here."""
    return first_text(dataset, "Manufacturer") == OWN_MANUFACTURER


def read_codes(stream: BinaryIO) -> Dict[str, Any]:
    """`coded_facts` of a file that was refused, and `own_result`; empty when it has none."""
    try:
        if first_text(read_meta(stream), "TransferSyntaxUID") == DEFLATED:
            return {}  # reading any element would inflate the whole data set
        stream.seek(0)
        dataset = pydicom.dcmread(stream, stop_before_pixels=True)
        facts: Dict[str, Any] = dict(coded_facts(dataset))
        if is_own_result(dataset):
            facts["own_result"] = True
        return facts
    except Exception:  # the file was refused already; a further error adds nothing
        return {}


def header_facts(header: DicomHeader) -> Dict[str, Any]:
    """Facts about the image without identifiers; coded fields only hold known codes."""
    dataset = header.dataset
    facts: Dict[str, Any] = {"format": "dicom"}
    facts.update(coded_facts(dataset))
    facts.update(
        photometric=first_text(dataset, "PhotometricInterpretation"),
        bits_stored=int(dataset.BitsStored),
        transfer_syntax=header.syntax,
        frames=header.frames,
        spacing_mm=spacing_mm(dataset),
        is_child=stated_age(dataset).is_child,
        for_processing=is_for_processing(dataset),
        # what results in DICOM need to refer to the image
        has_instance_uid=bool(first_text(dataset, "SOPInstanceUID")),
        has_malformed_uid=bool(malformed_uids(dataset)),
    )
    return facts
