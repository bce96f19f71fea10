"""DICOM pixel data to stored values; reports the decoder used, and damage as warnings."""

import copy
import importlib.util
import io
import warnings as python_warnings
from typing import Any, BinaryIO, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.filereader import read_dataset

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.codestream import (
    END_OF_IMAGE,
    FrameHeader,
    ends_properly,
    jpeg2000_frame_header,
    jpeg_frame_header,
)
from pneumonia.runtime.image.dicom_header import (
    DEFLATED,
    HTJ2K,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    NATIVE,
    RLE,
    DicomHeader,
    high_bit,
    rejected,
)

# Names in pydicom 3 and 2.3, the most careful decoder first.
_PREFERRED: Dict[str, Tuple[str, ...]] = {RLE: ("pydicom", "rle")}
_PREFERRED.update(dict.fromkeys(JPEG_2000, ("pillow", "pylibjpeg", "gdcm")))
_PREFERRED.update(dict.fromkeys(JPEG_LS, ("pyjpegls", "jpeg_ls", "gdcm")))
_PREFERRED.update(dict.fromkeys(HTJ2K, ("pylibjpeg",)))
_PREFERRED.update(dict.fromkeys(JPEG_LOSSLESS, ("gdcm", "pylibjpeg")))
_INSTALL = {
    JPEG_LS: "pip install pyjpegls",
    HTJ2K: "pip install pylibjpeg pylibjpeg-openjpeg",
    JPEG_LOSSLESS + (JPEG_EXTENDED,): "pip install python-gdcm",
}


class StoredPixels(NamedTuple):
    """Stored values, integer (H, W), the decoder that made them and warnings."""

    values: np.ndarray
    decoder: str
    warnings: List[str]


def _truncated(what: str) -> DicomError:
    return DicomError(what, "failed", "pixel_data_truncated")


def _frames(pixel_data: bytes, count: int) -> List[bytes]:
    """Encapsulated frames, with the function of whichever pydicom is installed."""
    from pydicom import encaps

    if hasattr(encaps, "generate_frames"):
        return list(encaps.generate_frames(pixel_data, number_of_frames=count))
    return list(encaps.generate_pixel_data_frame(pixel_data, count))


def available_decoders(syntax: str) -> List[str]:
    """Decoders of this installation for a compressed syntax, the preferred first."""
    try:
        from pydicom.pixels import get_decoder

        names = list(get_decoder(syntax).available_plugins)
    except ImportError:
        names = [
            handler.HANDLER_NAME.lower().replace("-", "_")
            for handler in pydicom.config.pixel_data_handlers
            if handler.is_available() and handler.supports_transfer_syntax(syntax)
        ]
        names = ["rle" if name.startswith("rle") else name for name in names]
    except NotImplementedError:
        return []
    if syntax == JPEG_EXTENDED:  # of 12 bits: pydicom refuses what gdcm can do
        return ["gdcm"] if importlib.util.find_spec("gdcm") is not None else []
    return [name for name in _PREFERRED.get(syntax, ()) if name in names]


def _check_stream(header: DicomHeader, frame: bytes) -> Optional[FrameHeader]:
    """Compare the codestream's own size with the data set's before anything is allocated."""
    if header.syntax == RLE:
        return None  # its size is the data set's
    wavelet = header.syntax in JPEG_2000 + HTJ2K
    found = jpeg2000_frame_header(frame) if wavelet else jpeg_frame_header(frame)
    if found is None:
        raise DicomError("Compressed image has no frame header", "failed", "decode_error")
    expected = (int(header.dataset.Rows), int(header.dataset.Columns), 1)
    if (found.height, found.width, found.components) != expected:
        raise DicomError(
            "Compressed image differs in size from the data set",
            "failed",
            "dimension_mismatch",
            expected="{} x {} x {}".format(*expected),
            found="{} x {} x {}".format(found.height, found.width, found.components),
        )
    return found


def _decode_with_pillow(frame: bytes) -> np.ndarray:
    """8-bit JPEG; Pillow detects truncation where other decoders fill in pixels."""
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
            image.load()
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        if "truncated" in str(error) or not ends_properly(frame):
            raise _truncated("JPEG data end too early") from None
        raise DicomError("JPEG data are damaged", "failed", "decode_error") from None


def _decode_with_gdcm(frame: bytes, stream: FrameHeader, syntax: str) -> np.ndarray:
    """JPEG of 9 to 12 bits: uint16 (height, width)."""
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.width, stream.height, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.MONOCHROME2  # of the samples; display inverts
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, stream.bits, stream.bits - 1, 0))
    data = image.GetBuffer().encode("utf-8", "surrogateescape")  # gdcm returns bytes as text
    return np.frombuffer(data, dtype="<u2").reshape(stream.height, stream.width)


def _decode_with_pydicom(dataset: Any, syntax: str, decoder: str) -> np.ndarray:
    if hasattr(dataset, "pixel_array_options"):
        if decoder:
            dataset.pixel_array_options(decoding_plugin=decoder)
        if high_bit(dataset) + 1 != dataset.BitsStored:  # pydicom would clear the upper bits
            dataset.pixel_array_options(correct_unused_bits=False)
    elif decoder:
        dataset.convert_pixel_data(decoder)
    return np.asarray(dataset.pixel_array)


