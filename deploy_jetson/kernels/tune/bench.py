"""Times candidate kernels of one layer: a small library whose steps are the candidates."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy_jetson.kernels.compile.compilers import (
    compile_objects,
    find_compiler,
    link_library,
    source_files,
)
from deploy_jetson.kernels.compile.lower import NetworkPlan
from deploy_jetson.kernels.compile.scratch import write_scratch
from deploy_jetson.kernels.compile.source import (
    NETWORK,
    WEIGHTS,
    WEIGHTS_SOURCE,
    kernel_texts,
    write_plan,
)
from deploy_jetson.kernels.kinds.dots.step import QuantizeStep
from deploy_jetson.kernels.kinds.kind import Choice
from deploy_jetson.kernels.kinds.registry import kind_of
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.plan.memory import BufferLifetime, plan_memory
from deploy_jetson.kernels.plan.steps import ConvolutionStep, KernelStep, Step, Variant
from deploy_jetson.kernels.plan.tensors import Buffer, view_of
from deploy_jetson.kernels.targets import Target
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec

# Other load slows a core down for tenths of a second at a time: candidates run in turn, several
# times, and the minimum counts.
REPEATS = (5, 25)
REPEAT_SECONDS = 0.6


def candidate_steps(
    problem: LayerProblem, choices: Sequence[Choice], target: Target
) -> tuple[list[tuple[Step, ...]], int]:
    """The steps of every choice on a shared input and output, and the arena's floats."""
    lanes = 1 if problem.planar else target.lanes
    n_filters, n_inputs = problem.weight.shape[:2]
    source = Buffer(
        INPUT, -(-n_inputs // lanes), problem.in_height, problem.in_width, problem.padding, lanes
    )
    # A halo as the next 3x3 layer would want it: clearing it is part of the work.
    blocks = -(-n_filters // target.lanes)
    out = Buffer("out", blocks, problem.out_height, problem.out_width, 1, target.lanes)
    base = ConvolutionStep(
        problem, np.zeros(n_filters, np.float32), view_of(source, n_inputs), out,
        np.arange(n_filters),
    )  # fmt: skip
    steps = [kind_of(choice).steps(choice, base, target) for choice in choices]
    inner = {b for parts in steps for step in parts for b in step.writes if b is not out}
    buffers = [source, out, *sorted(inner, key=lambda b: b.floats)]
    floats = plan_memory([BufferLifetime(buffer, 0, 1) for buffer in buffers])
    return steps, floats


def records_of(step: Step, target: Target) -> int:
    """C records of a step of one choice."""
    return len(step.variants(target)) if isinstance(step, KernelStep) else 1


def _one_layer(problem: LayerProblem) -> NetworkSpec:
    """A network of the layer alone, for the library's descriptors."""
    n_filters, n_inputs, kernel, _ = problem.weight.shape
    layer = Conv("layer", (INPUT,), n_inputs, n_filters, kernel, problem.stride, problem.padding)
    size = InputSpec(n_inputs, problem.in_height, problem.in_width)
    return NetworkSpec("bench", size, (layer,), ("layer",), ())


class LayerBench:
    """Measures choices on this machine with one compiled set of kernels.

    Args:
        target: A target that runs here.
        variants: Every kernel any measured choice will call.
    """

    def __init__(self, target: Target, variants: Sequence[Variant]) -> None:
        self._target = target
        self._compiler = find_compiler(target)
        self._folder = tempfile.TemporaryDirectory(prefix="pneumonia-kernels-")
        self._count = 0
        folder = Path(self._folder.name)
        write_scratch(folder, kernel_texts(target, list(variants)))
        compile_objects(folder, source_files(folder), target, self._compiler)

    def close(self) -> None:
        """Remove the compiled files."""
        self._folder.cleanup()

    def seconds(self, problem: LayerProblem, choices: Sequence[Choice]) -> list[float]:
        """The shortest of several interleaved runs of every choice, in seconds.

        Without rounding the input, which in a network the convolution before does at its end.
        """
        steps, floats = candidate_steps(problem, choices, self._target)
        plan = NetworkPlan(
            _one_layer(problem),
            self._target,
            tuple(s for parts in steps for s in parts),
            {},
            {},
            floats,
        )
        sources = write_plan(plan, "")
        folder = Path(self._folder.name)
        changed = {name: sources.texts[name] for name in (NETWORK, WEIGHTS_SOURCE)}
        write_scratch(folder, {**changed, WEIGHTS: sources.weights})
        compile_objects(folder, list(changed), self._target, self._compiler)
        # The loader would return an already open library of the same name.
        self._count += 1
        library = folder / f"bench_{self._count}.so"
        link_library(folder, library, self._target, self._compiler)
        engine = KernelLibrary(str(library))
        image = np.zeros(engine.input_shape, np.float32)
        engine.profile(image)  # warms the caches
        runs: list[list[float]] = []
        while len(runs) < REPEATS[1]:
            runs.append([s for _, s in engine.profile(image)])
            if len(runs) >= REPEATS[0] and len(runs) * sum(runs[0]) > REPEAT_SECONDS:
                break
        engine.close()
        library.unlink()
        # A choice may be two records: full panels and the vectors of filters left over; or planes
        # and patterns.
        best = iter(np.min(runs, axis=0))
        seconds = []
        for parts in steps:
            of_step = [
                sum(next(best) for _ in range(records_of(step, self._target))) for step in parts
            ]
            timed = (
                s
                for s, step in zip(of_step, parts, strict=True)
                if not isinstance(step, QuantizeStep)
            )
            seconds.append(float(sum(timed)))
        return seconds
