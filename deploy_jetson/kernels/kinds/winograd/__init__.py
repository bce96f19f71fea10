"""Winograd convolution F(m, 3): transforms across channel lanes, products by register tiles.

In the blocked layout one vector holds LANES channels of one pixel, so both transforms are plain
vector arithmetic. The products of one tile position are a small matrix product with the same
register tile as the column kernel. Channels come in pieces: the weights of one position, one panel
and one piece stay in the first-level cache while they run over all tiles of the block.
"""

from deploy_jetson.kernels.kinds.kind import KernelFamily, KernelKind
from deploy_jetson.kernels.kinds.winograd.choice import WinogradChoice
from deploy_jetson.kernels.kinds.winograd.cost import candidates, cycles
from deploy_jetson.kernels.kinds.winograd.step import WinogradStep
from deploy_jetson.kernels.kinds.winograd.transforms import template_context
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.plan.tensors import vectors_of
from deploy_jetson.kernels.targets import Target


def _steps(choice: WinogradChoice, base: ConvolutionStep, target: Target) -> tuple[Step, ...]:
    blocks = vectors_of(base.view, target.lanes)
    return (WinogradStep(**vars(base), choice=choice, blocks=blocks),)


def describe(choice: WinogradChoice) -> str:
    """Text of a choice in the report."""
    return f"winograd F({choice.out_tile},3) {choice.pixels}x{choice.vectors}"


FAMILY = KernelFamily("winograd", template_context)
KIND = KernelKind(
    "winograd", WinogradChoice, FAMILY, candidates, cycles, _steps,
    lambda choice: (choice.out_tile, choice.block_tiles), describe,
)  # fmt: skip
