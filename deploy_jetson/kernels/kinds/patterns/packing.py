"""Free patterns (PatDNN): which kernels a layer keeps, their order in memory, and their loads.

Every 3x3 kernel of a layer is empty or has one of a few patterns of at most four weights. Kernels
are stored filter by filter in blocks of input channels that fit the first-level cache, and inside
a block sorted by pattern, so that each pattern's code runs over a list without a branch (FKW).
Source: PatDNN (Niu et al., 2020), sections 5.2-5.4.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.plan.layer_problem import LayerProblem, Weights

MAX_PATTERNS = 16
MAX_TAPS = 4
SIDE = 3

Pattern = tuple[int, ...]  # taps kh * 3 + kw, ascending


class PatternLists(NamedTuple):
    """Kernels in the order the code reads them."""

    # (blocks of filters, blocks of channels, filter groups, sections * patterns) uint16 numbers of
    # kernels, flattened per block of filters
    counts: npt.NDArray[np.uint16]
    channels: npt.NDArray[np.int32]  # (kernels,) int32 channel of each kernel
    weights: Weights  # (kernels, filters of the section, taps) float32, flattened
    starts: npt.NDArray[np.int32]  # (blocks of filters, 3) int32: first count, channel and weight


def kernel_patterns(weight: Weights) -> tuple[Pattern, ...] | None:
    """The patterns of a (O, I, 3, 3) weight, or None when it has no small set of them.

    A kernel whose non-zero weights are part of a pattern counts as that pattern, since a kept
    weight may happen to be zero.
    """
    masks = (weight != 0).reshape(-1, SIDE * SIDE)
    found = np.flatnonzero(np.bincount(masks @ (1 << np.arange(SIDE * SIDE)))).tolist()
    found = [code for code in found if code]
    if not found or len(found) > 64 or max(code.bit_count() for code in found) > MAX_TAPS:
        return None
    largest = [c for c in found if not any(c != d and c & d == c for d in found)]
    if len(largest) > MAX_PATTERNS:
        return None
    return tuple(sorted(tuple(t for t in range(9) if code >> t & 1) for code in largest))


def single_taps(side: int) -> tuple[Pattern, ...]:
    """Patterns of one tap each, for weights without a pattern structure."""
    return tuple((tap,) for tap in range(side * side))


def pattern_of_kernels(weight: Weights, patterns: tuple[Pattern, ...]) -> npt.NDArray[np.int64]:
    """(O, I) number of each kernel's pattern, -1 where the kernel is empty."""
    n_taps = int(np.prod(weight.shape[2:]))
    codes = (weight != 0).reshape(*weight.shape[:2], n_taps) @ (1 << np.arange(n_taps))
    number_of = np.full(1 << n_taps, -1, np.int64)
    for number in range(len(patterns) - 1, -1, -1):
        outside = ~sum(1 << tap for tap in patterns[number])
        inside = np.flatnonzero((np.arange(1 << n_taps) & outside) == 0)[1:]
        number_of[inside] = number
    found: npt.NDArray[np.int64] = number_of[codes]
    return found


def sections(filters: int) -> list[tuple[int, ...]]:
    """Which filters of a group a run of kernels belongs to: first what all share."""
    alone: list[tuple[int, ...]] = [(f,) for f in range(filters)]
    return alone if filters == 1 else [tuple(range(filters)), *alone]


class _Kernels(NamedTuple):
    """Stored kernels, unsorted: one entry per pass of a run's loop."""

    # filter, channel, section, pattern: (n,) first filter of its group; see `sections`
    filter: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]
    section: npt.NDArray[np.int64]
    pattern: npt.NDArray[np.int64]
    values: Weights  # (n, filters, MAX_TAPS) float32; `valid` says which of them are stored
    valid: npt.NDArray[np.bool_]


