"""Chains: column convolutions that pass bands of rows on inside a core's cache.

On large maps a sparse layer is bound by writing its map to memory and reading it back. Where a map
is read by one convolution only, both work band by band: the rows the next band needs again are
kept, and only the last map is written out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deploy_jetson.kernels.kinds.columns.step import ColumnsStep
from deploy_jetson.kernels.plan.c_values import CArray, CPointer, CValue
from deploy_jetson.kernels.plan.steps import Step, StepRecord, Variant
from deploy_jetson.kernels.plan.tensors import Buffer, round_up, view_of
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target

MAX_LEVELS = 3
WORTH_BYTES = 600 * 1024  # a smaller map stays in the cache anyway
SCRATCH_BYTES = 448 * 1024
WEIGHT_BYTES = 256 * 1024  # all levels' weights are read again for every band
MAX_BAND = 8
STRIPES = 4  # units of work; the first rows of each are computed twice


@dataclass(eq=False)
class ChainStep:
    """Two or three column convolutions as one step."""

    # the convolutions; every inner output is a scratch buffer at offset 0
    levels: tuple[ColumnsStep, ...]
    band: int  # rows of the last level at once

    @property
    def name(self) -> str:
        """Names of all layers of the chain."""
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

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The last level's output."""
        return self.levels[-1].writes

    def variants(self, target: Target) -> list[Variant]:
        """Kernels of all levels."""
        return [variant for level in self.levels for variant in level.variants(target)]

    def scratch_floats(self, target: Target) -> int:
        """Floats of all inner buffers."""
        return sum(round_up(level.out.floats) for level in self.levels[:-1])

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record with all levels."""
        levels: list[dict[str, CValue]] = []
        scratch = 0
        for level in self.levels:
            parts = [self._part(record, level) for record in level.records(store, target)]
            levels.append(
                {
                    "parts": CArray("chain_part", parts),
                    "n_parts": len(parts),
                    "kernel": level.problem.kernel,
                    "stride": level.problem.stride,
                    "padding": level.problem.padding,
                    "scratch": scratch,
                }
            )
            scratch += round_up(level.out.floats)
        height = self.out.height
        stripe = -(-height // min(STRIPES, height))
        fields: dict[str, CValue] = {
            "levels": CArray("chain_level", levels),
            "n_levels": len(levels),
            "band": self.band,
            "stripe": stripe,
        }
        return [StepRecord(self.name, "run_chain", "chain_layer", fields, -(-height // stripe))]

    def _part(self, record: StepRecord, level: ColumnsStep) -> dict[str, CValue]:
        """A level's record; its output has the map's height, not the scratch buffer's rows."""
        out = record.fields["out"]
        assert isinstance(out, dict)
        fields = {**record.fields, "out": {**out, "height": level.problem.out_height}}
        return {"layer": CPointer(record.type, fields), "rows": f"{record.run}_rows"}


def form_chains(steps: Sequence[Step], kept: frozenset[Buffer], target: Target) -> list[Step]:
    """Merge consecutive column convolutions with a large intermediate map into chains."""
    readers: dict[Buffer, int] = {}
    for step in steps:
        for buffer in set(step.reads):
            readers[buffer] = readers.get(buffer, 0) + 1
    small = frozenset(b for b in readers if b.floats * target.number.bytes < WORTH_BYTES)
    result: list[Step] = []
    pending: list[ColumnsStep] = []
    for step in steps:
        if isinstance(step, ColumnsStep):
            link = pending and _linked(pending[-1], step, readers, kept | small)
            if link and len(pending) < MAX_LEVELS and _light([*pending, step], target):
                pending.append(step)
                continue
            result += _joined(pending, target)
            pending = [step]
        else:
            result += [*_joined(pending, target), step]
            pending = []
    return result + _joined(pending, target)


def _linked(
    first: ColumnsStep, second: ColumnsStep, readers: dict[Buffer, int], kept: frozenset[Buffer]
) -> bool:
    """Whether the second convolution is the only reader of the first one's output."""
    buffer = first.out
    return (
        second.view.buffers == (buffer,)
        and second.skip is not buffer
        and first.rounding is None
        and readers[buffer] == 1
        and buffer not in kept
        and second.view.height == buffer.height
    )


def _light(levels: Sequence[ColumnsStep], target: Target) -> bool:
    weights = sum(int(np.count_nonzero(level.problem.weight)) for level in levels)
    return weights * target.number.bytes <= WEIGHT_BYTES and _band(levels, target) > 0


def _rows(levels: Sequence[ColumnsStep], band: int) -> list[int]:
    """Rows of every inner map that a band of the last level touches."""
    rows = [band]
    for level in reversed(levels[1:]):
        rows.append((rows[-1] - 1) * level.problem.stride + level.problem.kernel)
    return rows[:0:-1]


def _band(levels: Sequence[ColumnsStep], target: Target) -> int:
    """The largest band whose inner rows fit the cache; 0 when not even one row does."""
    for band in range(min(MAX_BAND, levels[-1].out.height), 0, -1):
        rows = _rows(levels, band)
        inner = zip(rows, levels[:-1], strict=True)
        total = sum(r * level.out.row * level.out.blocks for r, level in inner)
        if total * target.number.bytes <= SCRATCH_BYTES:
            return band
    return 0


def _joined(levels: list[ColumnsStep], target: Target) -> list[Step]:
    if len(levels) < 2:
        return list(levels)
    band = _band(levels, target)
    made = [levels[0]]
    for rows, level in zip(_rows(levels, band), levels[1:], strict=True):
        before = made[-1]
        scratch = Buffer(
            before.out.name, before.out.blocks, rows, before.out.width, level.problem.padding,
            target.lanes, offset=0,
        )  # fmt: skip
        made[-1] = replace(before, out=scratch)
        view = view_of(scratch, level.view.channels, before.order)
        made.append(replace(level, view=view))
    return [ChainStep(tuple(made), band)]
