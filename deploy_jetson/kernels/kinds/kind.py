"""Interface of a kernel kind, used by the generator, the tuner, the report and the tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.targets import Target

Choice = tuple[int, ...]  # of every kind a NamedTuple of its own


class KernelFamily(NamedTuple):
    """C kernels written from one pair of templates, NAME/NAME.h.j2 and NAME/NAME.c.j2."""

    name: str  # folder in `kinds/`, and stem of the generated files
    # (variants of this family, target) -> the templates' values
    context: Callable[[Sequence[Any], Target], Mapping[str, Any]]


def _no_details(problem: LayerProblem, choice: Any) -> dict[str, Any]:
    return {}


class KernelKind(NamedTuple):
    """One way to compute a layer."""

    name: str  # in the tuning cache
    choice: type[Any]  # NamedTuple class of its choices
    family: KernelFamily  # the C kernels it calls
    # every legal choice for a layer, none where the kind does not apply
    candidates: Callable[[LayerAnalysis, Target], Iterator[Choice]]
    # cost model: cycles of the layer on one core
    cycles: Callable[[LayerAnalysis, Any, Target], float]
    # the steps of a choice; the last one is the convolution
    steps: Callable[[Any, ConvolutionStep, Target], tuple[Step, ...]]
    tuning_group: Callable[[Any], tuple[int, ...]]  # the tuner measures some choices of every group
    describe: Callable[[Any], str]  # text of a choice in the report
    # further entries of the layer's record in the report
    details: Callable[[LayerProblem, Any], dict[str, Any]] = _no_details
