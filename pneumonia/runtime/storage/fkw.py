"""Filter-kernel-weight storage of pattern-pruned 3x3 kernels, and the filter-kernel reorder.

    offset  int32 (O+1,)      where each reordered filter's kernels start
    reorder uint16 (O,)       original number of each reordered filter
    index   uint16 (K,)       input channel of each non-empty kernel
    stride  uint16 (O*(k+1),) inside each filter, where every pattern's run starts; last = its end
    patterns uint16 (k,)      9-bit codes, sum of bit(3r+c) * 2**(3r+c)
    values  (4K,)             the 4 weights of each kernel, in row-major order of its pattern

Filters are ordered by falling number of kernels; filters of equal length follow each other by
likeness, and inside a filter kernels are ordered by (pattern, channel).
"""

from typing import Dict, List, Tuple

import numpy as np

from pneumonia.runtime.storage.sparse_layouts import Arrays, LayoutError

PLACES = 9
KEPT = 4
MAX_CHAINED = 2048  # filters of equal length that are chained by likeness; more are sorted
SUFFIXES = ("offset", "reorder", "index", "stride", "patterns")


def pattern_places(code: int) -> List[int]:
    """Kept positions 3r+c of a pattern, ascending."""
    return [bit for bit in range(PLACES) if code >> bit & 1]


def kernel_supports(kernels: np.ndarray) -> np.ndarray:
    """9-bit support codes (O, I) of kernels (O, I, 9)."""
    return np.asarray(((kernels != 0) * (1 << np.arange(PLACES))).sum(axis=2))


def patterns_of(supports: np.ndarray) -> Dict[int, int]:
    """Support code -> the pattern of 4 places that stores it.

    Supports of fewer places take the lowest pattern that holds them, or are filled up from the
    lowest position.

    Raises:
        LayoutError: A kernel keeps more than 4 weights.
    """
    codes = [int(code) for code in np.unique(supports) if code]
    if any(bin(code).count("1") > KEPT for code in codes):
        raise LayoutError("a kernel keeps more than 4 weights")
    patterns = [code for code in codes if bin(code).count("1") == KEPT]
    chosen = {code: code for code in patterns}
    for code in sorted(codes, key=lambda c: -bin(c).count("1")):
        if code in chosen:
            continue
        holding = [pattern for pattern in sorted(patterns) if pattern & code == code]
        if not holding:
            full = code
            for bit in range(PLACES):
                if bin(full).count("1") < KEPT:
                    full |= 1 << bit
            patterns.append(full)
            holding = [full]
        chosen[code] = holding[0]
    return chosen


def reorder_filters(pattern_ids: np.ndarray, n_patterns: int) -> np.ndarray:
    """Order of filters: by falling length, inside a length by likeness.

    A chain starts at the filter whose signature (kernels of each pattern) has the largest norm,
    and appends the unplaced filter that shares most (channel, pattern) pairs with the last one;
    ties go to the nearest signature, then to the lower number.

    Args:
        pattern_ids: int (O, I), -1 = empty kernel.

    Returns:
        int64 (O,): original number of each filter in the new order.
    """
    lengths = (pattern_ids >= 0).sum(axis=1)
    order: List[int] = []
    for length in sorted(set(lengths.tolist()), reverse=True):
        members = np.flatnonzero(lengths == length)
        own = pattern_ids[members]
        signature = np.stack([(own == p).sum(axis=1) for p in range(n_patterns)], axis=1)
        if len(members) > MAX_CHAINED:
            ranks = np.lexsort(tuple(-signature[:, p] for p in range(n_patterns - 1, -1, -1)))
        else:
            ranks = _chain(own, signature)
        order.extend(members[ranks].tolist())
    return np.array(order, dtype=np.int64)


def _chain(own: np.ndarray, signature: np.ndarray) -> np.ndarray:
    shared = np.zeros((len(own), len(own)), dtype=np.float32)
    for pattern in range(signature.shape[1]):
        pairs = (own == pattern).astype(np.float32)
        shared += pairs @ pairs.T
    left = np.ones(len(own), dtype=bool)
    current = int(np.argmax(np.square(signature).sum(axis=1)))
    chain = [current]
    left[current] = False
    for _ in range(len(own) - 1):
        likeness = np.where(left, shared[current], -1.0)
        nearest = np.flatnonzero(likeness == likeness.max())
        gap = np.abs(signature[nearest] - signature[current]).sum(axis=1)
        current = int(nearest[np.argmin(gap)])
        chain.append(current)
        left[current] = False
    return np.array(chain, dtype=np.int64)


