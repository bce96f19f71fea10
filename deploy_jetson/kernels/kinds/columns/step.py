"""The step of the column kernel: its lists in the order the C code reads them."""

from dataclasses import dataclass, field
from typing import Any

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


@dataclass(eq=False)
class ColumnsStep(ConvolutionStep):
    """Convolution by lists of kept columns."""

    choice: ColumnsChoice = field(default=ColumnsChoice(1, 1, 1))

    @property
    def number(self) -> str:
        """Its arithmetic, see `ColumnsVariant`."""
        return "real"

    @property
    def turn(self) -> int:
        """Columns that its loop takes at once."""
        return 1

    @property
    def may_round(self) -> bool:
        """Yes."""
        return True

    @property
    def needs_real(self) -> bool:
        """Where lists are cut into pieces."""
        return self.choice.piece_bytes > 0

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record for the full panels and one for the remaining vectors of filters."""
        vectors = self.choice.vectors
        full = self.out.blocks // vectors * vectors
        parts = [(0, full, self.choice.pixels, vectors)] if full else []
        if self.out.blocks > full:
            rest = self.out.blocks - full
            parts.append((full, rest, tail_pixels(target, self.out.width, rest), rest))
        records = []
        for index, (first, blocks, pixels, nv) in enumerate(parts):
            last = index == len(parts) - 1
            records.append(self._record(store, target, (first, blocks, pixels, nv), last))
        return records

    def _record(
        self, store: WeightStore, target: Target, part: tuple[int, int, int, int], barrier: bool
    ) -> StepRecord:
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
        """See `pack_panels`."""
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
        vectors = self.choice.vectors
        rest = self.out.blocks % vectors
        found: list[Variant] = []
        if self.out.blocks >= vectors:
            found.append(self._variant(target.lanes, self.choice.pixels, vectors))
        if rest:
            pixels = tail_pixels(target, self.out.width, rest)
            found.append(self._variant(target.lanes, pixels, rest))
        return found

    def _variant(self, lanes: int, pixels: int, vectors: int) -> ColumnsVariant:
        pixel = None if self.view.pixel == lanes else self.view.pixel
        _, narrow = split_row(self.out.width, pixels)
        stride = self.problem.stride
        return ColumnsVariant(pixels, vectors, stride, pixel, narrow > 0, self.number, self.formats)
