"""Weights and columns in the order the kernels read them."""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.choices import Weights
from deploy_jetson.kernels.tensors import Ints

BLOB_ALIGNMENT = 64


class Blob:
    """The weights file: arrays one after another, each on a cache line, equal ones once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._offsets: dict[bytes, int] = {}  # digest -> offset

    def add(self, values: npt.NDArray[np.generic]) -> int:
        """Append an array; returns its byte offset."""
        data = values.tobytes()
        digest = hashlib.sha256(data).digest()
        offset = self._offsets.setdefault(digest, self._size)
        if offset != self._size or not data:
            return offset
        padding = -len(data) % BLOB_ALIGNMENT
        self._parts += [data, bytes(padding)]
        self._size += len(data) + padding
        return offset

    def data(self) -> bytes:
        """The whole file; never empty, since an empty symbol would have no address."""
        return b"".join(self._parts) or bytes(BLOB_ALIGNMENT)


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


def pack_panels(matrix: Weights, width: int) -> Panels:
    """Cut a (O, P) matrix into panels of `width` filters, each with the union of their columns.

    Filters beyond O are zero. A panel without weights has no columns: it yields the bias alone.
    """
    columns, weights, starts = [], [], [0]
    for first in range(0, len(matrix), width):
        panel = matrix[first : first + width]
        kept = np.flatnonzero((panel != 0).any(axis=0))
        block = np.zeros((len(kept), width), np.float32)
        block[:, : len(panel)] = panel[:, kept].T
        columns.append(kept.astype(np.int64))
        weights.append(block)
        starts.append(starts[-1] + len(kept))
    return Panels(np.concatenate(columns), np.array(starts, np.int32), np.concatenate(weights))


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
