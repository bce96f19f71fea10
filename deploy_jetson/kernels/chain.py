"""Chains: convolutions that pass bands of rows on inside a core's cache.

On large maps a sparse layer is bound by writing its map to memory and reading it back. Where a map
is read by one convolution only, both work band by band: the rows the next band needs again are
kept, and only the last map is written out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deploy_jetson.kernels.packing import Blob
from deploy_jetson.kernels.steps import ChainLevel, ColumnsStep, Record, Step
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.tensors import ALIGNMENT, Buffer, view_of
from deploy_jetson.kernels.variants import Variant

MAX_LEVELS = 3
WORTH_BYTES = 600 * 1024  # a smaller map stays in the cache anyway
SCRATCH_BYTES = 448 * 1024
WEIGHT_BYTES = 256 * 1024  # all levels' weights are read again for every band
MAX_BAND = 8
STRIPES = 4  # units of work; the first rows of each are computed twice


@dataclass(eq=False)
class ChainStep:
    """Two or three column convolutions as one step.

    Attributes:
        levels: The convolutions; every inner output is a scratch buffer at offset 0.
        band: Rows of the last level at once.
    """

    levels: tuple[ColumnsStep, ...]
    band: int

    @property
    def name(self) -> str:
        """All layers."""
        return " + ".join(level.name for level in self.levels)

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The first input, and what the levels add."""
        skips = tuple(level.skip for level in self.levels if level.skip)
        return self.levels[0].view.buffers + skips

    @property
    def out(self) -> Buffer:
        """The last level's output."""
        return self.levels[-1].out

    def variants(self, target: Target) -> list[Variant]:
        """Kernels of all levels."""
        return [variant for level in self.levels for variant in level.variants(target)]

    def scratch_floats(self, lanes: int) -> int:
        """Floats of all inner buffers."""
        return sum(_rounded(level.out.floats) for level in self.levels[:-1])

    def records(self, blob: Blob, target: Target) -> list[Record]:
        """One record with all levels."""
        levels, scratch = [], 0
        for level in self.levels:
            fields: dict[str, object] = {
                "n_parts": 0,
                "kernel": level.problem.kernel,
                "stride": level.problem.stride,
                "padding": level.problem.padding,
                "scratch": scratch,
            }
            parts = tuple(
                part._replace(fields={**part.fields, "out": self._out(part, level)})
                for part in level.records(blob, target)
            )
            fields["n_parts"] = len(parts)
            levels.append(ChainLevel(parts, fields))
            scratch += _rounded(level.out.floats)
        height = self.out.height
        stripe = -(-height // min(STRIPES, height))
        fields = {
            "n_levels": len(levels),
            "band": self.band,
            "stripe": stripe,
        }
        units = -(-height // stripe)
        return [Record(self.name, "run_chain", "chain_layer", fields, units, True, tuple(levels))]

    def _out(self, part: Record, level: ColumnsStep) -> object:
        """The map's true height in place of the scratch buffer's rows."""
        text = str(part.fields["out"])
        return text.replace(
            f".height = {level.out.height}", f".height = {level.problem.out_height}"
        )


def _rounded(floats: int) -> int:
    return -(-floats // ALIGNMENT) * ALIGNMENT


def form_chains(steps: Sequence[Step], kept: frozenset[Buffer], lanes: int) -> list[Step]:
    """Join neighbouring column convolutions where a large map would pass between them.

    Args:
        steps: The plan.
        kept: Buffers that must exist in the arena, for example the network's outputs.
        lanes: Of the target.
    """
    readers: dict[Buffer, int] = {}
    for step in steps:
        for buffer in set(step.reads):
            readers[buffer] = readers.get(buffer, 0) + 1
    result: list[Step] = []
    pending: list[ColumnsStep] = []
    for step in steps:
        if isinstance(step, ColumnsStep):
            link = pending and _linked(pending[-1], step, readers, kept)
            if link and len(pending) < MAX_LEVELS and _light([*pending, step]):
                pending.append(step)
                continue
            result += _joined(pending, lanes)
            pending = [step]
        else:
            result += [*_joined(pending, lanes), step]
            pending = []
    return result + _joined(pending, lanes)


def _linked(
    first: ColumnsStep, second: ColumnsStep, readers: dict[Buffer, int], kept: frozenset[Buffer]
) -> bool:
    """Whether the first's map goes to the second alone."""
    buffer = first.out
    return (
        second.view.buffers == (buffer,)
        and second.skip is not buffer
        and readers[buffer] == 1
        and buffer not in kept
        and buffer.floats * 4 >= WORTH_BYTES
        and second.view.height == buffer.height
    )


def _light(levels: Sequence[ColumnsStep]) -> bool:
    weights = sum(int(np.count_nonzero(level.problem.weight)) for level in levels) * 4
    return weights <= WEIGHT_BYTES and _band(levels) > 0


def _rows(levels: Sequence[ColumnsStep], band: int) -> list[int]:
    """Rows of every inner map that a band of the last level touches."""
    rows = [band]
    for level in reversed(levels[1:]):
        rows.append((rows[-1] - 1) * level.problem.stride + level.problem.kernel)
    return rows[:0:-1]


def _band(levels: Sequence[ColumnsStep]) -> int:
    """The largest band whose inner rows fit the cache; 0 when not even one row does."""
    for band in range(min(MAX_BAND, levels[-1].out.height), 0, -1):
        rows = _rows(levels, band)
        inner = zip(rows, levels[:-1], strict=True)
        total = sum(r * level.out.row * level.out.blocks for r, level in inner)
        if total * 4 <= SCRATCH_BYTES:
            return band
    return 0


def _joined(levels: list[ColumnsStep], lanes: int) -> list[Step]:
    if len(levels) < 2:
        return list(levels)
    band = _band(levels)
    made = [levels[0]]
    for rows, level in zip(_rows(levels, band), levels[1:], strict=True):
        before = made[-1]
        scratch = Buffer(
            before.out.name, before.out.blocks, rows, before.out.width, level.problem.padding,
            lanes, offset=0,
        )  # fmt: skip
        made[-1] = replace(before, out=scratch)
        view = view_of(scratch, level.view.channels, before.order)
        made.append(replace(level, view=view))
    return [ChainStep(tuple(made), band)]