def _decode_native(dataset: Any, header: DicomHeader) -> StoredPixels:
    item_bytes = int(dataset.BitsAllocated) // 8
    expected = int(dataset.Rows) * int(dataset.Columns) * item_bytes * header.frames
    found = len(dataset.PixelData)
    if found < expected:
        raise _truncated("Pixel data end too early")
    warnings = ["excess_pixel_bytes"] if found > expected + expected % 2 else []
    return StoredPixels(_decode_with_pydicom(dataset, header.syntax, ""), "pydicom", warnings)


def _decode_compressed(dataset: Any, header: DicomHeader) -> StoredPixels:
    frame = _first_frame(dataset.PixelData, header.frames)
    stream = _check_stream(header, frame)
    if header.syntax in JPEG_LS and END_OF_IMAGE not in frame:
        raise _truncated("JPEG-LS data end too early")  # CharLS may search for the end for ever
    warnings = []
    if stream is not None and not ends_properly(frame):
        warnings.append("degraded")
    eight_bit_jpeg = header.syntax == JPEG_BASELINE or (
        header.syntax == JPEG_EXTENDED and stream is not None and stream.bits == 8
    )
    if eight_bit_jpeg:
        return StoredPixels(_decode_with_pillow(frame), "pillow", warnings)
    names = available_decoders(header.syntax)
    if not names:
        fixes = [fix for syntaxes, fix in _INSTALL.items() if header.syntax in syntaxes]
        raise rejected(
            "No decoder is installed for this transfer syntax",
            "transfer_syntax",
            found=header.syntax,
            fix=fixes[0] if fixes else None,
        )
    try:
        if header.syntax == JPEG_EXTENDED and stream is not None:
            values = _decode_with_gdcm(frame, stream, header.syntax)
        else:
            values = _decode_with_pydicom(dataset, header.syntax, names[0])
        return StoredPixels(values, names[0], warnings)
    except MemoryError:
        raise
    except Exception:  # decoders may raise anything, and their messages may quote the file
        if stream is not None and not ends_properly(frame):
            raise _truncated("Compressed image ends too early") from None
        raise DicomError("Compressed image is damaged", "failed", "decode_error") from None


def _first_frame(pixel_data: bytes, count: int) -> bytes:
    try:
        return _frames(pixel_data, count)[0]
    except Exception:  # the encapsulation parser raises several kinds, its texts quote bytes
        raise _truncated("Encapsulated pixel data are incomplete") from None


def _inside_stored_bits(values: np.ndarray, dataset: Any) -> Tuple[np.ndarray, bool]:
    """The bits up to HighBit, without others (overlays in old files).

    Returns:
        The values, and whether a bit outside of the stored ones was set.
    """
    bits = int(dataset.BitsStored)
    shift = high_bit(dataset) + 1 - bits
    if values.dtype == np.uint8 and bits == 8 and int(dataset.PixelRepresentation) == 0:
        return values, False  # all bits are stored bits, as in the RSNA files
    wide = values.astype(np.int32)
    kept = (wide >> shift) & ((1 << bits) - 1)
    if int(dataset.PixelRepresentation) == 1:
        sign = 1 << (bits - 1)
        kept = (kept ^ sign) - sign
    return kept, bool(((kept << shift) != wide).any())


def _with_pixels(stream: BinaryIO, header: DicomHeader) -> Any:
    """The header's data set with its pixel data, as pydicom's decoders need it."""
    if header.syntax == DEFLATED:
        stream.seek(0)
        rest = pydicom.dcmread(stream, force=True)
    else:
        encoding = header.dataset.is_implicit_VR, header.dataset.is_little_endian
        rest = read_dataset(stream, *encoding)
    if "PixelData" not in rest:
        # A cut encapsulated element is dropped by pydicom, though its tag is in the file.
        stream.seek(0)
        if b"\xe0\x7f\x10\x00" in stream.read():
            raise _truncated("Pixel data end too early")
    if not rest.get("PixelData"):
        raise rejected("PixelData is missing", "pixel_data")
    dataset = copy.copy(header.dataset)
    dataset[rest["PixelData"].tag] = rest["PixelData"]
    # values of the checked header replace those of the file
    dataset.add_new("SamplesPerPixel", "US", 1)
    if "NumberOfFrames" in dataset:
        dataset.add_new("NumberOfFrames", "IS", str(header.frames))
    return dataset


def decode_pixels(stream: BinaryIO, header: DicomHeader) -> StoredPixels:
    """Decode the (first) frame.

    Args:
        stream: The file, where `read_header` left it.

    Returns:
        Stored values, int32 or uint8 (Rows, Columns), inside the range of BitsStored.

    Raises:
        DicomError: Pixel data missing, cut off, damaged, of another size, or no decoder.
    """
    dataset = _with_pixels(stream, header)
    with python_warnings.catch_warnings(record=True) as caught:
        python_warnings.simplefilter("always")
        native = header.syntax in NATIVE
        stored = (_decode_native if native else _decode_compressed)(dataset, header)
    values = stored.values[0] if header.frames > 1 and stored.values.ndim == 3 else stored.values
    if values.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise DicomError("Decoded image has another size", "failed", "dimension_mismatch")
    warnings = list(stored.warnings)
    if caught and not native:
        warnings.append("degraded")
    values, changed = _inside_stored_bits(values, dataset)
    if changed and not native:
        warnings.append("degraded")
    return StoredPixels(values, stored.decoder, warnings)
