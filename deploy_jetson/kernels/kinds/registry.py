"""The one table of kernel kinds: generator, tuner, report, tests and benchmarks all read it."""

from collections.abc import Iterator, Mapping

from deploy_jetson.kernels.kinds import columns, dots, patterns, rows, taps, winograd
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.dots import tiles
from deploy_jetson.kernels.kinds.kind import Choice, KernelFamily, KernelKind
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.targets import Target

# In the order in which candidates are offered: of equal ones the first is taken.
KINDS: Mapping[str, KernelKind] = {
    kind.name: kind
    for kind in (
        columns.KIND,
        winograd.KIND,
        patterns.KIND,
        taps.KIND,
        rows.KIND,
        dots.KIND,
        tiles.KIND,
    )
}
FAMILIES: Mapping[str, KernelFamily] = {kind.family.name: kind.family for kind in KINDS.values()}
_KIND_OF = {kind.choice: kind for kind in KINDS.values()}


def kind_of(choice: Choice) -> KernelKind:
    """The kind a choice belongs to."""
    return _KIND_OF[type(choice)]


def candidates(analysis: LayerAnalysis, target: Target) -> Iterator[Choice]:
    """Every legal choice for a layer, of all kinds."""
    for kind in KINDS.values():
        yield from kind.candidates(analysis, target)


def predicted_cycles(analysis: LayerAnalysis, choice: Choice, target: Target) -> float:
    """Cycles of a layer on one core, by the kind's cost model."""
    return kind_of(choice).cycles(analysis, choice, target)


def cheapest(problem: LayerProblem, target: Target) -> Choice:
    """The choice with the fewest predicted cycles; of equal ones the first."""
    analysis = LayerAnalysis(problem)
    return min(candidates(analysis, target), key=lambda c: predicted_cycles(analysis, c, target))
