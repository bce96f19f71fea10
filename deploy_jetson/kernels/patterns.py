"""Free patterns (PatDNN): which kernels a layer keeps, their order in memory, and their loads.

Every 3x3 kernel of a layer is empty or has one of a few patterns of at most four weights. Kernels
are stored filter by filter in blocks of input channels that fit the first-level cache, and inside
a block sorted by pattern, so that each pattern's code runs over a list without a branch (FKW).
Sources: PatDNN (Niu et al., 2020) sections 5.2-5.4; design notes methods 3.5-3.7.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.choices import Problem, Weights

MAX_PATTERNS = 16
MAX_TAPS = 4
SIDE = 3

Pattern = tuple[int, ...]  # taps kh * 3 + kw, ascending


class PatternLists(NamedTuple):
    """Kernels in the order the code reads them.

    Attributes:
        counts: (blocks of filters, blocks of channels, filter groups, sections * patterns) uint16
            numbers of kernels, flattened per block of filters.
        channels: (kernels,) int32 channel of each kernel.
        weights: (kernels, filters of the section, taps) float32, flattened.
        starts: (blocks of filters, 3) int32: first count, channel and weight.
    """

    counts: npt.NDArray[np.uint16]
    channels: npt.NDArray[np.int32]
    weights: Weights
    starts: npt.NDArray[np.int32]


def kernel_patterns(weight: Weights) -> tuple[Pattern, ...] | None:
    """The patterns of a (O, I, 3, 3) weight, or None when it has no small set of them.

    A kernel whose non-zero weights are part of a pattern counts as that pattern, since a kept
    weight may happen to be zero.
    """
    masks = (weight != 0).reshape(-1, SIDE * SIDE)
    found = Counter(int(code) for code in masks @ (1 << np.arange(SIDE * SIDE)))
    found.pop(0, None)
    if not found or len(found) > 64 or max(code.bit_count() for code in found) > MAX_TAPS:
        return None
    largest = [c for c in found if not any(c != d and c & d == c for d in found)]
    if len(largest) > MAX_PATTERNS:
        return None
    return tuple(sorted(tuple(t for t in range(9) if code >> t & 1) for code in largest))


def pattern_of_kernels(weight: Weights, patterns: tuple[Pattern, ...]) -> npt.NDArray[np.int64]:
    """(O, I) number of each kernel's pattern, -1 where the kernel is empty."""
    masks = (weight != 0).reshape(*weight.shape[:2], SIDE * SIDE)
    result = np.full(weight.shape[:2], -1, np.int64)
    for number in range(len(patterns) - 1, -1, -1):
        outside = np.ones(SIDE * SIDE, bool)
        outside[list(patterns[number])] = False
        result[masks.any(axis=2) & ~(masks & outside).any(axis=2)] = number
    return result


def sections(filters: int) -> list[tuple[int, ...]]:
    """Which filters of a group a run of kernels belongs to: first what all share."""
    alone: list[tuple[int, ...]] = [(f,) for f in range(filters)]
    return alone if filters == 1 else [tuple(range(filters)), *alone]


def pack_patterns(
    weight: Weights,
    patterns: tuple[Pattern, ...],
    block_filters: int,
    block_channels: int,
    filters: int,
) -> PatternLists:
    """Order the kernels: block of filters, block of channels, group of filters, section, pattern.

    Args:
        weight: (O, I, 3, 3).
        patterns: See `kernel_patterns`.
        block_filters: Filters of one unit of work, a multiple of `filters`.
        block_channels: Input channels that fit the first-level cache.
        filters: Filters of one register tile; kernels they share are loaded once.
    """
    n_filters, n_channels = weight.shape[:2]
    number = pattern_of_kernels(weight, patterns)
    flat = weight.reshape(n_filters, n_channels, SIDE * SIDE)
    counts: list[int] = []
    channels: list[int] = []
    weights: list[Weights] = []
    starts = []
    n_weights = 0
    for first in range(0, n_filters, block_filters):
        starts.append((len(counts), len(channels), n_weights))
        for low in range(0, n_channels, block_channels):
            span = slice(low, min(low + block_channels, n_channels))
            for f in range(first, first + block_filters, filters):
                rows = number[f : f + filters, span]
                for section, members in enumerate(sections(filters)):
                    for pattern, taps in enumerate(patterns):
                        kept = _kept(rows, pattern, members, section, filters)
                        counts.append(len(kept))
                        channels += (kept + low).tolist()
                        chosen = [f + member for member in members]
                        for channel in kept + low:
                            block = flat[np.ix_(chosen, [channel], taps)].ravel()
                            weights.append(block)
                            n_weights += len(block)
    return PatternLists(
        np.array(counts, np.uint16),
        np.array(channels, np.int32),
        np.concatenate(weights) if weights else np.zeros(0, np.float32),
        np.array(starts, np.int32),
    )


def _kept(
    rows: npt.NDArray[np.int64], pattern: int, members: tuple[int, ...], section: int, filters: int
) -> npt.NDArray[np.int64]:
    """Channels of one run: shared ones in the first section, the others in their filter's."""
    if max(members) >= len(rows):  # filters that only fill up the last block
        return np.zeros(0, np.int64)
    has = rows == pattern
    shared = has.all(axis=0) & (len(rows) == filters) if filters > 1 else has[0] & False
    if filters > 1 and section == 0:
        return np.flatnonzero(shared)
    return np.flatnonzero(has[members[0]] & ~shared)


def count_loads(problem: Problem, rows: int, filters: int) -> tuple[int, int]:
    """Vector loads of the inputs for one column of vectors of one tile, without and with reuse.

    Args:
        problem: A 3x3 layer with patterns.
        rows: Output rows of the register tile: a loaded row serves several of them.
        filters: Filters of the register tile: kernels with the same channel and pattern share.

    Returns:
        Loads without any reuse (taps * rows of every kernel), and loads of the generated code.
    """
    patterns = kernel_patterns(problem.weight)
    if patterns is None:
        raise ValueError("the layer has no patterns")
    number = pattern_of_kernels(problem.weight, patterns)
    plain = reused = 0
    for index, taps in enumerate(patterns):
        mask = number == index
        plain += int(mask.sum()) * len(taps) * rows
        for first in range(0, len(mask), filters):
            group = mask[first : first + filters]
            full = len(group) == filters > 1
            shared = int(group.all(axis=0).sum()) if full else 0
            kernels = int(group.sum()) - shared * (filters - 1)
            reused += kernels * distinct_loads(taps, rows)
    return plain, reused


def distinct_loads(taps: Pattern, rows: int) -> int:
    """Different input vectors `rows` output rows of one pattern need: |{(r + kh, kw)}|."""
    return len({(row + tap // SIDE, tap % SIDE) for tap in taps for row in range(rows)})
