"""The built-in cost model: cycles of a convolution on one core, from its register tiles.

It ranks candidates where nothing can be measured (another machine's target), gives the default
choice without tuning, and pre-screens the tuner's candidates. Per kept column a tile costs the
longer of its multiply-adds and its loads; per tile there is a fixed price for the accumulators'
start, bias, activation and stores, which is what counts in very sparse layers. What a tile reads
from beyond the first-level cache costs too; lists cut into pieces read it once for many tiles.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from deploy_jetson.kernels.choices import (
    Choice,
    ColumnsChoice,
    PatternChoice,
    Problem,
    RowsChoice,
    TapsChoice,
    WinogradChoice,
)
from deploy_jetson.kernels.pattern_step import pattern_tiles, taps_tiles
from deploy_jetson.kernels.patterns import count_loads
from deploy_jetson.kernels.steps import strip_tiles, tail_pixels
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.variants import WINOGRAD_TILES, register_tiles, split_row

TILE_CYCLES = 14.0  # call, loop entry and the mispredicted exit
VECTOR_CYCLES = 1.6  # start, bias, activation, store of one accumulator
BROADCASTS_PER_CYCLE = 1.0  # pixels of one lane share a cache bank
FMA_LATENCY = 4.0
TRANSPOSE_CYCLES = 12.0  # of LANES x LANES values, per four lanes
TRANSFORM_CYCLES = {2: 60.0, 4: 190.0, 6: 420.0}  # of one tile and one vector of channels
BYTES_PER_CYCLE = 12.0  # weights streamed from beyond the second-level cache
CACHE_BYTES = 512 * 1024  # of a core, for what should stay near
MIN_UNITS = 8
L1_BYTES = 32 * 1024  # of every target
L2_BYTES_PER_CYCLE = {4: 8.0, 8: 16.0, 16: 32.0}  # of lines of which a broadcast reads one value
PIECE_SHARES = (0.62, 0.86)  # of the first-level cache
STRIP_BYTES = 1024  # of one row of one vector of channels
RESUME_CYCLES = 1.5  # load and store of one accumulator between two pieces
SCATTERED = 1.5  # weights of shared lists over weights kept: from here on own lists are tried
GATHER_CYCLES = 1.2  # of one lane
SHIFTED_LOAD = {4: 1.0, 8: 1.3, 16: 1.7}  # loads that straddle cache lines count twice


def tile_cycles(target: Target, pixels: int, vectors: int, columns: float) -> float:
    """Cycles of one register tile over `columns` kept columns."""
    sums = pixels * vectors
    multiply = max(sums / target.fma_per_cycle, FMA_LATENCY)
    loads = (pixels + vectors + 1) / target.loads_per_cycle
    broadcasts = pixels / (BROADCASTS_PER_CYCLE * target.loads_per_cycle / 2 + 0.0)
    hot = max(multiply, loads, broadcasts if target.lanes > 4 else 0.0)
    return TILE_CYCLES + sums * VECTOR_CYCLES * 2 / target.fma_per_cycle + columns * hot


def row_cycles(target: Target, width: int, pixels: int, vectors: int, columns: float) -> float:
    """Cycles of one row of `width` pixels for one panel."""
    wide, narrow = split_row(width, pixels)
    cycles = wide * tile_cycles(target, pixels, vectors, columns)
    if narrow:
        cycles += narrow * tile_cycles(target, pixels - 1, vectors, columns)
    return cycles


class Facts:
    """What the model asks about a layer again and again, each computed once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._mask = problem.weight.reshape(len(problem.weight), -1) != 0
        self._columns: dict[int, list[int]] = {}
        self._loads: dict[tuple[int, int, int], tuple[int, int]] = {}
        self.kept_of_filter = self._mask.sum(axis=1)
        self.live = int((problem.weight != 0).any(axis=(0, 2, 3)).sum())  # channels that are read

    def columns(self, width: int) -> list[int]:
        """Kept columns of every panel of `width` filters."""
        if width not in self._columns:
            starts = range(0, len(self._mask), width)
            self._columns[width] = [
                int(self._mask[first : first + width].any(axis=0).sum()) for first in starts
            ]
        return self._columns[width]

    def touched(self, columns: int, pixels: int, target: Target) -> int:
        """Bytes of the inputs that so many columns read for `pixels` outputs of a row."""
        problem = self.problem
        lanes = 1 if problem.planar else target.lanes
        sources = min(columns, -(-int(problem.weight.shape[1]) // lanes))
        span = (pixels - 1) * problem.stride + problem.kernel
        return sources * problem.kernel * span * lanes * 4

    def loads(self, rows: int, filters: int, frames: int) -> tuple[int, int]:
        """See `patterns.count_loads`."""
        key = (rows, filters, frames)
        if key not in self._loads:
            self._loads[key] = count_loads(self.problem, *key)
        return self._loads[key]

    def scattered(self, lanes: int) -> bool:
        """Whether filters side by side keep so different weights that sharing a list is a loss."""
        kept = int(self.kept_of_filter.sum())
        return sum(self.columns(lanes)) * lanes > SCATTERED * kept


def predicted_cycles(facts: Facts, choice: Choice, target: Target) -> float:
    """Cycles of a layer on one core."""
    if isinstance(choice, ColumnsChoice):
        return _columns_cycles(facts, choice, target)
    if isinstance(choice, WinogradChoice):
        return _winograd_cycles(facts, choice, target)
    if isinstance(choice, RowsChoice):
        return _rows_cycles(facts, choice, target)
    return _pattern_cycles(facts, choice, target)


def _columns_cycles(facts: Facts, choice: ColumnsChoice, target: Target) -> float:
    """Cycles of the column kernel: tiles, and what they read from beyond the first-level cache."""
    problem = facts.problem
    column_bytes = choice.vectors * target.lanes * 4 + 4
    strip = strip_tiles(choice, problem.out_width, choice.pixels)
    tiles = problem.out_height * -(-problem.out_width // choice.pixels)
    rate = L2_BYTES_PER_CYCLE[target.lanes]
    counts = facts.columns(choice.vectors * target.lanes)
    cycles = 0.0
    rest = -(-len(problem.weight) // target.lanes) % choice.vectors
    if rest:  # the last panel has fewer vectors, and a tile of its own
        pixels = tail_pixels(target, problem.out_width, rest)
        row = row_cycles(target, problem.out_width, pixels, rest, counts[-1])
        cycles, counts = problem.out_height * row, counts[:-1]
    for n, panels in Counter(counts).items():
        row = row_cycles(target, problem.out_width, choice.pixels, choice.vectors, n)
        arithmetic = problem.out_height * row
        extra, inputs = 0.0, facts.touched(n, choice.pixels, target)
        # Neighbouring tiles share the inputs at their edges, and the weights if those fit.
        fresh = choice.pixels * problem.stride / (choice.pixels * problem.stride + problem.kernel)
        fits = inputs + n * column_bytes <= L1_BYTES
        streamed = inputs * fresh if fits else float(inputs + n * column_bytes)
        if choice.piece_bytes:
            pixels = min(strip * choice.pixels, problem.out_width)
            total = facts.touched(n, pixels, target) + n * column_bytes
            pieces = -(-total // choice.piece_bytes)
            sums = choice.pixels * choice.vectors
            extra = tiles * (pieces - 1) * (TILE_CYCLES + sums * RESUME_CYCLES)
            streamed = total / (strip * min(choice.rows_per_unit, problem.out_height))
        cycles += panels * (max(arithmetic, tiles * streamed / rate) + extra)
    return cycles


def _rows_cycles(facts: Facts, choice: RowsChoice, target: Target) -> float:
    counts = facts.kept_of_filter
    width = choice.vectors * target.lanes
    longest = sum(int(counts[i : i + width].max()) for i in range(0, len(counts), width))
    return longest * width * GATHER_CYCLES


def _pattern_cycles(facts: Facts, choice: PatternChoice | TapsChoice, target: Target) -> float:
    problem = facts.problem
    lanes, vectors = target.lanes, choice.vectors
    bands = -(-problem.out_height // choice.rows)
    across = -(-problem.out_width // (vectors * lanes))
    if isinstance(choice, TapsChoice):
        kernels = int(facts.kept_of_filter.sum())
        plain = loads = kernels * choice.rows
    else:
        plain, loads = facts.loads(choice.rows, choice.filters, choice.frames)
        kernels = int(facts.kept_of_filter.sum()) // 4
    shifted = problem.kernel == 3 and choice.frames == 1
    sums = plain * vectors / target.fma_per_cycle
    loaded = loads * vectors * (SHIFTED_LOAD[lanes] if shifted else 1.0) + 3 * kernels
    hot = max(sums, loaded / target.loads_per_cycle) + 2.0 * kernels
    pixels: int = -(-problem.out_width // lanes) * problem.out_height
    in_blocks = -(-problem.weight.shape[1] // lanes)
    out_blocks = -(-len(problem.weight) // lanes) * choice.frames
    transposes: float = pixels * (in_blocks + out_blocks) * TRANSPOSE_CYCLES * lanes / 4
    return bands * across * hot * 1.1 + transposes


def _winograd_cycles(facts: Facts, choice: WinogradChoice, target: Target) -> float:
    problem = facts.problem
    m = choice.out_tile
    tiles = -(-problem.out_height // m) * -(-problem.out_width // m)
    n_blocks = -(-tiles // choice.block_tiles)
    live = facts.live
    in_blocks = -(-live // target.lanes)
    out_blocks = -(-len(problem.weight) // target.lanes)
    panels = -(-out_blocks // choice.vectors)
    positions = (m + 2) ** 2
    product = row_cycles(target, choice.block_tiles, choice.pixels, choice.vectors, live)
    arithmetic = n_blocks * panels * positions * product
    weights = positions * live * 4 * panels * choice.vectors * target.lanes * n_blocks
    block_inputs = positions * in_blocks * target.lanes * choice.block_tiles * 4
    streamed = weights + (n_blocks * panels * block_inputs if block_inputs > CACHE_BYTES else 0)
    transforms = tiles * (in_blocks + out_blocks) * TRANSFORM_CYCLES[m] * 2 / target.fma_per_cycle
    return max(arithmetic, streamed / BYTES_PER_CYCLE) + transforms


def rows_per_unit(problem: Problem, vectors: int, target: Target) -> int:
    """Rows of one unit of work: all while the weights are large, a cached band when small."""
    kept = int(np.count_nonzero(problem.weight)) * 4
    panels = -(-len(problem.weight) // (vectors * target.lanes))
    height = problem.out_height
    if kept <= CACHE_BYTES // 2:
        row = problem.in_width * problem.stride * problem.weight.shape[1] * 4
        band = max(1, CACHE_BYTES // 2 // max(1, row))
        height = min(height, band)
    while height > 1 and panels * -(-problem.out_height // height) < MIN_UNITS:
        height = -(-height // 2)
    return height


def candidates(problem: Problem, target: Target, facts: Facts | None = None) -> Iterator[Choice]:
    """Every legal choice for a layer."""
    facts = facts or Facts(problem)
    blocks = -(-len(problem.weight) // target.lanes)
    rows_of: dict[int, int] = {}
    for pixels, vectors in register_tiles(target, problem.out_width, blocks):
        if vectors not in rows_of:
            rows_of[vectors] = rows_per_unit(problem, vectors, target)
        whole = ColumnsChoice(pixels, vectors, rows_of[vectors])
        yield whole
        yield from _cut_lists(whole, facts, target)
    if problem.winograd:
        for m in WINOGRAD_TILES:
            yield from _winograd_candidates(problem, target, m, blocks)
    yield from pattern_tiles(problem, target)
    if facts.scattered(target.lanes):
        yield from taps_tiles(problem, target)
        if problem.kernel == 1 and problem.in_height == problem.in_width == 1:
            yield from (RowsChoice(vectors) for vectors in (1, 2) if vectors <= blocks)


def _cut_lists(whole: ColumnsChoice, facts: Facts, target: Target) -> Iterator[ColumnsChoice]:
    """The same tile on lists in pieces, where a tile touches much of the first-level cache."""
    n = max(facts.columns(whole.vectors * target.lanes))
    touched = facts.touched(n, whole.pixels, target) + n * whole.vectors * target.lanes * 4
    if touched < L1_BYTES // 2 or facts.problem.out_width == 1:
        return
    widest = STRIP_BYTES // (target.lanes * 4)
    for share in PIECE_SHARES:
        for strip in (0, widest) if facts.problem.out_width > widest else (0,):
            yield whole._replace(piece_bytes=int(share * L1_BYTES), strip_pixels=strip)


def _winograd_candidates(
    problem: Problem, target: Target, m: int, blocks: int
) -> Iterator[WinogradChoice]:
    tiles = -(-problem.out_height // m) * -(-problem.out_width // m)
    in_blocks = -(-problem.weight.shape[1] // target.lanes)
    seen = set()
    # Transformed inputs of a unit: within the second-level cache, or far larger, so that weights
    # are streamed once.
    for share in (8.0, 2.0, 1.0, 0.5):
        room = int(CACHE_BYTES * share) // ((m + 2) ** 2 * target.lanes * 4)
        block = max(8, room // max(1, in_blocks))
        count = max(1, -(-tiles // block))
        size = -(-tiles // count)
        if size in seen:
            continue
        seen.add(size)
        for pixels, vectors in register_tiles(target, size, blocks):
            yield WinogradChoice(m, pixels, vectors, size)


def cheapest(problem: Problem, target: Target) -> Choice:
    """The choice the model likes best; ties go to the first."""
    facts = Facts(problem)
    return min(candidates(problem, target, facts), key=lambda c: predicted_cycles(facts, c, target))
