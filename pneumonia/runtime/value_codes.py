"""Stored values of a quantized weight: a small table of levels and a packed code per value."""

from typing import Tuple

import numpy as np

from pneumonia.runtime.sparse_layouts import LayoutError, bit_stream, pack_fields, unpack_fields

MAX_BITS = 12
SUFFIXES = ("codes", "levels")


def code_bits(n_levels: int) -> int:
    """Bits that tell the levels apart, at least one."""
    return max(1, max(n_levels - 1, 0).bit_length())


def encode_values(values: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Values (n,) -> (codes packed in uint8, levels float32 ascending).

    Raises:
        LayoutError: More than 4096 different values: the weight is not quantized.
    """
    levels, codes = np.unique(values, return_inverse=True)
    bits = code_bits(len(levels))
    if bits > MAX_BITS:
        raise LayoutError("weights take more than 4096 values")
    return np.packbits(pack_fields(codes.ravel(), bits)), levels.astype(np.float32)


def decode_values(codes: np.ndarray, levels: np.ndarray, n_values: int) -> np.ndarray:
    """The inverse of `encode_values`; raises LayoutError when the parts do not fit."""
    if levels.dtype != np.float32 or levels.ndim != 1 or len(levels) > 1 << MAX_BITS:
        raise LayoutError("levels are not a table of float32")
    bits = code_bits(len(levels))
    numbers = unpack_fields(bit_stream(codes, bits * n_values), bits)
    if len(numbers) and int(numbers.max()) >= len(levels):
        raise LayoutError("a code has no level")
    return levels[numbers] if len(numbers) else np.zeros(0, dtype=np.float32)
