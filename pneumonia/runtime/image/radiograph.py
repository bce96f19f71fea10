"""A radiograph from a file: DICOM, PNG or JPEG to 8-bit grey, or an error with a reason."""

import hashlib
import io
import os
import stat
import warnings as python_warnings
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.attributes import joined_text, keep_undecodable_bytes, number_warnings
from pneumonia.runtime.image.dicom_header import (
    BIG_ENDIAN,
    SPACINGS,
    contradictions,
    header_facts,
    read_header,
    rejected,
)
from pneumonia.runtime.image.dicom_pixels import decode_pixels
from pneumonia.runtime.image.display import (
    DisplayPlan,
    occurring_range,
    plan_from_header,
    to_grey,
)
from pneumonia.runtime.image.polarity import looks_inverted
from pneumonia.runtime.image.raster import raster_format, read_raster
from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS, ReadLimits

# Attributes that file a result under the right patient, study and image.
IDENTITY = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyDate",
)  # fmt: skip
_EXECUTABLES = (b"MZ", b"\x7fELF")  # CVE-2019-11687: the preamble may hold a program


class Radiograph(NamedTuple):
    """A grey image and what is known about it.

    Attributes:
        pixels: uint8 (H, W), dense tissue bright.
        info: Facts without identifiers: format, modality, view, body_part, photometric,
            bits_stored, transfer_syntax, decoder, spacing_mm (row, column), inverted, voi, ...
        warnings: For example `degraded`, `excess_pixel_bytes`, `colour_converted`.
        header: The pydicom data set of a DICOM file without its pixel data, and with the smallest
            and largest stored value where the grey scale depends on them; None for a picture.
        content_sha256: Digest of a DICOM image's pixels and identity, the same for each encoding.
    """

    pixels: np.ndarray
    info: Dict[str, Any]
    warnings: Tuple[str, ...]
    header: Any = None
    content_sha256: str = ""


def _read_dicom(data: bytes, limits: ReadLimits) -> Radiograph:
    stream = io.BytesIO(data)
    has_preamble = data[128:132] == b"DICM"
    warnings: List[str] = []
    header = read_header(stream, limits, has_preamble)
    if keep_undecodable_bytes(header.dataset):
        warnings.append("character_set")
    if has_preamble and data.startswith(_EXECUTABLES):
        warnings.append("executable_like_preamble")
    if "YES" in joined_text(header.dataset, "BurnedInAnnotation").upper().split("\\"):
        warnings.append("burned_in_annotation")
    warnings += contradictions(header.dataset) + number_warnings(header.dataset, SPACINGS)
    plan = plan_from_header(header.dataset, header.syntax == BIG_ENDIAN, warnings)
    stored = decode_pixels(stream, header)
    info = header_facts(header)
    info.update(decoder=stored.decoder, inverted=plan.invert, voi=plan.voi())
    grey = to_grey(stored.values, plan)
    _set_range(header.dataset, stored.values, plan)
    found = _finished(grey, info, warnings + stored.warnings, header.dataset)
    return found._replace(content_sha256=content_digest(stored.values, grey, header.dataset))


def _set_range(dataset: Any, values: np.ndarray, plan: DisplayPlan) -> None:
    """Set the smallest and largest value, used by `minmax`; those in the file may be outdated."""
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        dataset.pop(keyword, None)
    if plan.voi() == "minmax":
        low, high = occurring_range(values, plan)
        kind = "SS" if plan.signed else "US"
        dataset.add_new("SmallestImagePixelValue", kind, low)
        dataset.add_new("LargestImagePixelValue", kind, high)


def content_digest(stored: np.ndarray, shown: np.ndarray, dataset: Any) -> str:
    """SHA-256 (hex) of the pixels and the identity of the header.

    Explicit and implicit VR, raw and losslessly compressed pixels, another character set or writer
    give the same digest; other pixels, another grey scale or another patient do not.

    Args:
        stored: Stored values, integers of at most 16 bits (H, W).
        shown: The grey image, uint8 (H, W).
    """
    texts = [joined_text(dataset, keyword).rstrip("^ ") for keyword in IDENTITY]
    is_byte = stored.dtype == np.uint8
    low, high = (0, 255) if is_byte else (int(stored.min()), int(stored.max()))
    # independent of the bits allocated in the file
    kind = np.uint8 if low >= 0 and high < 256 else np.dtype("<u2")
    values = np.ascontiguousarray(stored.astype(kind, copy=False))
    # then its bytes need not be hashed twice
    is_shown = shown is stored or np.array_equal(values, shown)
    texts.append("{} {} {} {}".format(stored.shape[0], stored.shape[1], low < 0, is_shown))
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
    digest.update(values.data)
    if not is_shown:
        digest.update(np.ascontiguousarray(shown).data)
    return digest.hexdigest()


