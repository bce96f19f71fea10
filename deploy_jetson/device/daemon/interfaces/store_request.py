"""One C-STORE request: compared with its data set, and turned into a file."""

import io
from typing import Any, Iterator, Tuple

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.image.dicom_header import BIG_ENDIAN, IMPLICIT_LITTLE
from pneumonia.runtime.results.files import IMPLEMENTATION_UID

# statuses of C-STORE (PS3.4 B.2.3, PS3.7 C); dcmtk's storescp answers the same to the same
SUCCESS, NO_RESOURCES, NO_MATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
PROCESSING_FAILURE, CLASS_NOT_SUPPORTED, NOT_AUTHORIZED = 0x0110, 0x0122, 0x0124
INSTANCE_UID = 0x00080018
NAMES_BYTES = 1 << 16  # of a data set, in which its class and instance are named
BLOCK = 1 << 18


class OverlongDataSet(io.BytesIO):
    """Stands for a data set that is too long: the rest of it is dropped."""

    def write(self, data: Any) -> int:
        """Take nothing, and report all of it as written."""
        return len(data)


def file_head(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """Preamble and file meta information before a data set as it came over the network."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance)
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    stream = DicomBytesIO()
    stream.is_little_endian = True
    stream.is_implicit_VR = False
    write_file_meta_info(stream, meta)
    return b"\0" * 128 + b"DICM" + bytes(stream.getvalue())


class StoreRefused(Exception):  # noqa: N818 - an answer, not a fault
    """A C-STORE request is answered with a failure status.

    Attributes:
        status: Of DIMSE.
        reason: A code for metrics and log.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def named_instance(start: bytes, syntax: str) -> Tuple[str, str]:
    """SOP class and SOP instance UID that a data set names.

    Args:
        start: Its first `NAMES_BYTES`.
        syntax: Transfer syntax UID.

    Raises:
        StoreRefused: It is empty, is not in that syntax, or names none.
    """
    if not start:
        raise StoreRefused(CANNOT_UNDERSTAND, "no_data_set")
    try:
        dataset = read_dataset(
            DicomBytesIO(start), syntax == IMPLICIT_LITTLE, syntax != BIG_ENDIAN,
            stop_when=lambda tag, vr, length: tag > INSTANCE_UID,
        )  # fmt: skip
        names = first_text(dataset, "SOPClassUID"), first_text(dataset, "SOPInstanceUID")
    except Exception:  # foreign bytes make pydicom raise anything
        raise StoreRefused(CANNOT_UNDERSTAND, "cannot_understand") from None
    if not all(names):
        raise StoreRefused(CANNOT_UNDERSTAND, "cannot_understand")
    return names


def request_blocks(request: Any, context: Any) -> Iterator[bytes]:
    """The image of a request as the blocks of a file.

    Args:
        request: C-STORE primitive.
        context: The presentation context it came in.

    Raises:
        StoreRefused: It has no data set, or one that it contradicts or that is too long.
    """
    data, syntax = request.DataSet, str(context.transfer_syntax)
    if isinstance(data, OverlongDataSet):
        raise StoreRefused(CANNOT_UNDERSTAND, "too_large")
    start = b""
    if data is not None:
        data.seek(0)
        start = data.read(NAMES_BYTES)
    found = named_instance(start, syntax)
    stated = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
    if stated[0] != str(context.abstract_syntax):
        raise StoreRefused(CLASS_NOT_SUPPORTED, "class_mismatch")
    if stated != found:
        is_class = stated[0] != found[0]
        raise StoreRefused(NO_MATCH, "class_mismatch" if is_class else "instance_mismatch")
    return _blocks(file_head(stated[0], stated[1], syntax), data)


def _blocks(head: bytes, data: Any) -> Iterator[bytes]:
    yield head
    data.seek(0)
    for block in iter(lambda: data.read(BLOCK), b""):
        yield block
