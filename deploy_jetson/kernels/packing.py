"""Weights and columns in the order the kernels read them."""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.choices import Weights
from deploy_jetson.kernels.tensors import Ints

BLOB_ALIGNMENT = 64
STORAGES = ("fp32", "fp16", "int8")  # numbered as in engine.h
BYTE_GROUP = 64  # weights that share a scale


class Segment(NamedTuple):
    """A piece of the weights file and where it lies in memory once it is float32.

    Attributes:
        storage: Number of its storage in `STORAGES`.
        source, place: Byte offsets in the file and in memory.
        size: Weights, or bytes of what is stored as it is.
    """

    storage: int
    source: int
    place: int
    size: int


class Stored(NamedTuple):
    """The weights file.

    Attributes:
        data: Its bytes.
        segments: How to make it what the kernels read; none where it is that already.
        image_bytes: Memory of what the kernels read.
    """

    data: bytes
    segments: tuple[Segment, ...]
    image_bytes: int


class Blob:
    """What the kernels read: arrays one after another, each on a cache line, equal ones once."""

    def __init__(self) -> None:
        self._parts: list[tuple[npt.NDArray[np.generic], bool]] = []
        self._size = 0
        self._offsets: dict[bytes, int] = {}  # digest -> offset

    def add(self, values: npt.NDArray[np.generic], weights: bool = False) -> int:
        """Append an array; returns its byte offset. `weights` may be stored in fewer bits."""
        digest = hashlib.sha256(np.ascontiguousarray(values).data).digest()
        offset = self._offsets.setdefault(digest, self._size)
        if offset != self._size or not values.size:
            return offset
        self._parts.append((values, weights))
        self._size += len(_padded(values))
        return offset

    def data(self) -> bytes:
        """The whole memory; never empty, since an empty symbol would have no address."""
        return b"".join(_padded(values) for values, _ in self._parts) or bytes(BLOB_ALIGNMENT)

    def stored(self, storage: str) -> Stored:
        """The file: as it is (`fp32`), or with its weights in fewer bits."""
        image_bytes = max(self._size, BLOB_ALIGNMENT)
        if storage == STORAGES[0]:
            return Stored(self.data(), (), image_bytes)
        parts, segments, source, place = [], [], 0, 0
        for values, weights in self._parts:
            number = STORAGES.index(storage) if weights else 0
            data = _padded(encode(values, storage)) if weights else _padded(values)
            size = values.size if weights else len(data)
            segments.append(Segment(number, source, place, size))
            parts.append(data)
            source += len(data)
            place += len(_padded(values))
        return Stored(b"".join(parts), tuple(segments), image_bytes)


def _padded(values: npt.NDArray[np.generic]) -> bytes:
    data = values.tobytes()
    return data + bytes(-len(data) % BLOB_ALIGNMENT)


def encode(values: npt.NDArray[np.generic], storage: str) -> npt.NDArray[np.generic]:
    """Weights as they are stored: halves, or bytes in groups behind the scale of each.

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


class Panels(NamedTuple):
    """Panels of filters with their kept columns.

    Attributes:
        columns: (sum n,) column numbers j = i * K * K + kh * K + kw, panel after panel.
        starts: (panels + 1,) int32 into `columns`.
        weights: (sum n, width) float32, one row of filters per kept column.
    """

    columns: Ints
    starts: npt.NDArray[np.int32]
    weights: Weights


def pack_panels(matrix: Weights, width: int, order: Ints | None = None) -> Panels:
    """Cut a (O, P) matrix into panels of `width` filters, each with the union of their columns.

    Filters beyond O are zero. A panel without weights has no columns: it yields the bias alone.

    Args:
        matrix: (O, P).
        width: Filters of a panel.
        order: (P,) columns in the order they are to be stored; default: as they are.
    """
    columns, weights, starts = [], [], [0]
    for first in range(0, len(matrix), width):
        panel = matrix[first : first + width]
        live = (panel != 0).any(axis=0)
        kept = np.flatnonzero(live) if order is None else order[live[order]]
        block = np.zeros((len(kept), width), np.float32)
        block[:, : len(panel)] = panel[:, kept].T
        columns.append(kept.astype(np.int64))
        weights.append(block)
        starts.append(starts[-1] + len(kept))
    return Panels(np.concatenate(columns), np.array(starts, np.int32), np.concatenate(weights))


class Pieces(NamedTuple):
    """Panels' lists cut into pieces.

    Attributes:
        first: (panels + 1,) int32 first piece of every panel.
        starts: (pieces + 1,) int32 first column of every piece.
    """

    first: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]


def cut_panels(panels: Panels, source_of: Ints, sizes: tuple[int, int], budget: int) -> Pieces:
    """Cut every panel's list where what it touches would exceed the budget.

    Args:
        panels: Columns of one source lie side by side.
        source_of: (P,) plane of the input that a column reads.
        sizes: Bytes of the inputs of one source, and of the weights of one column.
        budget: Bytes of a piece; 0: lists stay whole.
    """
    first, starts = [0], []
    for low, high in zip(panels.starts[:-1].tolist(), panels.starts[1:].tolist(), strict=True):
        starts.append(low)
        sources = source_of[panels.columns[low:high]]
        spent, last = 0, -1
        for at, source in enumerate(sources.tolist() if budget else (), low):
            cost = sizes[1] + (sizes[0] if source != last else 0)
            if spent and spent + cost > budget:
                starts.append(at)
                spent, cost = 0, sum(sizes)
            spent, last = spent + cost, source
        first.append(len(starts))
    starts.append(int(panels.starts[-1]))
    return Pieces(np.array(first, np.int32), np.array(starts, np.int32))


def pad_filters(values: Weights, width: int) -> Weights:
    """Zero-pad the first axis to a multiple of `width`."""
    short = -len(values) % width
    return np.concatenate([values, np.zeros((short, *values.shape[1:]), np.float32)])


def filter_order(matrix: Weights) -> Ints:
    """Filters with equal supports side by side, empty ones last; else as they were.

    Returns:
        (O,) the old index of every new position.
    """
    supports: dict[bytes, int] = {}
    keys = []
    for index, row in enumerate(matrix != 0):
        first = supports.setdefault(row.tobytes(), index)
        keys.append((not row.any(), first, index))
    return np.array([key[2] for key in sorted(keys)], np.int64)