def pack_patterns(
    weight: Weights,
    patterns: tuple[Pattern, ...],
    block_filters: int,
    block_channels: int,
    filters: int,
) -> PatternLists:
    """Order the kernels: block of filters, block of channels, group of filters, section, pattern.

    Args:
        weight: (O, I, K, K), O a multiple of `filters`.
        patterns: See `kernel_patterns`, or `single_taps`.
        block_filters: Filters of one unit of work, a multiple of `filters`.
        block_channels: Input channels that fit the cache.
        filters: Filters of one register tile; kernels they share are loaded once.
    """
    n_filters, n_channels = weight.shape[:2]
    single = filters == 1 and patterns == single_taps(weight.shape[2])
    kernels = _taps(weight) if single else _kernels(weight, patterns, filters)
    n_sections = len(sections(filters))
    channel_blocks = -(-n_channels // block_channels)
    block, group = kernels.filter // block_filters, kernels.filter // filters
    first_group = block * (block_filters // filters)
    n_groups = np.minimum(block_filters, n_filters - block * block_filters) // filters
    run = first_group * channel_blocks + kernels.channel // block_channels * n_groups
    run = (run + group - first_group) * n_sections + kernels.section
    run = run * len(patterns) + kernels.pattern
    order = np.lexsort((kernels.channel, run))
    n_runs = n_filters // filters * channel_blocks * n_sections * len(patterns)
    counts = np.bincount(run, minlength=n_runs)
    stored = kernels.valid[order].sum(axis=(1, 2))
    n_blocks = -(-n_filters // block_filters)
    ends = np.searchsorted(block[order], np.arange(n_blocks))
    runs_of_block = block_filters // filters * channel_blocks * n_sections * len(patterns)
    before = np.concatenate([[0], np.cumsum(stored)])
    starts = np.stack([np.arange(n_blocks) * runs_of_block, ends, before[ends]], axis=1)
    return PatternLists(
        counts.astype(np.uint16),
        kernels.channel[order].astype(np.int32),
        kernels.values[order][kernels.valid[order]],
        starts.astype(np.int32),
    )


def _taps(weight: Weights) -> _Kernels:
    """Every weight that is not zero as a kernel of one tap."""
    filter_of, channel, tap = np.nonzero(weight.reshape(*weight.shape[:2], -1))
    values = weight[weight != 0].reshape(-1, 1, 1)
    valid = np.ones(values.shape, bool)
    return _Kernels(filter_of, channel, np.zeros_like(tap), tap, values, valid)


def _kernels(weight: Weights, patterns: tuple[Pattern, ...], filters: int) -> _Kernels:
    """Kernels with patterns: those that all filters of a group share, then the others."""
    n_channels = weight.shape[1]
    number = pattern_of_kernels(weight, patterns).reshape(-1, filters, n_channels)
    flat = weight.reshape(-1, filters, n_channels, SIDE * SIDE)
    shared = (number == number[:, :1]).all(axis=1) & (number[:, 0] >= 0) & (filters > 1)
    taps = np.zeros((len(patterns), MAX_TAPS), np.int64)
    stored = np.zeros((len(patterns), MAX_TAPS), bool)
    for index, pattern in enumerate(patterns):
        taps[index, : len(pattern)] = pattern
        stored[index, : len(pattern)] = True
    parts = []
    for section, members in enumerate(sections(filters)):
        together = len(members) > 1
        kept = shared if together else ~shared & (number[:, members[0]] >= 0)
        group, channel = np.nonzero(kept)
        pattern_of = number[group, members[0], channel]
        n = len(group)
        values = np.zeros((n, filters, MAX_TAPS), np.float32)
        valid = np.zeros((n, filters, MAX_TAPS), bool)
        for place, member in enumerate(members):
            at = (group[:, None], member, channel[:, None], taps[pattern_of])
            values[:, place] = flat[at]
            valid[:, place] = stored[pattern_of]
        sections_of = np.full(n, section, np.int64)
        parts.append((group * filters, channel, sections_of, pattern_of, values, valid))
    return _Kernels(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def count_loads(problem: LayerProblem, rows: int, filters: int, frames: int = 1) -> tuple[int, int]:
    """Vector loads of the inputs for one column of vectors of one tile, without and with reuse.

    Args:
        problem: A 3x3 layer with patterns.
        rows: Output rows of the register tile: a loaded row serves several of them.
        filters: Filters of the register tile: kernels with the same channel and pattern share.
        frames: See `PatternVariant`; with three a loaded row also serves all three columns.

    Returns:
        Loads without any reuse (taps * rows of every kernel), and loads of the generated code.

    Raises:
        ValueError: The layer has no patterns.
    """
    patterns = kernel_patterns(problem.weight)
    if patterns is None:
        raise ValueError("the layer has no patterns")
    number = pattern_of_kernels(problem.weight, patterns)
    number = np.pad(number, ((0, -len(number) % filters), (0, 0)), constant_values=-1)
    groups = number.reshape(-1, filters, number.shape[1])
    shared = (groups == groups[:, :1]).all(axis=1) & (filters > 1)
    kept = np.bincount(number[number >= 0], minlength=len(patterns))
    together = groups[:, 0][shared]
    saved = np.bincount(together[together >= 0], minlength=len(patterns)) * (filters - 1)
    plain = sum(int(n) * len(taps) * rows for n, taps in zip(kept, patterns, strict=True))
    loads = [distinct_loads(taps, rows, frames) for taps in patterns]
    return plain, int((kept - saved) @ np.array(loads))


def distinct_loads(taps: Pattern, rows: int, frames: int = 1) -> int:
    """Different input vectors `rows` output rows of one pattern need.

    |{(r + kh, kw)}|, and |{r + kh}| when every column has sums of its own.
    """
    return len(
        {(row + tap // SIDE, tap % SIDE * (frames == 1)) for tap in taps for row in range(rows)}
    )
