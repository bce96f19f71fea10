"""Free patterns (PatDNN): pixels across lanes, a tile of rows in registers, lists per filter.

For one kernel (channel, pattern) a tile of `rows` x `vectors` accumulators needs each input vector
(row, shift) once: it is loaded and added to every output row whose tap it is. Wide unaligned loads
straddle cache lines and cost two; so wide vectors have sums for each column of the kernel (three
frames) and load aligned vectors only. The frames are shifted once, when they are added up.
"""

from typing import Any

from deploy_jetson.kernels.kinds.kind import KernelFamily, KernelKind
from deploy_jetson.kernels.kinds.patterns.choice import PatternChoice
from deploy_jetson.kernels.kinds.patterns.cost import candidates, cycles
from deploy_jetson.kernels.kinds.patterns.packing import count_loads
from deploy_jetson.kernels.kinds.patterns.step import steps
from deploy_jetson.kernels.kinds.patterns.tiles import template_context
from deploy_jetson.kernels.plan.layer_problem import LayerProblem


def _describe(choice: PatternChoice) -> str:
    frames = f", {choice.frames} frames" if choice.frames > 1 else ""
    return f"pattern {choice.rows}x{choice.vectors}x{choice.filters}{frames}"


def _details(problem: LayerProblem, choice: PatternChoice) -> dict[str, Any]:
    plain, reused = count_loads(problem, choice.rows, choice.filters, choice.frames)
    return {"loads": {"plain": plain, "reused": reused}}


FAMILY = KernelFamily("patterns", template_context)
KIND = KernelKind(
    "pattern", PatternChoice, FAMILY, candidates, cycles, steps,
    lambda choice: (choice.frames, choice.cache_floats), _describe, _details,
)  # fmt: skip
