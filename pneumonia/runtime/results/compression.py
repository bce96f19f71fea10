"""Whether an image was compressed with loss, whatever its header says."""

from typing import Any

from pneumonia.runtime.image.attributes import first_number, first_text
from pneumonia.runtime.image.codestream import is_irreversible_jpeg2000, is_near_lossless_jpeg_ls
from pneumonia.runtime.image.dicom_header import JPEG_BASELINE, JPEG_EXTENDED

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
        source: Header of the image.
        syntax: Transfer syntax of the file.
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
