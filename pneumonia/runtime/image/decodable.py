"""Which transfer syntaxes this installation decodes, found by decoding a sample of each.

An installed decoder may still lack a codec: pydicom's plug-ins need further packages, and libraries
are built without some codecs. Archives convert to an offered syntax before they send, so that only
syntaxes that can be read are offered.
"""

import base64
import io
import os
import struct
from contextlib import contextmanager
from typing import Dict, Iterator, List

import numpy as np

from pneumonia.runtime.image.dicom_header import (
    DEFLATED,
    HTJ2K,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    KNOWN_SYNTAXES,
    NATIVE,
    RLE,
    read_header,
)
from pneumonia.runtime.image.dicom_pixels import decode_pixels
from pneumonia.runtime.image.read_limits import DEFAULT_LIMITS

SIDE = 8
LOSSY_ERROR = 0.03  # of the full range
# Codestreams of the ramp 0, 65, 130, ..., 4095 (8 bits: a 16th of it), 8 x 8 pixels, made with
# dcmtk (JPEG, JPEG-LS, RLE), Pillow (8-bit JPEG), openjpeg and OpenJPH.
SAMPLES: Dict[str, str] = {
    JPEG_BASELINE: (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4R"
        "DgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAf/EABkQAAEF"
        "AAAAAAAAAAAAAAAAAAAGCSUyo//aAAgBAQAAPwATTa9IrM//2Q=="
    ),
    JPEG_EXTENDED: (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4R"
        "DgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/wQALDAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAf/EABwQAAAG"
        "AwAAAAAAAAAAAAAAAAAKDSk2RlNjcf/aAAgBAQAAPwALXpr7FmtcVE5qH///2Q=="
    ),
    JPEG_LOSSLESS[0]: (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAIAAgBAREA/8QAFwABAQEBAAAAAAAAAAAAAAAACQcKEP/aAAgBAQAG"
        "AADqDQaDQaDQaDoIQRBEEQRBEEQTQQgiCIIgiCIIgmghBEEQRBEEQRBNBCCIIgiCIIgiCaCEEQRBEEQRBEE0EIIg"
        "iCIIgiCIJoIQRBEEQRBEEQT//9k="
    ),
    JPEG_LOSSLESS[1]: (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAIAAgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAABwoQ/9oACAEBAAEA"
        "AMgoKCgoKCg0EIKCgoKCgoNBCCgoKCgoKDQQgoKCgoKCg0EIKCgoKCgoNBCCgoKCgoKDQQgoKCgoKCg0EIKCgoKC"
        "goP/2Q=="
    ),
    JPEG_LS[0]: (
        "/9j/9wALEAAIAAgBAREA//gADQH//wASAEMBFABA/9oACAEBAAAAAKQMgZAx/n2QMf0EJBSAn6fL1eJBIIXa6XK4"
        "W62SAQOtXRzcnFwT8gZvbm1sa2pPiBWloZ2ZlZF6QIxsTCwL68vCA11cW1taWV2A/9k="
    ),
    JPEG_LS[1]: (
        "/9j/9wALDAAIAAgBAREA/9oACAEBAAIAAJlllldlkABBpphphhoABBhZhZZZoUFFlFFEmmcokkkgkw0EEEPIeYZ3"
        "vc9zjDO5rmuaWP/Z"
    ),
    JPEG_2000[0]: (
        "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABCwEB/1IADAAAAAEAAAQEAAH/XAAEQGD/"
        "ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAABmAAH/k9/hVBIsQqeXlbFDDtYo"
        "P97oKcVIuDRWEuF5DpiRhU9D0Zh+EpvOO8N5vXFJxoU3gmJWFbc5znXqSkAMwCgAB0Rl1SPMU4YLXGfa6ymrhOuA"
        "cNhsNhsNhsP/2Q=="
    ),
    JPEG_2000[1]: (
        "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABCwEB/1IADQECAAEAAAQEAACI/1wABUJg"
        "AP9kACUAAUNyZWF0ZWQgYnkgT3BlbkpQRUcgdmVyc2lvbiAyLjUuNP+QAAoAAAAAAEYAAf+T33moEixCp5eVsUMO"
        "1ig/3ugpxUi4NFYS4XkOmJGFT0PRmH4Sm847w3m9cUnGhTeCYlYVtznOder/2Q=="
    ),
    HTJ2K[0]: (
        "/0//UQApQAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUE"
        "BEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAFwAAf+TwAAm"
        "j/UFB3QAAADAABNAABMAUP4CB3QAiPIDh3QAwAATQAATgCIiAYJ0ACIpkgDDVADAACpgABWAAAAA8KpxAnUADnTA"
        "AQf+wFKB7LYA/9k="
    ),
    HTJ2K[2]: (
        "/0//UQApQAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAAKv9SAAwAAgABAAUE"
        "BEAA/1wAIyK3GLbqtuq2vK8ArwCu4qdMp0ynZJADkAOQRpfSl9KXYf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/"
        "kAAKAAAAAABzAAH/k8AAATiRa+AIB3QAAADAAASwAAEwkAKHdACQ/AQHdADAABUQAAVQBgbu7gDCtABCULwQKP4B"
        "hrQAwAAV8AAFrt6vyu16f12u+zJLypt2AAQJCAh+Kf6L4r0U/1L4AhAKboQgajkA/9k="
    ),
    RLE: (
        "AgAAAEAAAABgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP0A"
        "/QH9Av0D/QT9Bf0G/Qf9CP0J/Qr9C/0M/Q39Dv0PBwBBgsMERYbHBwhJissMTY7PBxBRktMUVZbXBxhZmtscXZ7f"
        "ByBhouMkZabnByhpqussba7vBzBxsvM0dbb3Bzh5uvs8fb7/"
    ),
}
SAMPLES[HTJ2K[1]] = SAMPLES[HTJ2K[0]]  # the order of progression is the same at one resolution
_LOSSY = (JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS[1], JPEG_2000[1], HTJ2K[2])
_decodes: Dict[str, bool] = {}


