"""Legal choices of the column kernel, and their cost."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice, strip_tiles, tail_pixels
from deploy_jetson.kernels.kinds.cycles import CACHE_BYTES, L1_BYTES, TILE_CYCLES, row_cycles
from deploy_jetson.kernels.kinds.register_tiles import register_tiles
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.targets import Target

MIN_UNITS = 8
PIECE_SHARES = (0.62, 0.86)  # of the first-level cache
STRIP_BYTES = 1024  # of one row of one vector of channels
RESUME_CYCLES = 1.5  # load and store of one accumulator between two pieces


def candidates(analysis: LayerAnalysis, target: Target) -> Iterator[ColumnsChoice]:
    """Every legal register tile, with the lists whole and in pieces."""
    problem = analysis.problem
    blocks = -(-len(problem.weight) // target.lanes)
    rows_of: dict[int, int] = {}
    for pixels, vectors in register_tiles(target, problem.out_width, blocks):
        if vectors not in rows_of:
            rows_of[vectors] = rows_per_unit(problem, vectors, target)
        whole = ColumnsChoice(pixels, vectors, rows_of[vectors])
        yield whole
        yield from _cut_lists(whole, analysis, target)


def _cut_lists(
    whole: ColumnsChoice, analysis: LayerAnalysis, target: Target
) -> Iterator[ColumnsChoice]:
    """The same tile on lists in pieces, where a tile touches much of the first-level cache."""
    n = max(analysis.columns(whole.vectors * target.lanes))
    touched = analysis.touched(n, whole.pixels, target) + n * whole.vectors * target.vector_bytes
    if touched < L1_BYTES // 2 or analysis.problem.out_width == 1:
        return
    widest = STRIP_BYTES // target.vector_bytes
    for share in PIECE_SHARES:
        for strip in (0, widest) if analysis.problem.out_width > widest else (0,):
            yield whole._replace(piece_bytes=int(share * L1_BYTES), strip_pixels=strip)


def rows_per_unit(problem: LayerProblem, vectors: int, target: Target) -> int:
    """Rows of one unit of work: all while the weights are large, a cached band when small."""
    kept = int(np.count_nonzero(problem.weight)) * target.number.bytes
    panels = -(-len(problem.weight) // (vectors * target.lanes))
    height = problem.out_height
    if kept <= CACHE_BYTES // 2:
        row = problem.in_width * problem.stride * problem.weight.shape[1] * target.number.bytes
        band = max(1, CACHE_BYTES // 2 // max(1, row))
        height = min(height, band)
    while height > 1 and panels * -(-problem.out_height // height) < MIN_UNITS:
        height = -(-height // 2)
    return height


def cycles(analysis: LayerAnalysis, choice: ColumnsChoice, target: Target) -> float:
    """Cycles of the column kernel: tiles, and what they read from beyond the first-level cache."""
    problem = analysis.problem
    column_bytes = choice.vectors * target.vector_bytes + 4
    strip = strip_tiles(choice, problem.out_width, choice.pixels)
    tiles = problem.out_height * -(-problem.out_width // choice.pixels)
    rate = target.l2_bytes_per_cycle
    counts = analysis.columns(choice.vectors * target.lanes)
    total_cycles = 0.0
    rest = -(-len(problem.weight) // target.lanes) % choice.vectors
    if rest:  # the last panel has fewer vectors, and a tile of its own
        pixels = tail_pixels(target, problem.out_width, rest)
        row = row_cycles(target, problem.out_width, pixels, rest, counts[-1])
        total_cycles, counts = problem.out_height * row, counts[:-1]
    for n, panels in Counter(counts).items():
        row = row_cycles(target, problem.out_width, choice.pixels, choice.vectors, n)
        arithmetic = problem.out_height * row
        extra, inputs = 0.0, analysis.touched(n, choice.pixels, target)
        # Neighbouring tiles share the inputs at their edges, and the weights if those fit.
        fresh = choice.pixels * problem.stride / (choice.pixels * problem.stride + problem.kernel)
        fits = inputs + n * column_bytes <= L1_BYTES
        streamed = inputs * fresh if fits else float(inputs + n * column_bytes)
        if choice.piece_bytes:
            pixels = min(strip * choice.pixels, problem.out_width)
            total = analysis.touched(n, pixels, target) + n * column_bytes
            pieces = -(-total // choice.piece_bytes)
            sums = choice.pixels * choice.vectors
            extra = tiles * (pieces - 1) * (TILE_CYCLES + sums * RESUME_CYCLES)
            streamed = total / (strip * min(choice.rows_per_unit, problem.out_height))
        total_cycles += panels * (max(arithmetic, tiles * streamed / rate) + extra)
    return total_cycles
