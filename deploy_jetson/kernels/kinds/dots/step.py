"""The steps of the int8 kernel: activations to whole numbers, and the convolution of those."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.compile.targets import DotProduct, Target
from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice
from deploy_jetson.kernels.kinds.columns.step import ColumnsStep
from deploy_jetson.kernels.kinds.dots.words import ChannelWords
from deploy_jetson.kernels.plan.c_values import CValue
from deploy_jetson.kernels.plan.filters import pad_filters
from deploy_jetson.kernels.plan.layer_problem import LayerQuantization
from deploy_jetson.kernels.plan.steps import ConvolutionStep, StepRecord, blocked
from deploy_jetson.kernels.plan.tensors import (
    Buffer,
    ChannelVectors,
    ChannelView,
    arena_offsets,
    int32,
    view_of,
)
from deploy_jetson.kernels.plan.weight_store import WeightStore

HIGHEST = 255  # of a uint8 activation


class DotsChoice(NamedTuple):
    """The column kernel's choice, on whole numbers.

    Attributes:
        pixels, vectors, rows_per_unit, piece_bytes, strip_pixels: See `ColumnsChoice`.
        group: Channels in one word.
    """

    pixels: int
    vectors: int
    rows_per_unit: int
    piece_bytes: int
    strip_pixels: int
    group: int

    @property
    def columns(self) -> ColumnsChoice:
        """The choice of the column kernel, whose columns are words."""
        return ColumnsChoice(*self[:-1])


@dataclass(eq=False)
class QuantizeStep:
    """Rounds a layer's input to whole numbers, several channels in one word.

    Attributes:
        name: Layer that reads them.
        view: The input.
        vectors: The same as whole vectors.
        out: Words.
        quantization: Scale and zero point.
        zero: The number stored for 0.
        group: Channels in one word.
    """

    name: str
    view: ChannelView
    vectors: ChannelVectors
    out: Buffer
    quantization: LayerQuantization
    zero: int
    group: int

    @classmethod
    def of(
        cls, base: ConvolutionStep, vectors: ChannelVectors, words: ChannelWords, dot: DotProduct
    ) -> "QuantizeStep":
        """The step in front of a convolution."""
        quantization = base.problem.quantization
        assert quantization
        view, padding = base.view, base.problem.padding
        out = Buffer(base.name, words.blocks, view.height, view.width, padding, words.lanes)
        zero = 0 if dot.offset is None else quantization.zero_point - dot.offset
        return cls(base.name, view, vectors, out, quantization, zero, dot.group)

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The input."""
        return self.view.buffers

    def words_view(self) -> ChannelView:
        """View of the packed input, each word as one channel."""
        return view_of(self.out, self.out.blocks * self.out.lanes)

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        sources = arena_offsets(self.view, self.vectors)
        zero_point = self.quantization.zero_point
        fields: dict[str, CValue] = {
            "out": blocked(self.out),
            "sources": store.add(int32(sources)),
            "n_sources": len(sources),
            "in_row": self.view.row,
            "inverse": float(np.float32(1) / np.float32(self.quantization.input_scale)),
            "lowest": float(-zero_point),
            "highest": float(HIGHEST - zero_point),
            "zero": self.zero,
        }
        run = f"run_quantize_{self.group}"
        return [StepRecord(self.name, run, "quantize_layer", fields, self.out.blocks)]


@dataclass(eq=False)
class DotsStep(ColumnsStep):
    """Convolution that reads, of each group of filters, the words its column lists name.

    Attributes:
        words: Where the channels are.
        zero: The number stored for 0.
    """

    words: ChannelWords = field(kw_only=True)
    zero: int = field(kw_only=True)

    @property
    def number(self) -> str:
        """Its arithmetic, see `ColumnsVariant`."""
        return self.words.number

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
