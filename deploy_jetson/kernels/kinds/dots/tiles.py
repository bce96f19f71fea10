"""The Winograd kernel on whole numbers: an int8 convolution in a quarter of the products.

B^T d of F(2,3) and F(4,3) is exact in 16 bits. G g G^T is not whole: at every position of a tile it
is rounded to 16 bits by a scale of its own per filter, the finest for which no sum of products can
leave 32 bits. What that rounding adds stays below the rounding of the weights to int8
(tests/deploy_jetson/kernels/kinds/test_dots.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.dots.step import QuantizeStep
from deploy_jetson.kernels.kinds.dots.words import (
    ChannelWords,
    dot_of,
    exact_dots,
    layer_of_words,
    rounding_cycles,
    set_product_rate,
)
from deploy_jetson.kernels.kinds.kind import KernelKind
from deploy_jetson.kernels.kinds.winograd import FAMILY, cost, describe
from deploy_jetson.kernels.kinds.winograd.choice import WinogradChoice
from deploy_jetson.kernels.kinds.winograd.matrices import transform_weights, winograd_matrices
from deploy_jetson.kernels.kinds.winograd.step import WinogradStep
from deploy_jetson.kernels.plan.filters import pad_filters
from deploy_jetson.kernels.plan.layer_problem import LayerQuantization, Weights
from deploy_jetson.kernels.plan.rounding import HIGHEST
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.plan.tensors import Ints, vectors_of
from deploy_jetson.kernels.targets import Target

PAIR = 2  # channels per word: 16 bits each
OUT_TILES = (2, 4)  # F(6,3) has no whole B^T and needs more than 16 bits
WEIGHT_MAX = 2**15 - 1
SUM_MAX = 2**31 - 1


class WinogradDotsChoice(NamedTuple):
    """The Winograd kernel's choice, on whole numbers."""

    # out_tile, pixels, vectors, block_tiles: see `WinogradChoice`
    out_tile: int
    pixels: int
    vectors: int
    block_tiles: int
    group: int  # channels in one word

    @property
    def winograd(self) -> WinogradChoice:
        """The choice of the Winograd kernel, whose channels are words."""
        return WinogradChoice(*self[:-1])


@dataclass(eq=False)
class WinogradDotsStep(WinogradStep):
    """3x3 convolution of stride 1 by tiles, on pairs of whole numbers."""

    words: ChannelWords = field(kw_only=True)  # where the channels are

    @property
    def number(self) -> str:
        """Its arithmetic, see `TileVariant`."""
        return self.words.number

    def _transformed(self, width: int) -> tuple[npt.NDArray[Any], Ints, Weights]:
        quantization = self.problem.quantization
        assert quantization
        integers = pad_filters(quantization.integers[self.order], width)
        rounded, steps = quantized_transform(integers, self.choice.out_tile, quantization)
        words = self.words.pack(rounded.transpose(1, 2, 0)[..., None])  # (O, words, positions, 1)
        live = np.flatnonzero((words != 0).any(axis=(0, 2, 3)))
        scales = pad_filters(quantization.scales[self.order], width)
        scales = (steps * scales * quantization.input_scale).astype(np.float32)
        return words[:, live].squeeze(3).transpose(2, 0, 1), live, scales


def quantized_transform(
    integers: npt.NDArray[np.int8], out_tile: int, quantization: LayerQuantization
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    """G g G^T rounded to 16 bits, by the finest scales for which all sums fit 32 bits.

    Args:
        integers: (O, I, 3, 3).
        out_tile: 2 or 4.
        quantization: Whose zero point bounds the activations.

    Returns:
        (positions, O, I) weights and (positions, O) their scales.
    """
    exact = transform_weights(integers, out_tile)
    rows = [float(sum(abs(value) for value in row)) for row in winograd_matrices(out_tile).input]
    zero_point = quantization.zero_point
    largest = np.outer(rows, rows).reshape(-1, 1) * max(zero_point, HIGHEST - zero_point)
    # Rounding may add a half to every weight.
    total = np.floor(SUM_MAX / largest) - exact.shape[2] / 2
    steps = np.maximum(np.abs(exact).sum(axis=2) / total, np.abs(exact).max(axis=2) / WEIGHT_MAX)
    steps[steps == 0] = 1
    return np.rint(exact / steps[..., None]).astype(np.int16), steps


def _candidates(analysis: LayerAnalysis, target: Target) -> Iterator[WinogradDotsChoice]:
    # Where all products are of 8 bits they are as many as Winograd saves.
    if PAIR not in {dot.group for dot in exact_dots(analysis.problem, target)}:
        return
    for choice in cost.candidates(layer_of_words(analysis, target, PAIR), target):
        if choice.out_tile in OUT_TILES:
            yield WinogradDotsChoice(*choice, PAIR)


def _cycles(analysis: LayerAnalysis, choice: WinogradDotsChoice, target: Target) -> float:
    words = layer_of_words(analysis, target, PAIR)
    products = cost.cycles(words, choice.winograd, set_product_rate(dot_of(target, PAIR), target))
    return rounding_cycles(analysis, target) + products


def _steps(choice: WinogradDotsChoice, base: ConvolutionStep, target: Target) -> tuple[Step, ...]:
    vectors = vectors_of(base.view, target.lanes)
    words = ChannelWords(vectors.block_of, vectors.lane_of, target.lanes, PAIR, together=PAIR)
    rounded = QuantizeStep.of(base, vectors, words, dot_of(target, PAIR))
    view = rounded.words_view()
    convolution = WinogradDotsStep(
        **{**vars(base), "view": view}, choice=choice.winograd, words=words,
        blocks=vectors_of(view, target.lanes),
    )  # fmt: skip
    return rounded, convolution


def _describe(choice: WinogradDotsChoice) -> str:
    return "int8 " + describe(choice.winograd)


KIND = KernelKind(
    "winograd_dots", WinogradDotsChoice, FAMILY, _candidates, _cycles, _steps,
    lambda choice: (choice.out_tile, choice.block_tiles), _describe,
)  # fmt: skip
