"""Stored values of a quantized weight: a packed code per value and what the codes mean.

Codings, by the end of the format's name:

`levels`  `levels` float32 (1, n), one table of the layer, or (O, n), one per filter, whichever
          takes fewer bytes; rows are ascending and padded with zeros at the end.
`scaled`  `levels` float32 (1, n), whole numbers, and `scales` float64 (O,): a weight is its level
          times its filter's scale, rounded to float32. A layer of k-bit weights has this form even
          after its batch norm was folded into it, and needs 8 bytes a filter instead of a table.

A first column of zeros in `levels` says that zero is one of the codes.
"""

from typing import Dict, List, Optional, Tuple

import numpy as np

from pneumonia.runtime.storage.sparse_layouts import (
    LayoutError,
    bit_stream,
    pack_fields,
    unpack_fields,
)

MAX_BITS = 12
MAX_SHARED = 256  # more different values than this in a layer: one table per filter
MAX_WHOLE = 255  # largest whole number that a scale multiplies
CODINGS = {"levels": ("codes", "levels"), "scaled": ("codes", "levels", "scales")}

Arrays = Dict[str, np.ndarray]


class LevelNumbers:
    """A matrix (O, P) as numbers of levels.

    Attributes:
        numbers: int64 (O, P): level number from 1, 0 for a weight of zero.
        table: float32 (1, n) or (O, n): the levels.
        scales: float64 (O,), or None without scales.
    """

    def __init__(
        self, numbers: np.ndarray, table: np.ndarray, scales: Optional[np.ndarray] = None
    ) -> None:
        self.numbers = numbers
        self.table = table
        self.scales = scales


def code_bits(n_levels: int) -> int:
    """Number of bits needed to encode the levels, at least one."""
    return max(1, max(n_levels - 1, 0).bit_length())


def level_numbers(matrix: np.ndarray, coding: str) -> List[LevelNumbers]:
    """Ways to number the levels of a matrix (O, P) under a coding; the caller takes the smallest.

    Raises:
        LayoutError: The weight is not quantized: more than 4095 different values in a filter, or
            filters that are not whole numbers times a scale.
    """
    if coding == "scaled":
        return [_scaled(matrix)]
    shared = np.unique(matrix)
    shared = shared[shared != 0]
    ways = []
    if len(shared) <= MAX_SHARED:
        numbers = np.where(matrix != 0, np.searchsorted(shared, matrix) + 1, 0)
        ways.append(LevelNumbers(numbers, shared[None].astype(np.float32)))
    rows = [np.unique(row[row != 0]) for row in matrix]
    width = max(len(row) for row in rows)
    if width < 1 << MAX_BITS:
        ways.append(_numbered(matrix, rows, width))
    if not ways:
        raise LayoutError("weights take more than 4095 values")
    return ways


def _numbered(matrix: np.ndarray, rows: List[np.ndarray], width: int) -> LevelNumbers:
    """One table per filter."""
    table = np.zeros((len(rows), width), dtype=np.float32)
    numbers = np.zeros(matrix.shape, dtype=np.int64)
    for i, own in enumerate(rows):
        table[i, : len(own)] = own
        numbers[i] = np.where(matrix[i] != 0, np.searchsorted(own, matrix[i]) + 1, 0)
    return LevelNumbers(numbers, table)


def _scaled(matrix: np.ndarray) -> LevelNumbers:
    """Whole numbers times one scale per filter."""
    scales = np.ones(len(matrix), dtype=np.float64)
    whole = np.zeros(matrix.shape, dtype=np.int64)
    for i, row in enumerate(matrix):
        values = np.unique(row[row != 0])
        if len(values):
            scales[i], own = _whole_numbers(values)
            found = own[np.minimum(np.searchsorted(values, row), len(values) - 1)]
            whole[i] = np.where(row != 0, found, 0)
    levels = np.unique(whole[whole != 0])
    numbers = np.where(whole != 0, np.searchsorted(levels, whole) + 1, 0)
    return LevelNumbers(numbers, levels[None].astype(np.float32), scales)


def _whole_numbers(values: np.ndarray) -> Tuple[float, np.ndarray]:
    """Scale and whole numbers int64 (n,) with float32(number * scale) == value, bit for bit.

    Args:
        values: float32 (n,), ascending, without zero.

    Raises:
        LayoutError: There are none up to MAX_WHOLE.
    """
    exact = values.astype(np.float64)
    sizes = np.abs(exact)
    largest = np.arange(1, MAX_WHOLE + 1)  # the number of the largest value, to be found
    smallest = sizes.min() * largest / sizes.max()
    for top in largest[_nearly_whole(smallest)]:
        ratios = exact * top / sizes.max()
        if not _nearly_whole(np.abs(ratios)).all():
            continue
        numbers = np.rint(ratios)
        # every value leaves an interval for the scale: half a unit in the last place around it
        below = (np.nextafter(values, np.float32(-np.inf)).astype(np.float64) + exact) / 2
        above = (np.nextafter(values, np.float32(np.inf)).astype(np.float64) + exact) / 2
        ends = np.sort(np.stack([below / numbers, above / numbers]), axis=0)
        scale = (ends[0].max() + ends[1].min()) / 2
        if ((numbers * scale).astype(np.float32) == values).all():
            return float(scale), numbers.astype(np.int64)
    raise LayoutError("filters are not whole numbers times a scale")


def _nearly_whole(ratios: np.ndarray) -> np.ndarray:
    whole = np.rint(ratios)
    return np.asarray((whole >= 1) & (np.abs(ratios - whole) <= 2.0**-21 * whole))


def encode_codes(found: LevelNumbers, stored: np.ndarray) -> Arrays:
    """Tensors of the stored level numbers (n,): packed codes uint8, levels, scales if any."""
    table = found.table
    if (stored == 0).any():
        table = np.concatenate([np.zeros((len(table), 1), dtype=np.float32), table], axis=1)
    else:
        stored = stored - 1
    arrays = {"codes": np.packbits(pack_fields(stored, code_bits(table.shape[1])))}
    arrays["levels"] = table
    if found.scales is not None:
        arrays["scales"] = found.scales
    return arrays


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


def apply_levels(
    numbers: np.ndarray, levels: np.ndarray, scales: Optional[np.ndarray] = None
) -> np.ndarray:
    """Level numbers (O, P), 0 for zero, the stored table and scales -> float32 weights.

    Raises:
        LayoutError: The parts do not fit each other.
    """
    if len(levels) not in (1, len(numbers)):
        raise LayoutError("levels are neither one row nor one per filter")
    if scales is not None:
        if scales.dtype != np.float64 or scales.shape != (len(numbers),):
            raise LayoutError("scales are not one float64 per filter")
        whole = apply_levels(numbers, levels).astype(np.float64)
        with np.errstate(all="ignore"):  # hostile scales: what is not finite is refused elsewhere
            return np.asarray((whole * scales[:, None]).astype(np.float32))
    table = levels
    if not _has_zero(levels):
        table = np.concatenate([np.zeros((len(levels), 1), dtype=np.float32), levels], axis=1)
    if len(table) == 1:
        return np.asarray(table[0][numbers])
    return np.take_along_axis(table, numbers, axis=1)


def _has_zero(levels: np.ndarray) -> bool:
    return levels.shape[1] > 0 and not levels[:, 0].any()