def _read_raster_file(data: bytes, limits: ReadLimits, name: str) -> Radiograph:
    raster = read_raster(data, limits)
    info: Dict[str, Any] = {
        "format": name,
        "modality": None,
        "view": None,
        "body_part": None,
        "photometric": "MONOCHROME2",
        "bits_stored": raster.bits_stored,
        "transfer_syntax": None,
        "frames": 1,
        "spacing_mm": None,
        "is_child": None,
        "for_processing": False,
        "has_instance_uid": False,
        "has_malformed_uid": False,
        "decoder": "pillow",
        "inverted": False,
        "voi": raster.voi,
    }
    return _finished(raster.pixels, info, raster.warnings)


def _finished(
    pixels: np.ndarray, info: Dict[str, Any], warnings: List[str], header: Any = None
) -> Radiograph:
    if pixels.min() == pixels.max():
        warnings.append("blank_image")
    if looks_inverted(pixels):
        warnings.append("looks_inverted")
    return Radiograph(pixels, info, tuple(sorted(set(warnings))), header)


def check_file(path: str, limits: ReadLimits) -> None:
    """Refuse what is not a regular file or is too large.

    Raises:
        DicomError: skipped, `not_a_file`; rejected, `resource_limit`.
        OSError: The file cannot be found.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise DicomError("Not a regular file", "skipped", "not_a_file")
    if status.st_size > limits.max_file_bytes:
        expected = "<= {} bytes".format(limits.max_file_bytes)
        raise rejected("File is too large", "resource_limit", expected, str(status.st_size))


# First bytes of gzip, bzip2, xz, zstandard, 7z, rar and Unix compress.
_COMPRESSED = (
    b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!", b"\x1f\x9d",
)  # fmt: skip


def unknown_format(head: bytes) -> DicomError:
    """The refusal of a file that is not DICOM, PNG or JPEG.

    Args:
        head: Its first 132 bytes, or fewer if it is shorter.
    """
    if head.startswith(_COMPRESSED):
        return rejected("File is compressed", "compressed_file", fix="Unpack it first")
    if _starts_a_data_set(head):
        return rejected(
            "DICOM without its 128-byte preamble", "no_preamble", fix="Use --force-read"
        )
    return rejected("Neither DICOM, PNG nor JPEG", "not_dicom")


def _starts_a_data_set(head: bytes) -> bool:
    """Whether a file starts with an element of group 0002 or 0008, as DICOM without preamble does.

    Element: group and element number (uint16 each, little endian), then two letters that name its
    type (explicit VR), or its length (uint32, implicit VR).
    """
    if len(head) < 12 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= 128


def parse_radiograph(data: bytes, limits: ReadLimits) -> Radiograph:
    """`read_radiograph` for the bytes of a file; may raise any exception of a parser."""
    head = data[:132]
    if head[128:132] == b"DICM":
        return _read_dicom(data, limits)
    name = raster_format(head)
    if name:
        return _read_raster_file(data, limits, name)
    if limits.force_read and head:
        return _read_dicom(data, limits)
    raise unknown_format(head)


@contextmanager
def refusals_of(path: str) -> Iterator[None]:
    """Turn any exception of a file parser into a DicomError that names the file."""
    try:
        with python_warnings.catch_warnings():
            # pydicom's warnings quote values of the file; those that matter are kept by name
            python_warnings.simplefilter("ignore")
            yield
    except DicomError as error:
        raise DicomError(
            error.what, error.status, error.reason, error.expected, error.found, path, error.fix
        ) from None
    except MemoryError:
        raise DicomError(
            "Image needs too much memory", "rejected", "resource_limit", where=path
        ) from None
    except OSError as error:
        raise DicomError(
            "File cannot be read", "failed", "unreadable", found=type(error).__name__, where=path
        ) from None
    except Exception as error:  # its text may hold names
        raise DicomError(
            "File is damaged", "failed", "unreadable", found=type(error).__name__, where=path
        ) from None


def read_radiograph(path: str, limits: ReadLimits = DEFAULT_LIMITS) -> Radiograph:
    """Read a DICOM, PNG or JPEG file as an 8-bit grey image.

    DICOM: modality LUT, VOI LUT (else the first window), inversion of MONOCHROME1, 8 bits.

    Codecs run in this process, and a damaged compressed stream can abort it (GDCM does at some).
    `runtime.child.DecodingChild` reads files of unknown origin in a process of its own, as
    `pneumonia score` and the daemon do.

    Args:
        path: The file.
        limits: Limits on sizes, and which non-standard files are accepted.

    Returns:
        The image with facts and warnings.

    Raises:
        DicomError: With `status` (rejected, failed, skipped) and a `reason` for the manifest. Its
            text holds nothing from the file but numbers and codes.
    """
    path = str(path)
    with refusals_of(path):
        check_file(path, limits)
        with io.open(path, "rb") as stream:
            data = stream.read()
        return parse_radiograph(data, limits)
