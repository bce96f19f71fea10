"""Five layouts that give the positions of the stored values of a sparse matrix (O, P).

Each layout turns a matrix into its stored values, in a fixed order, and a few index arrays, and
back, bit for bit:

`bitmap`    index array `bitmap` uint8: one bit per place, row-major, most significant bit first.
`shared`    `bitmap` uint8: one bit per column, most significant bit first; all rows store the
            columns whose bit is set, zeros included.
`csr`       `row_offsets` int32 (O+1,), `columns` uint16 or int32: a column number per value.
`relative`  `runs` uint8, `run_bits` uint8 (1,): before every value a run of 0 .. 2**k - 1 zeros in
            k packed bits; a longer run stores zero values as fillers. Runs cross row ends.
`darb`      `exponents` uint8 (O,), `places` uint8: row i has ceil(P / 2**e_i) values, each with
            its place in its block in e_i packed bits; position t is (t << e_i) | place.

Packed bit fields follow each other without gaps, each least significant bit first.
"""

from typing import Callable, Dict, List, NamedTuple, Tuple

import numpy as np

Arrays = Dict[str, np.ndarray]
MAX_RUN_BITS = 16


class LayoutError(ValueError):
    """Index arrays that do not describe a matrix of the given shape."""


class SparseLayout(NamedTuple):
    """One layout."""

    suffixes: Tuple[str, ...]  # names of the index arrays
    # (matrix) -> stored values (n,), index arrays
    encode: Callable[[np.ndarray], Tuple[np.ndarray, Arrays]]
    # (values, index arrays, shape) -> matrix; raises LayoutError
    decode: Callable[[np.ndarray, Arrays, Tuple[int, int]], np.ndarray]


def pack_fields(values: np.ndarray, bits: int) -> np.ndarray:
    """Bits of unsigned numbers, `bits` each, least significant first: uint8 0/1 (n * bits,)."""
    shifts = np.arange(bits, dtype=np.int64)
    planes = (np.asarray(values, dtype=np.int64)[:, None] >> shifts) & 1
    return planes.astype(np.uint8).ravel()