def decodable_syntaxes() -> List[str]:
    """Transfer syntaxes of which this installation decodes a sample, in a fixed order.

    Deflated is not among them: it is read on demand only (`ReadLimits.allow_deflated`).
    """
    found = [syntax for syntax in NATIVE if syntax != DEFLATED]
    return found + [syntax for syntax in KNOWN_SYNTAXES if syntax in SAMPLES and decodes(syntax)]


def decodes(syntax: str) -> bool:
    """Whether the sample of a compressed transfer syntax decodes; tried once per process."""
    if syntax not in _decodes:
        _decodes[syntax] = _sample_decodes(syntax)
    return _decodes[syntax]


def _sample_decodes(syntax: str) -> bool:
    bits = 8 if syntax == JPEG_BASELINE else 12
    ramp = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 65 >> (12 - bits)
    allowed = LOSSY_ERROR * (1 << bits) if syntax in _LOSSY else 0
    stream = io.BytesIO(sample_file(syntax, bits))
    try:
        with _silent_decoders():
            values = decode_pixels(stream, read_header(stream, DEFAULT_LIMITS, True)).values
    except Exception:  # a decoder of another version may raise anything
        return False
    return bool(np.abs(values - ramp).max() <= allowed)


@contextmanager
def _silent_decoders() -> Iterator[None]:
    """Discard what C libraries write to stderr: a service logs there, one JSON object a line."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def sample_file(syntax: str, bits: int) -> bytes:
    """The sample as a DICOM file in Explicit VR Little Endian."""
    allocated = 8 if bits == 8 else 16
    numbers = [(0x02, 1), (0x10, SIDE), (0x11, SIDE), (0x100, allocated), (0x101, bits)]
    numbers += [(0x102, bits - 1), (0x103, 0)]
    frame = base64.b64decode(SAMPLES[syntax])
    frame += b"\0" * (len(frame) % 2)
    items = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(frame)) + frame
    elements = [
        _element(2, 0x10, b"UI", syntax.encode("ascii")),
        _element(8, 0x18, b"UI", b"2.25.0"),
        _element(0x28, 4, b"CS", b"MONOCHROME2"),
    ]
    elements += [_element(0x28, tag, b"US", struct.pack("<H", value)) for tag, value in numbers]
    pixel_data = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + items
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return b"\0" * 128 + b"DICM" + b"".join(elements) + pixel_data + end


def _element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value
