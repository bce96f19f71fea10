"""Single taps, for weights kept anywhere: the pattern kernel with patterns of one tap."""

from collections.abc import Iterator
from typing import NamedTuple

from deploy_jetson.kernels.kinds import patterns
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.kind import KernelKind
from deploy_jetson.kernels.kinds.patterns.choice import PatternChoice
from deploy_jetson.kernels.kinds.patterns.cost import band_tiles, frame_counts, list_cycles
from deploy_jetson.kernels.kinds.patterns.packing import single_taps
from deploy_jetson.kernels.kinds.patterns.step import list_steps
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.targets import Target


class TapsChoice(NamedTuple):
    """Register tile of `rows` x `vectors`; frames: see `PatternVariant`."""

    rows: int
    vectors: int
    frames: int

    @property
    def tile(self) -> PatternChoice:
        """The same register tile as the pattern kernel names it."""
        return PatternChoice(self.rows, self.vectors, 1, self.frames)


def candidates(analysis: LayerAnalysis, target: Target) -> Iterator[TapsChoice]:
    """Legal register tiles: 3x3 and 1x1 maps of stride 1 whose filters keep different weights."""
    problem = analysis.problem
    fits = problem.kernel in (1, 3) and problem.stride == 1 and not problem.planar
    if not fits or problem.padding != problem.kernel // 2 or problem.out_width == 1:
        return
    if not analysis.scattered(target.lanes):
        return
    for frames in frame_counts(target, problem.kernel):
        for rows, vectors in band_tiles(problem, target, frames, 1):
            yield TapsChoice(rows, vectors, frames)


def cycles(analysis: LayerAnalysis, choice: TapsChoice, target: Target) -> float:
    """Cycles on one core: every tap loads its own input."""
    taps = int(analysis.kept_of_filter.sum())
    loads = taps * choice.rows
    return list_cycles(analysis, choice.tile, target, (loads, loads, taps))


def _steps(choice: TapsChoice, base: ConvolutionStep, target: Target) -> tuple[Step, ...]:
    return list_steps(choice.tile, base, target, single_taps(base.problem.kernel))


def _describe(choice: TapsChoice) -> str:
    frames = f", {choice.frames} frames" if choice.frames > 1 else ""
    return f"taps {choice.rows}x{choice.vectors}{frames}"


KIND = KernelKind(
    "taps", TapsChoice, patterns.FAMILY, candidates, cycles, _steps,
    lambda choice: (choice.frames,), _describe,
)  # fmt: skip
