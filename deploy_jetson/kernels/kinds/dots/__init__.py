"""The column kernel on whole numbers: an int8 convolution as sums of dot products.

Activations are rounded to the scale of calibration, several channels in one 32-bit word, by the
convolution that makes them (`fold.py`) or in a step of its own; the lists of columns then name
words. The sums are exact in 32 bits; each filter's scale and bias turn them into float32, which is
what other layers read.
"""

from collections.abc import Iterator

from deploy_jetson.kernels.kinds import columns
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.columns import cost
from deploy_jetson.kernels.kinds.dots.step import DotsChoice, DotsStep, QuantizeStep
from deploy_jetson.kernels.kinds.dots.words import (
    ChannelWords,
    dot_of,
    exact_dots,
    layer_of_words,
    rounding_cycles,
    set_product_rate,
)
from deploy_jetson.kernels.kinds.kind import KernelKind
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.plan.tensors import vectors_of
from deploy_jetson.kernels.targets import Target


def _candidates(analysis: LayerAnalysis, target: Target) -> Iterator[DotsChoice]:
    for dot in exact_dots(analysis.problem, target):
        for choice in cost.candidates(layer_of_words(analysis, target, dot.group), target):
            yield DotsChoice(*choice, dot.group)


def _cycles(analysis: LayerAnalysis, choice: DotsChoice, target: Target) -> float:
    words = layer_of_words(analysis, target, choice.group)
    rate = set_product_rate(dot_of(target, choice.group), target)
    products = cost.cycles(words, choice.columns, rate)
    return rounding_cycles(analysis, target) + products


def _steps(choice: DotsChoice, base: ConvolutionStep, target: Target) -> tuple[Step, ...]:
    vectors = vectors_of(base.view, target.lanes)
    words = ChannelWords(vectors.block_of, vectors.lane_of, target.lanes, choice.group)
    rounded = QuantizeStep.of(base, vectors, words, dot_of(target, choice.group))
    convolution = DotsStep(
        **{**vars(base), "view": rounded.words_view()}, choice=choice.columns, words=words,
        zero=rounded.rounding.zero, two_max=dot_of(target, choice.group).two_max,
    )  # fmt: skip
    return rounded, convolution


def _tuning_group(choice: DotsChoice) -> tuple[int, ...]:
    return choice.group, *columns.KIND.tuning_group(choice.columns)


def _describe(choice: DotsChoice) -> str:
    return f"int8x{choice.group} {columns.KIND.describe(choice.columns)}"


KIND = KernelKind(
    "dots", DotsChoice, columns.FAMILY, _candidates, _cycles, _steps, _tuning_group,
    _describe,
)  # fmt: skip
