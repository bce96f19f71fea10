"""Interface of a kernel kind, used by the generator, the tuner, the report and the tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from deploy_jetson.kernels.compile.targets import Target
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step

Choice = tuple[int, ...]  # of every kind a NamedTuple of its own


class KernelFamily(NamedTuple):
    """C kernels written from one pair of templates, NAME/NAME.h.j2 and NAME/NAME.c.j2.

    Attributes:
        name: Folder in `kinds/`, and stem of the generated files.
        context: (variants of this family, target) -> the templates' values.
    """

    name: str
    context: Callable[[Sequence[Any], Target], Mapping[str, Any]]


def _no_details(problem: LayerProblem, choice: Any) -> dict[str, Any]:
    return {}


class KernelKind(NamedTuple):
    """One way to compute a layer.

    Attributes:
        name: In the tuning cache.
        choice: NamedTuple class of its choices.
        family: The C kernels it calls.
        candidates: Every legal choice for a layer, none where the kind does not apply.
        cycles: Cost model: cycles of the layer on one core.
        steps: The steps of a choice; the last one is the convolution.
        tuning_group: The tuner measures some choices of every group.
        describe: Text of a choice in the report.
        details: Further entries of the layer's record in the report.
    """

    name: str
    choice: type[Any]
    family: KernelFamily
    candidates: Callable[[LayerAnalysis, Target], Iterator[Choice]]
    cycles: Callable[[LayerAnalysis, Any, Target], float]
    steps: Callable[[Any, ConvolutionStep, Target], tuple[Step, ...]]
    tuning_group: Callable[[Any], tuple[int, ...]]
    describe: Callable[[Any], str]
    details: Callable[[LayerProblem, Any], dict[str, Any]] = _no_details
