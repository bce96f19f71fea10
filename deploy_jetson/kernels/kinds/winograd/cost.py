"""Legal choices of the Winograd kernel, and their cost."""

from collections.abc import Iterator

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.cycles import CACHE_BYTES, row_cycles
from deploy_jetson.kernels.kinds.register_tiles import register_tiles
from deploy_jetson.kernels.kinds.winograd.choice import WinogradChoice
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.targets import SINGLE, Target

FEW_TILES = 8  # so few stay in one block
SHARES = 4  # units of work of a layer at least
EVEN = 0.88  # of the busier of two threads, what both do on average
OUT_TILES = (2, 4, 6)  # output pixels of a tile's side: F(2,3), F(4,3), F(6,3)
TRANSFORM_CYCLES = {2: 60.0, 4: 190.0, 6: 420.0}  # of one tile and one vector of channels
BYTES_PER_CYCLE = 12.0  # weights streamed from beyond the second-level cache


def applies(problem: LayerProblem) -> bool:
    """Whether Winograd applies: 3x3, stride 1, blocked input, float32.

    Transformed weights are up to seven times as many and spread over far more magnitudes:
    neither small nor exact in fewer bits.
    """
    return problem.stride_one_3x3 and problem.storage == "fp32"


def candidates(analysis: LayerAnalysis, target: Target) -> Iterator[WinogradChoice]:
    """Every tile size with every legal register tile and several sizes of a unit of work."""
    problem = analysis.problem
    if applies(problem):
        blocks = -(-len(problem.weight) // target.lanes)
        # float16 has no digits to spare for the 100 times larger numbers inside F(4,3)
        for m in OUT_TILES if target.number is SINGLE else OUT_TILES[:1]:
            yield from _of_tile(problem, target, m, blocks)


def _of_tile(
    problem: LayerProblem, target: Target, m: int, blocks: int
) -> Iterator[WinogradChoice]:
    tiles = -(-problem.out_height // m) * -(-problem.out_width // m)
    in_blocks = -(-problem.weight.shape[1] // target.lanes)
    seen = set()
    # Transformed inputs of a unit: within the second-level cache, or far larger, so that weights
    # are streamed once.
    for share in (8.0, 2.0, 1.0, 0.5):
        room = int(CACHE_BYTES * share) // ((m + 2) ** 2 * target.vector_bytes)
        block = max(FEW_TILES, room // max(1, in_blocks))
        for size in (tiles, even_blocks(tiles, block)):
            if size in seen or size > block:
                continue
            seen.add(size)
            for pixels, vectors in register_tiles(target, size, blocks):
                if size < tiles or tiles < FEW_TILES or shared_evenly(-(-blocks // vectors), 1):
                    yield WinogradChoice(m, pixels, vectors, size)


def even_blocks(tiles: int, most: int) -> int:
    """The largest block of at most `most` tiles that threads share evenly; all tiles if few."""
    if tiles < FEW_TILES:
        return tiles
    sizes = range(min(most, -(-tiles // SHARES)), 0, -1)
    return next((size for size in sizes if shared_evenly(tiles, size)), 1)


def shared_evenly(items: int, size: int) -> bool:
    """Whether four threads have work, and two about the same, from units of `size` items each."""
    units = -(-items // size)
    busiest = -(-units // 2) * size - units % 2 * (units * size - items)
    return units >= SHARES and items / 2 >= EVEN * busiest


def cycles(analysis: LayerAnalysis, choice: WinogradChoice, target: Target) -> float:
    """Cycles on one core: the products or the stream of their weights, and the transforms."""
    problem = analysis.problem
    m = choice.out_tile
    tiles = -(-problem.out_height // m) * -(-problem.out_width // m)
    n_blocks = -(-tiles // choice.block_tiles)
    live = analysis.live
    in_blocks = -(-live // target.lanes)
    out_blocks = -(-len(problem.weight) // target.lanes)
    panels = -(-out_blocks // choice.vectors)
    positions = (m + 2) ** 2
    product = row_cycles(target, choice.block_tiles, choice.pixels, choice.vectors, live)
    arithmetic = n_blocks * panels * positions * product
    weights = positions * live * panels * choice.vectors * target.vector_bytes * n_blocks
    block_inputs = positions * in_blocks * target.vector_bytes * choice.block_tiles
    streamed = weights + (n_blocks * panels * block_inputs if block_inputs > CACHE_BYTES else 0)
    transforms = tiles * (in_blocks + out_blocks) * TRANSFORM_CYCLES[m] * 2 / target.fma_per_cycle
    return max(arithmetic, streamed / BYTES_PER_CYCLE) + transforms
