"""Rounding by the convolution whose output is read, without a step of its own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from deploy_jetson.kernels.kinds.dots.step import QuantizeStep
from deploy_jetson.kernels.plan.rounding import Rounding
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.plan.tensors import Buffer


def fold_rounding(steps: Sequence[Step], kept: frozenset[Buffer]) -> list[Step]:
    """Let convolutions write their output as whole numbers, and as float only where that is read.

    A `QuantizeStep` stays where it reads several tensors, or one that a kernel wrote which cannot
    round, and for a tensor's second format: readers of one tensor may want different words.

    Args:
        kept: Buffers that must exist as float, for example the network's outputs.
    """
    readers = Counter(buffer for step in steps for buffer in set(step.reads))
    makers: dict[Buffer, ConvolutionStep] = {}  # by their float output
    rounding: dict[ConvolutionStep, Rounding] = {}
    remaining: list[Step] = []
    for step in steps:
        if isinstance(step, QuantizeStep):
            source = step.view.buffers[0]
            maker = makers.get(source)
            if maker and maker.may_round and maker not in rounding and step.reads_all_of(source):
                rounding[maker] = step.rounding
                readers[source] -= 1
                continue
        elif isinstance(step, ConvolutionStep):
            makers[step.out] = step
        remaining.append(step)
    return [
        replace(
            step,
            rounding=rounding[step],
            real=bool(readers[step.out]) or step.out in kept or step.needs_real,
        )
        if isinstance(step, ConvolutionStep) and step in rounding
        else step
        for step in remaining
    ]
