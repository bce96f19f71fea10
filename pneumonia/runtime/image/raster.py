"""PNG and JPEG files as grey images."""

import base64
import io
import struct
import warnings as python_warnings
import zlib
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image

from pneumonia.runtime.errors import RESEARCH_ONLY, DicomError
from pneumonia.runtime.image.codestream import ends_properly
from pneumonia.runtime.image.display import DisplayPlan, to_grey
from pneumonia.runtime.image.read_limits import ReadLimits

_PNG = b"\x89PNG\r\n\x1a\n"
_DEEP_COLOURS = {2: 3, 4: 2, 6: 4}  # colour type of a PNG -> channels, grey without alpha left out
_SIGNATURES = ((_PNG, "png"), (b"\xff\xd8\xff", "jpeg"))
_EXIF_ORIENTATION = 0x0112
_LUMA = np.array([299, 587, 114])  # ITU-R BT.601, as Pillow converts


def raster_format(head: bytes) -> str:
    """`png`, `jpeg`, or an empty string, by the file's first bytes."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    return ""


def picture_uri(data: bytes) -> str:
    """A PNG or JPEG file as a data URI, for self-contained pages."""
    text = base64.b64encode(data).decode("ascii")
    return "data:image/{};base64,{}".format(raster_format(data), text)


class Raster(NamedTuple):
    """A decoded file: uint8 (H, W), stored bits, scaling to 8 bits, and warnings."""

    pixels: np.ndarray
    bits_stored: int
    voi: str
    warnings: List[str]


def _load(data: bytes, limits: ReadLimits, warnings: List[str]) -> Tuple[np.ndarray, str]:
    """Decode; returns the array and Pillow's mode (`L`, `LA`, `RGB`, `RGBA` or `I`)."""
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        width, height = image.size
        if _is_own_picture(image):
            raise DicomError("Picture is a result of this software", "skipped", "own_result")
        if width * height > limits.max_pixels or max(width, height) > limits.max_side:
            raise DicomError(
                "Image is too large",
                "rejected",
                "resource_limit",
                expected="<= {} pixels".format(limits.max_pixels),
                found="{} x {}".format(width, height),
            )
        orientation = _orientation(image)
        image.load()
        if orientation != 1:
            warnings.append("exif_orientation_ignored")
        deep = _deep_channels(data, image)
        if deep is not None:
            return deep, image.mode
        if image.mode in ("1", "P", "PA", "LA", "La", "RGBa"):
            array = np.array(image.convert("L" if image.mode == "1" else "RGBA"))
            return array, "L" if array.ndim == 2 else "RGBA"
        mode = "I" if image.mode.startswith("I") else image.mode
        if mode not in ("L", "RGB", "RGBA", "I"):
            raise DicomError("Image is in colour", "rejected", "colour", "grey", image.mode)
        return np.array(image), mode


def _deep_channels(data: bytes, image: Any) -> Optional[np.ndarray]:
    """Colour or alpha of 16 bits per channel, of which Pillow keeps the upper 8.

    Args:
        data: A PNG or JPEG file.
        image: The same, loaded.

    Returns:
        uint16 (H, W, channels); None for other images.
    """
    depth, colours = data[24:26] if data.startswith(_PNG) and data[12:16] == b"IHDR" else (0, 0)
    channels = _DEEP_COLOURS.get(colours, 0)
    if depth != 16 or not channels:
        return None
    if channels == 2:
        # a pixel of grey and alpha has the bytes of an 8-bit RGBA pixel; the header says which
        head = data[8:24] + bytes((8, 6)) + data[26:29]
        patched = data[:8] + head + struct.pack(">I", zlib.crc32(head[4:])) + data[33:]
        with Image.open(io.BytesIO(patched), formats=("PNG",)) as again:
            octets = np.array(again).astype(np.uint16)
        return octets[..., 0::2] << 8 | octets[..., 1::2]
    with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
        # read as little endian, the lower byte is the one that is kept
        tiles: List[Any] = [(*tile[:3], str(tile[3]).replace("16B", "16L")) for tile in again.tile]
        again.tile = tiles
        lower = np.array(again)
    return np.asarray(np.array(image).astype(np.uint16) << 8 | lower)


def _is_own_picture(image: Any) -> bool:
    """Whether it is an overlay or a picture of a report: both carry the disclaimer as text."""
    return RESEARCH_ONLY in (image.info.get("Disclaimer"), _comment(image))


def _comment(image: Any) -> str:
    comment = image.info.get("comment", b"")
    return comment.decode("latin-1") if isinstance(comment, bytes) else str(comment)


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # EXIF data may be malformed; the image can still be read
        return 1


def _grey(array: np.ndarray, mode: str, warnings: List[str]) -> np.ndarray:
    if mode in ("LA", "RGBA"):
        if (array[..., -1] != np.iinfo(array.dtype).max).any():
            warnings.append("alpha_ignored")
        array = array[..., :-1]
    if array.ndim == 2:
        return array
    if (array == array[..., :1]).all():
        return np.ascontiguousarray(array[..., 0])
    warnings.append("colour_converted")
    return np.asarray((array @ _LUMA + 500) // 1000, dtype=array.dtype)


def read_raster(data: bytes, limits: ReadLimits) -> Raster:
    """Decode a PNG or JPEG file.

    Colour becomes grey: silently when the channels are equal, else with `colour_converted`.
    More than 8 bits are spread from the darkest to the brightest value (`minmax`).

    Raises:
        DicomError: Too large, cut off, damaged, or four-colour print.
    """
    warnings: List[str] = []
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            array, mode = _load(data, limits, warnings)
    except (DicomError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise DicomError("Image is too large", "rejected", "resource_limit") from None
    except Exception as error:  # Pillow's parsers raise many kinds; their texts may quote the file
        if "truncated" in str(error) or not _is_complete(data):
            raise DicomError(
                "Image file ends too early", "failed", "pixel_data_truncated"
            ) from None
        raise DicomError("Image file is damaged", "failed", "decode_error") from None
    grey = _grey(array, mode, warnings)
    if grey.dtype == np.uint8:
        return Raster(grey, 8, "full", warnings)
    plan = DisplayPlan(16)
    return Raster(to_grey(np.clip(grey, 0, 65535), plan), 16, plan.voi(), warnings)


def _is_complete(data: bytes) -> bool:
    """Whether the file ends with its format's last marker."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-32:]
    return ends_properly(data)
