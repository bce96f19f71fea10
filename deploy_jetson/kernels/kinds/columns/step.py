"""The step of the column kernel: its lists in the order the C code reads them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.kinds.columns.choice import (
    ColumnsChoice,
    ColumnsVariant,
    strip_tiles,
    tail_pixels,
)
from deploy_jetson.kernels.kinds.columns.packing import FilterPanels, cut_panels, pack_panels
from deploy_jetson.kernels.kinds.register_tiles import split_row
from deploy_jetson.kernels.plan.filters import pad_filters
from deploy_jetson.kernels.plan.steps import ConvolutionStep, StepRecord, Variant
from deploy_jetson.kernels.plan.tensors import Ints, int32
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target


class _Part(NamedTuple):
    """Vectors of filters that one kernel computes."""

    first: int
    blocks: int
    # pixels, vectors: register tile
    pixels: int
    vectors: int


@dataclass(eq=False)
class ColumnsStep(ConvolutionStep):
    """Convolution by lists of kept columns."""

    choice: ColumnsChoice = field(default=ColumnsChoice(1, 1, 1))
    may_round = True

    @property
    def number(self) -> str:
        """Its arithmetic, see `TileVariant`."""
        return "real"

    @property
    def turn(self) -> int:
        """Columns that its loop takes at once."""
        return 1

    @property
    def needs_real(self) -> bool:
        """Where lists are cut into pieces."""
        return self.choice.piece_bytes > 0

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record for the full panels and one for the remaining vectors of filters."""
        parts = self._parts(target)
        return [self._record(store, target, part, part is parts[-1]) for part in parts]

    def _parts(self, target: Target) -> list[_Part]:
        """Full panels, and the vectors of filters that they leave over."""
        vectors = self.choice.vectors
        rest = self.out.blocks % vectors
        full = self.out.blocks - rest
        parts = [_Part(0, full, self.choice.pixels, vectors)] if full else []
        if rest:
            parts.append(_Part(full, rest, tail_pixels(target, self.out.width, rest), rest))
        return parts

    def _record(self, store: WeightStore, target: Target, part: _Part, barrier: bool) -> StepRecord:
        first, blocks, pixels, nv = part
        lanes = target.lanes
        problem = self.problem
        filters = slice(first * lanes, (first + blocks) * lanes)
        matrix = self._matrix()[filters]
        sources = self._sources()
        panels = self._panels(matrix, nv * lanes, np.argsort(sources, kind="stable"))
        strip = strip_tiles(self.choice, self.out.width, pixels)
        span = min(strip * pixels, self.out.width) * problem.stride + problem.kernel - 1
        touched = problem.kernel * span * self.view.pixel * target.number.bytes
        sizes = (touched, nv * target.vector_bytes + 4)
        pieces = cut_panels(panels, sources, sizes, self.choice.piece_bytes, self.turn)
        variant = self._variant(lanes, pixels, nv)
        rows = min(self.choice.rows_per_unit, self.out.height)
        n_panels = blocks // nv
        wide, narrow = split_row(self.out.width, pixels)
        fields = self.common()
        fields.update(
            x_row=self.view.row * problem.stride,
            skip_block=self.skip.block if self.skip else 0,
            skip_row=self.skip.row if self.skip else 0,
            weights=store.add(panels.weights, weights=self.number == "real"),
            # the loop loads the indices of one turn ahead
            columns=store.add(int32(np.append(self._offsets(panels.columns), [0] * self.turn))),
            pieces=store.add(pieces.first),
            starts=store.add(pieces.starts),
            bias=store.add(self._terms(filters, nv * lanes)),
            first_block=first,
            panels=n_panels,
            rows_per_unit=rows,
            wide=wide,
            narrow=narrow,
            strip=strip,
        )
        units = n_panels * -(-self.out.height // rows)
        return StepRecord(self.name, variant.name, "columns_layer", fields, units, barrier)

    def _panels(self, matrix: npt.NDArray[Any], width: int, order: Ints) -> FilterPanels:
        """Kept columns of (O, P) `matrix` in the order given, as this arithmetic packs them."""
        return pack_panels(matrix, width, order)

    def _matrix(self) -> npt.NDArray[Any]:
        """(O, P) what is multiplied with every column, filters in physical order."""
        return self.weight.reshape(len(self.order), -1)

    def _terms(self, filters: slice, width: int) -> npt.NDArray[np.generic]:
        """What every filter's sum begins and ends with, panels of `width` filters: the bias."""
        return pad_filters(self.bias[self.order][filters], width)

    def _sources(self) -> Ints:
        """(P,) the plane of the input each column reads, as a number."""
        places = self.view.locations()
        planes = places - self.view.offset_of % self.view.pixel
        return np.repeat(planes, self.problem.kernel**2)

    def _offsets(self, columns: Ints) -> Ints:
        """Arena offset of the input that output pixel (0, 0) multiplies with each column."""
        side, padding = self.problem.kernel, self.problem.padding
        channel, tap = columns // (side * side), columns % (side * side)
        down, right = tap // side - padding, tap % side - padding
        return self.view.locations()[channel] + down * self.view.row + right * self.view.pixel

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its records call."""
        return [
            self._variant(target.lanes, part.pixels, part.vectors) for part in self._parts(target)
        ]

    def _variant(self, lanes: int, pixels: int, vectors: int) -> ColumnsVariant:
        pixel = None if self.view.pixel == lanes else self.view.pixel
        _, narrow = split_row(self.out.width, pixels)
        return ColumnsVariant(
            pixels=pixels, vectors=vectors, stride=self.problem.stride, pixel=pixel,
            narrow=narrow > 0, number=self.number, formats=self.formats,
        )  # fmt: skip
