"""Several channels side by side in one 32-bit word."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.dot_products import DotProduct
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.plan.tensors import Ints
from deploy_jetson.kernels.targets import Target

WORD_BITS = 32
QUANTIZE_CYCLES = 2.0  # to round one vector of activations at the end of the layer before


class ChannelWords(NamedTuple):
    """Which word holds a channel, and at which place in it.

    Neighbours of a vector share a word. The words of every vector are a block of their own, so that
    those of neighbouring pixels lie side by side; or a block holds `group` vectors, which makes its
    words a vector.
    """

    # block_of, lane_of: (I,) vector and lane of every channel
    block_of: Ints
    lane_of: Ints
    lanes: int  # channels of a vector
    group: int  # channels in a word
    together: int = 1  # vectors of a block: 1, or `group`

    @classmethod
    def natural(cls, channels: int, lanes: int, group: int) -> "ChannelWords":
        """Words that hold the channels in their order."""
        numbers = np.arange(channels, dtype=np.int64)
        return cls(numbers // lanes, numbers % lanes, lanes, group)

    @property
    def pixel(self) -> int:
        """Words of a block at one pixel."""
        return self.together * self.lanes // self.group

    @property
    def number(self) -> str:
        """Suffix of the arithmetic in engine.h."""
        return f"i8x{self.group}"

    @property
    def blocks(self) -> int:
        """Number of blocks of words."""
        return int(self.block_of.max()) // self.together + 1

    def pack(self, integers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
        """(O, I, K, K) weights of at most 32 / group bits as (O, words, K, K) int32.

        Absent channels are 0.
        """
        bits = WORD_BITS // self.group
        word_of = (self.block_of * self.lanes + self.lane_of) // self.group
        place_of = self.lane_of % self.group
        n_filters, _, *kernel = integers.shape
        words = np.zeros((n_filters, self.blocks * self.pixel, *kernel), np.uint32)
        for place in range(self.group):
            here = place_of == place
            part = integers[:, here].astype(np.int64) & ((1 << bits) - 1)
            words[:, word_of[here]] |= (part << (bits * place)).astype(np.uint32)
        return words.view(np.int32)


def exact_dots(problem: LayerProblem, target: Target) -> Iterator[DotProduct]:
    """The target's dot products whose sums are exact for the layer's whole numbers; often none."""
    if problem.quantization is None or problem.planar:
        return
    largest = int(np.abs(problem.quantization.integers.astype(np.int64)).max(initial=0))
    yield from (dot for dot in target.dots if largest <= dot.weight_max)


def dot_of(target: Target, group: int) -> DotProduct:
    """The target's dot product of words of `group` channels."""
    return next(dot for dot in target.dots if dot.group == group)


def layer_of_words(analysis: LayerAnalysis, target: Target, group: int) -> LayerAnalysis:
    """The layer whose input channels are 32-bit words of `group` channels each."""
    problem = analysis.problem
    assert problem.quantization
    integers = problem.quantization.integers

    def compute() -> LayerAnalysis:
        words = ChannelWords.natural(integers.shape[1], target.lanes, group)
        return LayerAnalysis(problem._replace(weight=words.pack(integers).astype("float32")))

    found: LayerAnalysis = analysis.once(("words", target.lanes, group), compute)
    return found


def set_product_rate(dot: DotProduct, target: Target) -> Target:
    """The target with the rate of these products in place of float multiply-adds."""
    return target._replace(fma_per_cycle=target.fma_per_cycle / dot.cost)


def rounding_cycles(analysis: LayerAnalysis, target: Target) -> float:
    """Cycles of rounding the layer's input."""
    problem = analysis.problem
    vectors = -(-int(problem.weight.shape[1]) // target.lanes)
    return QUANTIZE_CYCLES * vectors * problem.in_height * problem.in_width
