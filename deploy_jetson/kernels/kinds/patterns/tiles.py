"""The loads and sums of the pattern kernel's tiles, as the template writes them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from deploy_jetson.kernels.kinds.patterns.choice import PatternVariant
from deploy_jetson.kernels.kinds.patterns.packing import Pattern, sections
from deploy_jetson.kernels.targets import Target


class TileLoad(NamedTuple):
    """One input vector and everything it is added to."""

    place: str  # floats from the kernel's first input, as a C expression
    aligned: bool  # whether its address is a multiple of a vector
    sums: list[tuple[str, int]]  # (accumulator, number of the weight) of every multiply-add


class TileRow(NamedTuple):
    """One input row of a tile and its loads."""

    number: int
    loads: list[TileLoad]


class KernelRun(NamedTuple):
    """The loop over kernels of one pattern and one section of filters."""

    taps: Pattern  # of the pattern
    members: Sequence[int]  # filters of the section
    rows: list[TileRow]  # input rows with their loads

    @property
    def n_weights(self) -> int:
        """Weights of one kernel."""
        return len(self.taps) * len(self.members)


def template_context(variants: Sequence[PatternVariant], target: Target) -> dict[str, Any]:
    """Values of the templates."""
    return {
        "variants": variants,
        "exchanges": list(transpose_exchanges(target.lanes)),
        "accumulators": accumulators,
        "runs": runs,
    }


def transpose_exchanges(lanes: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """Rounds of a lanes x lanes transposition: block size, lanes of the upper and lower result."""
    step = lanes // 2
    while step:
        upper = [j if not j & step else lanes + j - step for j in range(lanes)]
        lower = [j + step if not j & step else lanes + j for j in range(lanes)]
        yield step, upper, lower
        step //= 2


def accumulators(variant: PatternVariant, height: int) -> list[tuple[str, str]]:
    """(name, place in memory) of every accumulator of a tile of `height` rows."""
    return [
        (f"a{f}_{c}_{r}_{t}", f"sums + {f} * filter + {c * variant.rows + r} * span + {t} * LANES")
        for f in range(variant.filters)
        for c in range(variant.frames)
        for r in range(height)
        for t in range(variant.vectors)
    ]


def runs(variant: PatternVariant, height: int) -> list[KernelRun]:
    """All loops of a tile function, in the order of the lists."""
    return [
        KernelRun(taps, members, list(_rows(variant, height, taps, members)))
        for members in sections(variant.filters)
        for taps in variant.patterns
    ]


def _rows(
    variant: PatternVariant, height: int, taps: Pattern, members: Sequence[int]
) -> Iterator[TileRow]:
    side = variant.side
    for row in range(height + side - 1):
        uses = [
            (index, tap % side, row - tap // side)
            for index, tap in enumerate(taps)
            if 0 <= row - tap // side < height
        ]
        if uses:
            yield TileRow(row, list(_loads(variant, row, uses, len(taps), members)))


def _loads(
    variant: PatternVariant,
    row: int,
    uses: list[tuple[int, int, int]],
    n_taps: int,
    members: Sequence[int],
) -> Iterator[TileLoad]:
    """One input row: each vector is loaded once for every (output row, tap) that it serves.

    Args:
        row: Input row of the tile.
        uses: (number of the tap, its column, output row).
        n_taps: Taps of the pattern.
        members: Filters of the section.
    """
    frames = variant.frames
    for shift in sorted({0 if frames > 1 else column for _, column, _ in uses}):
        right = 0 if frames > 1 else shift - variant.side // 2
        for t in range(variant.vectors):
            sums = [
                (f"a{f}_{column if frames > 1 else 0}_{out}_{t}", n * n_taps + index)
                for n, f in enumerate(members)
                for index, column, out in uses
                if frames > 1 or column == shift
            ]
            yield TileLoad(f"{row * variant.pitch + right} + {t} * LANES", not right, sums)
