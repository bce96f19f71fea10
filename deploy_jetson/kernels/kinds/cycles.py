"""Constants and formulas that the cost models of the kinds share.

A cost model ranks candidates where nothing can be measured (another machine's target), gives the
default choice without tuning, and pre-screens the tuner's candidates. Per kept column a register
tile costs the longer of its multiply-adds and its loads; per tile there is a fixed price for the
accumulators' start, bias, activation and stores, which dominates in very sparse layers. What a tile
reads from beyond the first-level cache costs too.
"""

from deploy_jetson.kernels.kinds.register_tiles import split_row
from deploy_jetson.kernels.targets import Target

TILE_CYCLES = 14.0  # call, loop entry and the mispredicted exit
VECTOR_CYCLES = 1.6  # start, bias, activation, store of one accumulator
FMA_LATENCY = 4.0
STALL_CYCLES = 0.5  # of a turn that waits for its sums: nothing else is hidden behind them
CACHE_BYTES = 512 * 1024  # of a core, for what should stay near
L1_BYTES = 32 * 1024  # of every target
NEON_BYTES = 16  # a vector of ARM; wider ones straddle cache lines and share banks


def tile_cycles(target: Target, pixels: int, vectors: int, columns: float) -> float:
    """Cycles of one register tile over `columns` kept columns."""
    sums = pixels * vectors
    multiply = sums / target.fma_per_cycle
    if multiply < FMA_LATENCY:
        multiply = FMA_LATENCY + STALL_CYCLES
    loads = (pixels + vectors + 1) / target.loads_per_cycle
    # Pixels of one lane share a cache bank, so wide vectors read one broadcast per cycle.
    broadcasts = pixels / (target.loads_per_cycle / 2) if target.vector_bytes > NEON_BYTES else 0.0
    hot = max(multiply, loads, broadcasts)
    return TILE_CYCLES + sums * VECTOR_CYCLES * 2 / target.fma_per_cycle + columns * hot


def row_cycles(target: Target, width: int, pixels: int, vectors: int, columns: float) -> float:
    """Cycles of one row of `width` pixels for one panel."""
    wide, narrow = split_row(width, pixels)
    cycles = wide * tile_cycles(target, pixels, vectors, columns)
    if narrow:
        cycles += narrow * tile_cycles(target, pixels - 1, vectors, columns)
    return cycles
