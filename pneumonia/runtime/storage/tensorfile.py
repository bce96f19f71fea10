"""Named tensors in one file: the safetensors format in NumPy alone.

8 bytes header length (little-endian), a JSON header padded with spaces, then the raw buffer.
Nothing in such a file is executed; every number of the header is checked before it is used.
Files are byte-identical to those of the safetensors library (github.com/huggingface/safetensors).
"""

import io
import json
import os
import struct
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.errors import ArtefactError, os_errors_as

MAX_HEADER_BYTES = 16 * 1024 * 1024
METADATA = "__metadata__"

# In the order in which the safetensors library lays tensors out, last first.
DTYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "F64": "<f8",
    "I64": "<i8",
    "U64": "<u8",
}
_CODE_OF = {np.dtype(text).newbyteorder("="): code for code, text in DTYPES.items()}
_RANK = {code: rank for rank, code in enumerate(DTYPES)}


class _Entry:
    """One checked header entry."""

    def __init__(self, name: str, value: Any, where: str) -> None:
        place = "{}, tensor {!r}".format(where, name)
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise _damaged("dtype, shape and data_offsets", "another entry", place)
        if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
            raise _damaged("one of " + ", ".join(DTYPES), repr(value["dtype"])[:40], place)
        self.name = name
        self.dtype = np.dtype(DTYPES[value["dtype"]])
        self.shape = _whole_numbers(value["shape"], place)
        offsets = _whole_numbers(value["data_offsets"], place)
        count = 1
        for extent in self.shape:
            count *= extent
        if len(offsets) != 2 or offsets[1] - offsets[0] != count * self.dtype.itemsize:
            raise _damaged(
                "{} bytes".format(count * self.dtype.itemsize), "offsets " + str(offsets), place
            )
        self.count = count
        self.begin, self.end = offsets


def _damaged(expected: str, found: str, where: str) -> ArtefactError:
    return ArtefactError(
        "Tensor file is damaged or hostile", expected=expected, found=found, where=where
    )


def _whole_numbers(value: Any, where: str) -> Tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 32:
        raise _damaged("a list of whole numbers", repr(value)[:40], where)
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 2**53:
            raise _damaged("whole numbers >= 0", repr(item)[:40], where)
    return tuple(value)


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name occurs twice")
    return record


def _header(stream: io.BufferedReader, where: str) -> Tuple[Dict[str, Any], int]:
    """The parsed header and the number of bytes behind it."""
    size = os.fstat(stream.fileno()).st_size
    head = stream.read(8)
    if len(head) < 8:
        raise _damaged(">= 8 bytes", "{} bytes".format(size), where)
    length = struct.unpack("<Q", head)[0]
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise _damaged("a header inside the file", "a header of {} bytes".format(length), where)
    try:
        header = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged("a JSON header", str(error)[:80], where) from None
    if not isinstance(header, dict):
        raise _damaged("a JSON object", type(header).__name__, where)
    return header, size - 8 - length


def _entries(header: Dict[str, Any], n_bytes: int, where: str) -> List[_Entry]:
    entries = [_Entry(name, value, where) for name, value in header.items() if name != METADATA]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise _damaged(
                "tensors one after another",
                "a hole or an overlap",
                "{}, tensor {!r}".format(where, entry.name),
            )
        position = entry.end
    if position != n_bytes:
        raise _damaged("{} bytes of tensors".format(position), "{}".format(n_bytes), where)
    return entries


def read_tensors(path: str) -> Dict[str, np.ndarray]:
    """Read every tensor of a safetensors file.

    Returns:
        Name -> writable array, in the order of the file.

    Raises:
        ArtefactError: Missing or unreadable file, header outside the file, offsets that overlap,
            leave holes or end elsewhere than the file, unknown type (bfloat16 among them).
    """
    path = str(path)
    with os_errors_as(ArtefactError, "Tensor file cannot be read", path):
        with io.open(path, "rb") as stream:
            header, n_bytes = _header(stream, path)
            entries = _entries(header, n_bytes, path)
            buffer = bytearray(n_bytes)
            if stream.readinto(buffer) != n_bytes:
                raise _damaged("{} bytes".format(n_bytes), "fewer", path)
    tensors = {}
    for entry in entries:
        flat = np.frombuffer(buffer, entry.dtype, count=entry.count, offset=entry.begin)
        tensors[entry.name] = flat.reshape(entry.shape)
    return tensors


def tensor_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The file's bytes; see `write_tensors`."""
    rows = []
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        code = _CODE_OF.get(array.dtype.newbyteorder("="))
        if code is None or name == METADATA:
            raise ArtefactError(
                "Tensor cannot be stored",
                expected="one of " + ", ".join(DTYPES),
                found=str(array.dtype),
                where="tensor {!r}".format(name),
            )
        little = array.astype(DTYPES[code], copy=False)
        rows.append((-_RANK[code], name, code, array.shape, little.tobytes()))
    header: Dict[str, Any] = {}
    position = 0
    rows.sort(key=lambda row: (row[0], row[1].encode("utf-8")))
    for _, name, code, shape, data in rows:
        header[name] = {
            "dtype": code,
            "shape": list(shape),
            "data_offsets": [position, position + len(data)],
        }
        position += len(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text] + [row[4] for row in rows])


def write_tensors(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file atomically.

    Args:
        tensors: Name -> array of any type in `DTYPES`.

    Raises:
        ArtefactError: An array's type is not supported.
        OutputError: The file cannot be written.
    """
    write_bytes(path, tensor_bytes(tensors))