def unpack_fields(stream: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `pack_fields`: int64 (len(stream) // bits,)."""
    if bits == 0:
        return np.zeros(0, dtype=np.int64)
    planes = stream.reshape(-1, bits).astype(np.int64)
    return planes @ (np.int64(1) << np.arange(bits, dtype=np.int64))


def bit_stream(packed: np.ndarray, n_bits: int) -> np.ndarray:
    """The first n_bits of packed bytes: uint8 0/1.

    Raises:
        LayoutError: The bytes are not exactly as many as the bits need.
    """
    if packed.dtype != np.uint8 or packed.shape != (-(-n_bits // 8),):
        raise LayoutError("bit fields do not fill their bytes")
    return np.unpackbits(packed)[:n_bits]


# --- bitmap -------------------------------------------------------------------------------------


def _encode_bitmap(matrix: np.ndarray) -> Tuple[np.ndarray, Arrays]:
    return matrix[matrix != 0], {"bitmap": np.packbits(matrix != 0)}


def _decode_bitmap(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    support = bit_stream(arrays["bitmap"], shape[0] * shape[1]).astype(bool)
    if int(support.sum()) != len(values):
        raise LayoutError("bitmap and values differ in number")
    matrix = np.zeros(shape[0] * shape[1], dtype=np.float32)
    matrix[support] = values
    return matrix.reshape(shape)


# --- columns shared by all rows -----------------------------------------------------------------


def _encode_shared(matrix: np.ndarray) -> Tuple[np.ndarray, Arrays]:
    kept = (matrix != 0).any(axis=0)
    return matrix[:, kept].ravel(), {"bitmap": np.packbits(kept)}


def _decode_shared(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    kept = bit_stream(arrays["bitmap"], shape[1]).astype(bool)
    if len(values) != shape[0] * int(kept.sum()):
        raise LayoutError("columns and values differ in number")
    matrix = np.zeros(shape, dtype=np.float32)
    matrix[:, kept] = values.reshape(shape[0], -1)
    return matrix


# --- compressed rows ----------------------------------------------------------------------------


def _encode_csr(matrix: np.ndarray) -> Tuple[np.ndarray, Arrays]:
    rows, columns = np.nonzero(matrix)
    offsets = np.zeros(len(matrix) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum(np.bincount(rows, minlength=len(matrix)))
    kind = np.uint16 if matrix.shape[1] <= 1 << 16 else np.int32
    return matrix[rows, columns], {"row_offsets": offsets, "columns": columns.astype(kind)}


def _decode_csr(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    offsets, columns = arrays["row_offsets"], arrays["columns"].astype(np.int64)
    if offsets.shape != (shape[0] + 1,) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise LayoutError("row offsets do not ascend from 0")
    if not len(columns) == len(values) == offsets[-1]:
        raise LayoutError("columns, values and row offsets differ in number")
    matrix = np.zeros(shape, dtype=np.float32)
    rows = np.repeat(np.arange(shape[0], dtype=np.int64), np.diff(offsets))
    if len(columns) and (columns.min() < 0 or columns.max() >= shape[1]):
        raise LayoutError("a column lies outside the matrix")
    same_row = np.diff(rows) == 0
    if (np.diff(columns)[same_row] <= 0).any():
        raise LayoutError("columns of a row do not ascend")
    matrix[rows, columns] = values
    return matrix


# --- relative index -----------------------------------------------------------------------------


def shortest_run_bits(runs: np.ndarray, value_bits: int) -> int:
    """Bits of the run-length field that store the runs before all values in the fewest bits."""
    sizes = [
        (len(runs) + int((runs >> k).sum())) * (value_bits + k) for k in range(1, MAX_RUN_BITS + 1)
    ]
    return 1 + int(np.argmin(sizes))


def encode_relative(matrix: np.ndarray, run_bits: int = 0) -> Tuple[np.ndarray, Arrays]:
    """Values with fillers, and the run before each; run_bits 0 = the smallest for float32."""
    flat = matrix.ravel()
    places = np.flatnonzero(flat)
    runs = np.diff(np.concatenate([[-1], places])) - 1
    bits = run_bits or shortest_run_bits(runs, 32)
    # A run of r zeros takes r >> bits fillers, each standing for 2**bits zeros (itself the last).
    fillers = runs >> bits
    ends = np.cumsum(fillers + 1) - 1
    values = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, dtype=np.float32)
    stored = np.full(len(values), (1 << bits) - 1, dtype=np.int64)
    values[ends] = flat[places]
    stored[ends] = runs - (fillers << bits)
    return values, {
        "runs": np.packbits(pack_fields(stored, bits)),
        "run_bits": np.array([bits], dtype=np.uint8),
    }


def _decode_relative(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    if arrays["run_bits"].shape != (1,) or not 1 <= int(arrays["run_bits"][0]) <= MAX_RUN_BITS:
        raise LayoutError("run length field is not 1 to 16 bits")
    bits = int(arrays["run_bits"][0])
    runs = unpack_fields(bit_stream(arrays["runs"], bits * len(values)), bits)
    places = np.cumsum(runs + 1) - 1
    if len(places) and places[-1] >= shape[0] * shape[1]:
        raise LayoutError("runs lead beyond the matrix")
    matrix = np.zeros(shape[0] * shape[1], dtype=np.float32)
    matrix[places] = values
    return matrix.reshape(shape)


# --- density-adaptive blocks --------------------------------------------------------------------


def _largest_exponent(n: int) -> int:
    return int(n).bit_length() - 1


def row_exponents(support: np.ndarray) -> np.ndarray:
    """Per row the largest e such that no block of 2**e places holds two values: uint8 (O,)."""
    exponents = np.zeros(len(support), dtype=np.uint8)
    counts = support.astype(np.int64)
    for exponent in range(1, _largest_exponent(support.shape[1]) + 1):
        if counts.shape[1] % 2:
            counts = np.pad(counts, ((0, 0), (0, 1)), "constant")
        counts = counts[:, 0::2] + counts[:, 1::2]
        exponents[(counts <= 1).all(axis=1)] = exponent
    return exponents


def _encode_darb(matrix: np.ndarray) -> Tuple[np.ndarray, Arrays]:
    n = matrix.shape[1]
    exponents = row_exponents(matrix != 0)
    values: List[np.ndarray] = []
    places: List[np.ndarray] = []
    for row, exponent in zip(matrix, exponents.tolist()):
        padded = np.pad(row, (0, -n % (1 << exponent)), "constant")
        blocks = padded.reshape(-1, 1 << exponent)
        place = np.argmax(blocks != 0, axis=1)
        values.append(blocks[np.arange(len(blocks)), place])
        places.append(pack_fields(place, exponent))
    return np.concatenate(values), {
        "exponents": exponents,
        "places": np.packbits(np.concatenate(places)),
    }


def _decode_darb(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    exponents, n = arrays["exponents"], shape[1]
    if exponents.shape != (shape[0],) or (exponents > _largest_exponent(n)).any():
        raise LayoutError("block exponents do not fit the rows")
    counts = [-(-n // (1 << exponent)) for exponent in exponents.tolist()]
    if sum(counts) != len(values):
        raise LayoutError("blocks and values differ in number")
    n_bits = sum(count * e for count, e in zip(counts, exponents.tolist()))
    stream = bit_stream(arrays["places"], n_bits)
    matrix = np.zeros(shape, dtype=np.float32)
    value, bit = 0, 0
    for row, (count, e) in enumerate(zip(counts, exponents.tolist())):
        place = unpack_fields(stream[bit : bit + count * e], e) if e else 0
        columns = (np.arange(count, dtype=np.int64) << e) | place
        if columns[-1] >= n:
            raise LayoutError("a place lies outside its row")
        matrix[row, columns] = values[value : value + count]
        value, bit = value + count, bit + count * e
    return matrix


LAYOUTS = {
    "bitmap": SparseLayout(("bitmap",), _encode_bitmap, _decode_bitmap),
    "shared": SparseLayout(("bitmap",), _encode_shared, _decode_shared),
    "csr": SparseLayout(("row_offsets", "columns"), _encode_csr, _decode_csr),
    "relative": SparseLayout(("runs", "run_bits"), encode_relative, _decode_relative),
    "darb": SparseLayout(("exponents", "places"), _encode_darb, _decode_darb),
}
