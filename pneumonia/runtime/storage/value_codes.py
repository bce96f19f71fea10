"""Stored values of a quantized weight: a small table of levels and a packed code per value.

`levels` is float32 (1, n), or (O, n) when every filter has levels of its own (quantized weights
multiplied by folded batch norms); rows are ascending and padded with zeros at the end. A first
column of zeros says that zero is one of the codes.
"""

from typing import Tuple

import numpy as np

from pneumonia.runtime.storage.sparse_layouts import (
    LayoutError,
    bit_stream,
    pack_fields,
    unpack_fields,
)

MAX_BITS = 12
MAX_SHARED = 256  # more different values than this in a layer: a table per filter is tried
SUFFIXES = ("codes", "levels")


def code_bits(n_levels: int) -> int:
    """Number of bits needed to encode the levels, at least one."""
    return max(1, max(n_levels - 1, 0).bit_length())


def level_numbers(matrix: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Matrix (O, P) -> level number of each place from 1, 0 for zero; and the table of levels.

    Raises:
        LayoutError: More than 4095 different values in a filter: the weight is not quantized.
    """
    shared = np.unique(matrix)
    shared = shared[shared != 0]
    if len(shared) <= MAX_SHARED:
        numbers = np.searchsorted(shared, matrix) + 1
        return np.where(matrix != 0, numbers, 0), shared[None].astype(np.float32)
    rows = [np.unique(row[row != 0]) for row in matrix]
    width = max(len(row) for row in rows)
    if width >= 1 << MAX_BITS:
        raise LayoutError("weights take more than 4095 values")
    table = np.zeros((len(rows), width), dtype=np.float32)
    numbers = np.zeros(matrix.shape, dtype=np.int64)
    for i, own in enumerate(rows):
        table[i, : len(own)] = own
        numbers[i] = np.where(matrix[i] != 0, np.searchsorted(own, matrix[i]) + 1, 0)
    return numbers, table


def encode_codes(numbers: np.ndarray, table: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Stored level numbers (n,) and their table -> packed codes uint8, table as it is stored."""
    if (numbers == 0).any():
        table = np.concatenate([np.zeros((len(table), 1), dtype=np.float32), table], axis=1)
    else:
        numbers = numbers - 1
    return np.packbits(pack_fields(numbers, code_bits(table.shape[1]))), table


def decode_codes(codes: np.ndarray, levels: np.ndarray, n_values: int) -> np.ndarray:
    """Packed codes -> level numbers (n,), 0 for zero.

    Raises:
        LayoutError: The parts do not fit each other.
    """
    if levels.dtype != np.float32 or levels.ndim != 2 or levels.shape[1] > 1 << MAX_BITS:
        raise LayoutError("levels are not a table of float32")
    bits = code_bits(levels.shape[1])
    numbers = unpack_fields(bit_stream(codes, bits * n_values), bits)
    if len(numbers) and int(numbers.max()) >= levels.shape[1]:
        raise LayoutError("a code has no level")
    return numbers if _has_zero(levels) else numbers + 1


def apply_levels(numbers: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Level numbers (O, P), 0 for zero, and the stored table -> float32 weights."""
    if len(levels) not in (1, len(numbers)):
        raise LayoutError("levels are neither one row nor one per filter")
    table = levels
    if not _has_zero(levels):
        table = np.concatenate([np.zeros((len(levels), 1), dtype=np.float32), levels], axis=1)
    if len(table) == 1:
        return np.asarray(table[0][numbers])
    return np.take_along_axis(table, numbers, axis=1)


def _has_zero(levels: np.ndarray) -> bool:
    return levels.shape[1] > 0 and not levels[:, 0].any()
