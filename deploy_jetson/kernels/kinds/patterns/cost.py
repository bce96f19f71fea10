"""Legal choices of the pattern kernel, and their cost."""

from collections.abc import Iterator

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.cycles import NEON_BYTES
from deploy_jetson.kernels.kinds.patterns.choice import PatternChoice
from deploy_jetson.kernels.kinds.patterns.packing import count_loads, kernel_patterns
from deploy_jetson.kernels.kinds.patterns.step import CACHE_FLOATS
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.targets import Target

WEIGHT_REGISTERS = 4  # of one kernel
SPARE_REGISTERS = 2  # an input vector, a temporary
MIN_SUMS = 6  # fewer leave the multiply-adds waiting for each other
MAX_FRAMES = 3
SHIFTED_LOAD = {16: 1.0, 32: 1.3, 64: 1.7}  # loads that straddle cache lines count twice
TRANSPOSE_CYCLES = 12.0  # of LANES x LANES values, per four lanes


def candidates(analysis: LayerAnalysis, target: Target) -> Iterator[PatternChoice]:
    """Legal register tiles of a layer with free patterns; none for other layers."""
    problem = analysis.problem
    fits = problem.stride_one_3x3 and problem.padding == 1
    if not fits or kernel_patterns(problem.weight) is None:
        return
    for frames in frame_counts(target, problem.kernel):
        for filters in (1, 2):
            weights = WEIGHT_REGISTERS * filters
            for rows, vectors in band_tiles(problem, target, frames * filters, weights):
                yield PatternChoice(rows, vectors, filters, frames)
                for floats in CACHE_FLOATS[target.vector_bytes][1:]:
                    yield PatternChoice(rows, vectors, filters, frames, floats)


def frame_counts(target: Target, side: int) -> tuple[int, ...]:
    """Frames worth trying: wide vectors gain from aligned loads, four lanes do not."""
    return (1,) if side == 1 or target.vector_bytes <= NEON_BYTES else (1, MAX_FRAMES)


def band_tiles(
    problem: LayerProblem, target: Target, sets: int, weights: int
) -> Iterator[tuple[int, int]]:
    """(rows, vectors) of tiles with `sets` sums for every pixel, bands of equal height."""
    across = -(-problem.out_width // target.lanes)
    spare = SPARE_REGISTERS + (2 if target.vector_bytes <= NEON_BYTES and sets > 1 else 0)
    room = (target.registers - weights - spare) // sets
    found = set()
    for split in range(1, across + 1):
        vectors = -(-across // split)
        tallest = min(problem.out_height, room // vectors)
        for limit in range(tallest, max(0, tallest - 3), -1):
            rows = -(-problem.out_height // -(-problem.out_height // limit))
            low = rows - (problem.out_height % rows > 0)  # of the bands of one row less
            whole = rows == problem.out_height and sets != 2
            if (_worthwhile(target, low, vectors, sets) or whole) and (rows, vectors) not in found:
                found.add((rows, vectors))
                yield rows, vectors


def _worthwhile(target: Target, rows: int, vectors: int, sets: int) -> bool:
    """Whether a tile with few rows still shares enough input loads.

    For the Cortex-A57 by llvm-mca: a tile below these does less than 0.85 multiply-adds a cycle.
    """
    if target.vector_bytes > NEON_BYTES:
        return rows >= 2 and rows * vectors * sets >= MIN_SUMS
    return (rows >= 7 and vectors == 1) if sets > 1 else rows >= 3 and rows * vectors >= MIN_SUMS


def cycles(analysis: LayerAnalysis, choice: PatternChoice, target: Target) -> float:
    """Cycles on one core."""
    problem = analysis.problem
    key = (choice.rows, choice.filters, choice.frames)
    plain, loads = analysis.once(("pattern loads", *key), lambda: count_loads(problem, *key))
    kernels = int(analysis.kept_of_filter.sum()) // 4
    return list_cycles(analysis, choice, target, (plain, loads, kernels))


def list_cycles(
    analysis: LayerAnalysis, choice: PatternChoice, target: Target, counts: tuple[int, int, int]
) -> float:
    """Cycles of the pattern kernel.

    Args:
        counts: Multiply-adds and loads of one column of vectors of one tile, and kernels.
    """
    plain, loads, kernels = counts
    problem = analysis.problem
    lanes, vectors = target.lanes, choice.vectors
    bands = -(-problem.out_height // choice.rows)
    across = -(-problem.out_width // (vectors * lanes))
    shifted = problem.kernel == 3 and choice.frames == 1
    sums = plain * vectors / target.fma_per_cycle
    loaded = loads * vectors * (SHIFTED_LOAD[target.vector_bytes] if shifted else 1.0) + 3 * kernels
    hot = max(sums, loaded / target.loads_per_cycle) + 2.0 * kernels
    pixels: int = -(-problem.out_width // lanes) * problem.out_height
    in_blocks = -(-problem.weight.shape[1] // lanes)
    out_blocks = -(-len(problem.weight) // lanes) * choice.frames
    transposes: float = pixels * (in_blocks + out_blocks) * TRANSPOSE_CYCLES * lanes / 4
    return bands * across * hot * 1.1 + transposes
