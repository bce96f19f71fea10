"""The weights file: arrays one after another, weights in float32 or in fewer bits."""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ALIGNMENT_BYTES = 64
STORAGES = ("fp32", "fp16", "int8")  # numbered as in engine.h
BYTE_GROUP = 64  # weights that share a scale


class WeightsSegment(NamedTuple):
    """One array of the weights file, and where it lies in memory once it is float32."""

    storage: int  # number of its storage in `STORAGES`
    # source, place: byte offsets in the file and in memory
    source: int
    place: int
    size: int  # weights, or bytes of what is stored as it is


class WeightsFile(NamedTuple):
    """The weights file."""

    data: bytes  # its bytes
    # how to expand the file to float32; empty when it is stored as float32
    segments: tuple[WeightsSegment, ...]
    image_bytes: int  # memory of what the kernels read


class WeightStore:
    """The memory the kernels read: arrays on cache-line boundaries, equal arrays once.

    Args:
        dtype: What float32 arrays become: the target's number type.
    """

    def __init__(self, dtype: str = "float32") -> None:
        self._dtype = np.dtype(dtype)
        self._parts: list[tuple[npt.NDArray[np.generic], bool]] = []
        self._size = 0
        self._offsets: dict[bytes, int] = {}  # digest -> offset

    def add(self, values: npt.NDArray[np.generic], weights: bool = False) -> int:
        """Append an array; returns its byte offset. `weights` may be stored in fewer bits."""
        if values.dtype == np.float32:
            values = values.astype(self._dtype)
        digest = hashlib.sha256(np.ascontiguousarray(values).data).digest()
        offset = self._offsets.setdefault(digest, self._size)
        if offset != self._size or not values.size:
            return offset
        self._parts.append((values, weights))
        self._size += len(_padded(values))
        return offset

    def data(self) -> bytes:
        """The whole memory; never empty, since an empty symbol would have no address."""
        return b"".join(_padded(values) for values, _ in self._parts) or bytes(ALIGNMENT_BYTES)

    def _stored_as(self) -> str:
        """The storage that is the number type itself."""
        return {"float32": "fp32", "float16": "fp16"}[self._dtype.name]

    def file(self, storage: str) -> WeightsFile:
        """The weights file: unchanged (`fp32`), or with weights in fewer bits."""
        image_bytes = max(self._size, ALIGNMENT_BYTES)
        if storage == STORAGES[0] or storage == self._stored_as():
            return WeightsFile(self.data(), (), image_bytes)
        parts, segments, source, place = [], [], 0, 0
        for values, weights in self._parts:
            number = STORAGES.index(storage) if weights else 0
            data = _padded(encode(values, storage)) if weights else _padded(values)
            size = values.size if weights else len(data)
            segments.append(WeightsSegment(number, source, place, size))
            parts.append(data)
            source += len(data)
            place += len(_padded(values))
        return WeightsFile(b"".join(parts), tuple(segments), image_bytes)


def _padded(values: npt.NDArray[np.generic]) -> bytes:
    data = values.tobytes()
    return data + bytes(-len(data) % ALIGNMENT_BYTES)


def encode(values: npt.NDArray[np.generic], storage: str) -> npt.NDArray[np.generic]:
    """Weights as stored: float16, or int8 in groups, each group after its float32 scale.

    A group's largest weight becomes 127; a group of zeros has the scale 0.
    """
    flat = values.astype(np.float32).ravel()
    if storage == "fp16":
        return flat.astype(np.float16)
    groups = np.pad(flat, (0, -len(flat) % BYTE_GROUP)).reshape(-1, BYTE_GROUP)
    scales = (np.abs(groups).max(axis=1, keepdims=True) / 127).astype(np.float32)
    levels = np.divide(groups, scales, out=np.zeros_like(groups), where=scales > 0)
    integers = np.rint(levels).astype(np.int8)
    return np.concatenate([scales.view(np.uint8), integers.view(np.uint8)], axis=1)
