"""The steps of the int8 kernel: activations to whole numbers, and the convolution of those."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.dot_products import DotProduct
from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice
from deploy_jetson.kernels.kinds.columns.packing import FilterPanels, pack_panels
from deploy_jetson.kernels.kinds.columns.step import ColumnsStep
from deploy_jetson.kernels.kinds.dots.words import ChannelWords
from deploy_jetson.kernels.plan.c_values import CValue
from deploy_jetson.kernels.plan.filters import pad_filters
from deploy_jetson.kernels.plan.layer_problem import LayerQuantization
from deploy_jetson.kernels.plan.rounding import Rounding
from deploy_jetson.kernels.plan.steps import ConvolutionStep, StepRecord
from deploy_jetson.kernels.plan.tensors import (
    Buffer,
    ChannelVectors,
    ChannelView,
    Ints,
    arena_offsets,
    int32,
    view_of,
)
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target

WORTH_PAIRING = 0.6  # pairs per word: five instructions instead of three for each word
NEARBY = 32  # words among which a partner is looked for


class DotsChoice(NamedTuple):
    """The column kernel's choice, on whole numbers."""

    # pixels, vectors, rows_per_unit, piece_bytes, strip_pixels: see `ColumnsChoice`
    pixels: int
    vectors: int
    rows_per_unit: int
    piece_bytes: int
    strip_pixels: int
    group: int  # channels in one word

    @property
    def columns(self) -> ColumnsChoice:
        """The choice of the column kernel, whose columns are words."""
        return ColumnsChoice(*self[:-1])


@dataclass(eq=False)
class QuantizeStep:
    """Rounds a layer's input to whole numbers, where the step that made it does not."""

    name: str  # layer that reads them
    view: ChannelView  # the input
    vectors: ChannelVectors  # the same as whole vectors
    rounding: Rounding  # the words it writes

    @classmethod
    def of(
        cls, base: ConvolutionStep, vectors: ChannelVectors, words: ChannelWords, dot: DotProduct
    ) -> "QuantizeStep":
        """The step in front of a convolution."""
        quantization = base.problem.quantization
        assert quantization
        view, padding = base.view, base.problem.padding
        out = Buffer(base.name, words.blocks, view.height, view.width, padding, words.pixel)
        zero_point = quantization.zero_point
        zero = 0 if dot.offset is None else zero_point - dot.offset
        rounding = Rounding(
            out, dot.group, words.together, quantization.input_scale, zero_point, zero
        )
        return cls(base.name, view, vectors, rounding)

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers of the input."""
        return self.view.buffers

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The buffer of packed words."""
        return (self.rounding.words,)

    def words_view(self) -> ChannelView:
        """View of the words, each as one channel."""
        words = self.rounding.words
        return view_of(words, words.blocks * words.lanes)

    def reads_all_of(self, buffer: Buffer) -> bool:
        """Whether the input is one whole buffer, vector after vector."""
        places = buffer.inner + buffer.block * np.arange(buffer.blocks)
        return self.view.buffers == (buffer,) and np.array_equal(self.vectors.offset_of, places)

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        sources = arena_offsets(self.view, self.vectors)
        fields: dict[str, CValue] = {
            "rounding": self.rounding.record(),
            "sources": store.add(int32(sources)),
            "in_row": self.view.row,
        }
        run = f"run_quantize_{self.rounding.format}"
        return [StepRecord(self.name, run, "quantize_layer", fields, len(sources))]


def pair_words(panels: FilterPanels, two_max: int) -> FilterPanels:
    """Order the words of every panel in pairs whose products can be summed in 16 bits.

    A word without a partner nearby gets one of weights 0.

    Args:
        panels: Words of four weights.
        two_max: See `DotProduct`.
    """
    columns, weights, starts = [], [], [0]
    width = panels.weights.shape[1]
    for low, high in zip(panels.starts[:-1].tolist(), panels.starts[1:].tolist(), strict=True):
        words = panels.weights[low:high]
        halves = words.view(np.int8).reshape(len(words), 2 * width, 2).astype(np.int16)
        # (words, 2 * halves): the largest sums of each half of a 32-bit lane, and the smallest
        sums = np.concatenate([np.maximum(sign * halves, 0).sum(axis=2) for sign in (1, -1)], 1)
        places: list[int] = []
        waiting = list(range(len(words)))
        while waiting:
            first = waiting.pop(0)
            near = waiting[:NEARBY]
            fits = np.flatnonzero((sums[first] + sums[near]).max(axis=1, initial=0) <= two_max)
            places += [first, waiting.pop(int(fits[0])) if len(fits) else -1]
        found = np.array(places, np.int64)
        weights.append(np.concatenate([words, np.zeros((1, width), words.dtype)])[found])
        alone = np.flatnonzero(found < 0)
        found[alone] = found[alone - 1]
        columns.append(panels.columns[low:high][found])
        starts.append(starts[-1] + len(found))
    return FilterPanels(
        np.concatenate(columns), np.array(starts, np.int32), np.concatenate(weights)
    )


@dataclass(eq=False)
class DotsStep(ColumnsStep):
    """Convolution that reads, of each group of filters, the words its column lists name."""

    words: ChannelWords = field(kw_only=True)  # where the channels are
    zero: int = field(kw_only=True)  # the number stored for 0
    two_max: int = field(kw_only=True)  # see `DotProduct`

    @property
    def number(self) -> str:
        """Its arithmetic, see `TileVariant`."""
        return self.words.number + ("by2" if self.turn == 2 else "")

    @cached_property
    def turn(self) -> int:
        """2 where so many words find a partner that it takes fewer instructions."""
        if not self.two_max:
            return 1
        panels = pack_panels(self._matrix(), self.choice.vectors * self.words.lanes)
        n_pairs = len(pair_words(panels, self.two_max).columns) // 2
        return 2 if n_pairs < WORTH_PAIRING * len(panels.columns) else 1

    def _panels(self, matrix: npt.NDArray[Any], width: int, order: Ints) -> FilterPanels:
        panels = pack_panels(matrix, width, order)
        return pair_words(panels, self.two_max) if self.turn == 2 else panels

    def _matrix(self) -> npt.NDArray[Any]:
        return self.words.pack(self._quantization.integers[self.order]).reshape(len(self.order), -1)

    @property
    def _quantization(self) -> LayerQuantization:
        assert self.problem.quantization
        return self.problem.quantization

    def _terms(self, filters: slice, width: int) -> npt.NDArray[np.generic]:
        """First number, scale and bias of every filter: (panels, 3, width) words."""
        chosen = self.order[filters]
        integers = self._quantization.integers[chosen].astype(np.int64)
        first = -self.zero * integers.sum(axis=(1, 2, 3))
        scales = self._quantization.scales[chosen] * np.float32(self._quantization.input_scale)
        terms = (first.astype(np.int32), scales.view(np.int32), self.bias[chosen].view(np.int32))
        panels = [pad_filters(term, width).reshape(-1, width) for term in terms]
        return np.stack(panels, axis=1)
