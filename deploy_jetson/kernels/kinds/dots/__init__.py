"""The column kernel on whole numbers: an int8 convolution as sums of dot products.

Activations are rounded to the scale of calibration just before the layer, several channels in one
32-bit word; the lists of columns then name words. The sums are exact in 32 bits; each filter's
scale and bias turn them into float32, which is what other layers read.
"""

from collections.abc import Iterator

from deploy_jetson.kernels.compile.targets import Target
from deploy_jetson.kernels.kinds import columns
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.columns import cost
from deploy_jetson.kernels.kinds.dots.step import DotsChoice, DotsStep, QuantizeStep
from deploy_jetson.kernels.kinds.dots.words import (
    ChannelWords,
    at_rate_of_dots,
    layer_of_words,
    rounding_cycles,
)
from deploy_jetson.kernels.kinds.kind import KernelKind
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.plan.tensors import vectors_of


def _candidates(analysis: LayerAnalysis, target: Target) -> Iterator[DotsChoice]:
    problem = analysis.problem
    if problem.quantization is None or target.dot is None or problem.planar:
        return
    for choice in cost.candidates(layer_of_words(analysis, target), target):
        yield DotsChoice(*choice, target.dot.group)


def _cycles(analysis: LayerAnalysis, choice: DotsChoice, target: Target) -> float:
    words = layer_of_words(analysis, target)
    products = cost.cycles(words, choice.columns, at_rate_of_dots(target))
    return rounding_cycles(analysis, target) + products


def _steps(choice: DotsChoice, base: ConvolutionStep, target: Target) -> tuple[Step, ...]:
    assert base.problem.quantization
    assert target.dot
    vectors = vectors_of(base.view, target.lanes)
    words = ChannelWords(vectors.block_of, vectors.lane_of, target.lanes, target.dot.group)
    rounded = QuantizeStep.of(base, vectors, words, target.dot)
    convolution = DotsStep(
        **{**vars(base), "view": rounded.words_view()}, choice=choice.columns, words=words,
        zero=rounded.zero,
    )  # fmt: skip
    return rounded, convolution


def _tuning_group(choice: DotsChoice) -> tuple[int, ...]:
    return columns.KIND.tuning_group(choice.columns)


def _describe(choice: DotsChoice) -> str:
    return "int8 " + columns.KIND.describe(choice.columns)


KIND = KernelKind(
    "dots", DotsChoice, columns.FAMILY, _candidates, _cycles, _steps, _tuning_group,
    _describe,
)  # fmt: skip
