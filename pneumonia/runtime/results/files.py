"""DICOM objects as files: Explicit VR Little Endian, an empty preamble, written atomically."""

import copy
import io
import warnings

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from pneumonia import __version__
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.image.attributes import first_text

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
# A UUID-derived UID (PS3.5 B.2) drawn once: says which program wrote a file.
IMPLEMENTATION_UID = "2.25.57291851268278167708592189028925563246"
_NAMELESS = "2.25.0"  # for headers in memory that name no class or instance


def file_bytes(dataset: Dataset) -> bytes:
    """A dataset as a DICOM file; the same dataset gives the same bytes.

    The preamble is empty: that of the source may hold a program (CVE-2019-11687).
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(first_text(dataset, "SOPClassUID") or _NAMELESS)
    meta.MediaStorageSOPInstanceUID = UID(first_text(dataset, "SOPInstanceUID") or _NAMELESS)
    meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = "PNEUMONIA_" + __version__[:6]
    written = copy.copy(dataset)
    written.file_meta = meta
    written.preamble = b"\0" * 128
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values of the file
        if int(pydicom.__version__.split(".")[0]) >= 3:
            written.save_as(stream, enforce_file_format=True, implicit_vr=False, little_endian=True)
        else:
            written.is_little_endian = True
            written.is_implicit_VR = False
            written.save_as(stream, write_like_original=False)
    return stream.getvalue()


def dataset_bytes(dataset: Dataset) -> bytes:
    """The data set as Explicit VR Little Endian, without preamble and file meta information."""
    stream = DicomBytesIO()
    stream.is_little_endian = True
    stream.is_implicit_VR = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dataset(stream, dataset)
    return bytes(stream.getvalue())


def write_dicom(path: str, dataset: Dataset) -> None:
    """Write a DICOM file atomically.

    Args:
        dataset: From `build_results`.

    Raises:
        OutputError: The file cannot be written.
    """
    write_bytes(path, file_bytes(dataset))
