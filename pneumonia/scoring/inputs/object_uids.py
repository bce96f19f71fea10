"""The UIDs of a DICOM object that a server sent, before its pixels are decoded."""

from io import BytesIO

from pydicom.filereader import read_dataset, read_partial

from pneumonia.runtime.image.attributes import OBJECT_UIDS, first_text
from pneumonia.runtime.image.dicom_header import DEFLATED

META_START, MAX_META_BYTES = 132, 1 << 16
LAST_TAG = 0x0020000E  # Series Instance UID, the last of the three in a data set


def object_uids(data: bytes) -> tuple[str, str, str] | None:
    """Study, Series and SOP Instance UID of a DICOM file.

    Returns:
        The UIDs, empty where the data set has none; None when the bytes are not a DICOM file that
        can be parsed, or a deflated one, which only the decoding child opens.
    """
    try:
        meta = read_dataset(
            BytesIO(data[META_START : META_START + MAX_META_BYTES]),
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, vr, length: tag >> 16 != 2,
        )
        if first_text(meta, "TransferSyntaxUID") == DEFLATED:
            return None
        dataset = read_partial(BytesIO(data), stop_when=lambda tag, vr, length: tag > LAST_TAG)
        study, series, instance = (first_text(dataset, keyword) for keyword in OBJECT_UIDS)
    except Exception:  # parsers of foreign files raise anything
        return None
    return study, series, instance