def encode_fkw(matrix: np.ndarray) -> Tuple[np.ndarray, Arrays]:
    """Values (4K,) and index arrays of a matrix (O, I*9); raises LayoutError."""
    if matrix.shape[1] % PLACES:
        raise LayoutError("kernels are not 3 x 3")
    kernels = matrix.reshape(len(matrix), -1, PLACES)
    supports = kernel_supports(kernels)
    chosen = patterns_of(supports)
    patterns = sorted(set(chosen.values()))
    ids = np.full(supports.shape, -1, dtype=np.int64)
    for code, pattern in chosen.items():
        ids[supports == code] = patterns.index(pattern)
    order = reorder_filters(ids, max(len(patterns), 1))
    places = np.array([pattern_places(code) for code in patterns], dtype=np.int64).reshape(-1, KEPT)
    offset, index, stride, values = [0], [], [], []
    for filter_number in order.tolist():
        own = ids[filter_number]
        channels = np.flatnonzero(own >= 0)
        channels = channels[np.lexsort((channels, own[channels]))]
        runs = np.searchsorted(own[channels], np.arange(len(patterns) + 1))
        kept = kernels[filter_number, channels[:, None], places[own[channels]]]
        offset.append(offset[-1] + len(channels))
        index.append(channels)
        stride.append(runs)
        values.append(kept.ravel())
    return np.concatenate(values).astype(np.float32), {
        "offset": np.array(offset, dtype=np.int32),
        "reorder": order.astype(np.uint16),
        "index": np.concatenate(index).astype(np.uint16),
        "stride": np.concatenate(stride).astype(np.uint16),
        "patterns": np.array(patterns, dtype=np.uint16),
    }


def decode_fkw(values: np.ndarray, arrays: Arrays, shape: Tuple[int, int]) -> np.ndarray:
    """The matrix (O, I*9) of FKW arrays.

    Raises:
        LayoutError: The arrays contradict each other or the shape.
    """
    n_filters, n_channels = shape[0], shape[1] // PLACES
    offset = arrays["offset"].astype(np.int64)
    order, index = arrays["reorder"].astype(np.int64), arrays["index"].astype(np.int64)
    codes = [int(code) for code in arrays["patterns"]]
    if shape[1] % PLACES or any(len(pattern_places(c)) != KEPT or c >> PLACES for c in codes):
        raise LayoutError("patterns are not 4 of 9 places")
    if sorted(order.tolist()) != list(range(n_filters)):
        raise LayoutError("reorder is not a permutation of the filters")
    if offset.shape != (n_filters + 1,) or offset[0] != 0 or (np.diff(offset) < 0).any():
        raise LayoutError("filter offsets do not ascend from 0")
    if not len(index) * KEPT == len(values) == offset[-1] * KEPT:
        raise LayoutError("kernels, channels and values differ in number")
    if len(index) and index.max() >= n_channels:
        raise LayoutError("a channel lies outside the layer")
    if arrays["stride"].shape != (n_filters * (len(codes) + 1),):
        raise LayoutError("runs do not fit the patterns")
    stride = arrays["stride"].astype(np.int64).reshape(n_filters, -1)
    if (np.diff(stride, axis=1) < 0).any() or (stride[:, 0] != 0).any():
        raise LayoutError("runs do not ascend from 0")
    if not np.array_equal(stride[:, -1], np.diff(offset)):
        raise LayoutError("runs and filter lengths differ")
    ids = np.concatenate(
        [np.zeros(0, dtype=np.int64)]
        + [np.repeat(np.arange(len(codes), dtype=np.int64), np.diff(row)) for row in stride]
    )
    places = np.array([pattern_places(code) for code in codes], dtype=np.int64).reshape(-1, KEPT)
    filters = np.repeat(order, np.diff(offset))
    kernels = np.zeros((n_filters, n_channels, PLACES), dtype=np.float32)
    kernels[filters[:, None], index[:, None], places[ids]] = values.reshape(-1, KEPT)
    return kernels.reshape(shape)


def count_loads(places: List[int], rows: int, stride: int = 1) -> Tuple[int, int]:
    """Input vectors one kernel loads for `rows` output rows: (with reuse, without).

    With reuse a vector is loaded once per distinct shift (r + stride * t, c).
    """
    shifts = {(p // 3 + stride * t, p % 3) for p in places for t in range(rows)}
    return len(shifts), len(places) * rows
