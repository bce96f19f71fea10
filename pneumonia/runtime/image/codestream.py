"""Headers of compressed images, read without decoding: bits and size a decoder would allocate."""

import struct
from typing import NamedTuple, Optional

_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # DHT, JPG, DAC: codes among the start-of-frame markers
_NO_LENGTH = (0x01,) + tuple(range(0xD0, 0xD9))
END_OF_IMAGE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
_SIZ = b"\xff\x4f\xff\x51"


class FrameHeader(NamedTuple):
    """Header of a codestream: bits per sample, height, width, components."""

    bits: int
    height: int
    width: int
    components: int


def jpeg_frame_header(data: bytes) -> Optional[FrameHeader]:
    """Start-of-frame of a JPEG or JPEG-LS stream, or None when there is none."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _NO_LENGTH:
            position += 2
            continue
        frame = 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES
        if frame or marker == 0xF7:  # SOF55 is JPEG-LS
            if position + 10 > len(data):
                return None
            return FrameHeader(*struct.unpack(">BHHB", data[position + 4 : position + 10]))
        if marker in (0xD9, 0xDA):  # end of image, start of scan: the frame header is missing
            return None
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return None


def jpeg2000_frame_header(data: bytes) -> Optional[FrameHeader]:
    """SIZ marker of a JPEG 2000 codestream (bare or inside JP2 boxes), or None."""
    start = data.find(_SIZ, 0, 4096)
    if start < 0 or start + 43 > len(data):
        return None
    right, bottom, left, top = struct.unpack(">4I", data[start + 8 : start + 24])
    components, depth = struct.unpack(">HB", data[start + 40 : start + 43])
    return FrameHeader((depth & 0x7F) + 1, bottom - top, right - left, components)


def ends_properly(data: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 stream reaches its end marker."""
    return data[-64:].rstrip(b"\0\xff").endswith(END_OF_IMAGE)  # zeros and fill bytes may follow


def is_irreversible_jpeg2000(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream uses the 9-7 wavelet, which cannot be undone exactly."""
    position = data.find(_SIZ)
    if position < 0:
        return False
    position += 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack(">HH", data[position : position + 4])
        if marker == 0xFF52:  # COD: the transformation is the tenth byte after the length
            return data[position + 13 : position + 14] == b"\0"
        if marker == 0xFF90:  # start of a tile part
            return False
        position += 2 + length
    return False


def is_near_lossless_jpeg_ls(data: bytes) -> bool:
    """Whether a JPEG-LS stream allows its samples to differ (NEAR of its first scan)."""
    position = data.find(b"\xff\xd8\xff")
    if position < 0:
        return False
    position += 2
    while position + 5 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack(">HH", data[position : position + 4])
        if marker == 0xFFDA:
            near = position + 5 + 2 * data[position + 4]
            return data[near : near + 1] not in (b"", b"\0")
        position += 2 + length
    return False
