"""One layer for every kernel kind of the registry, pruned so that the kind applies."""

from typing import NamedTuple

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import KINDS
from deploy_jetson.kernels.plan.layer_problem import problems_of
from tests.deploy_jetson.kernels.networks import (
    PATTERNS,
    keep_columns,
    keep_patterns,
    keep_some,
    one_layer,
    random_tensors,
)
from tests.deploy_jetson.kernels.programs import darb, fully_connected


class KindCase(NamedTuple):
    """A network whose layer `tested` suits a kind.

    Attributes:
        spec: The network.
        keep: Prunes the layer's weight.
        golden: A choice for the golden C file of the kind's family; None: it has no file.
    """

    spec: object
    keep: object
    golden: object = None

    def tensors(self):
        tensors = random_tensors(self.spec)
        tensors["tested.weight"] = self.keep(tensors["tested.weight"])
        return tensors


LAYER = one_layer((17, 35, 7, 11), skip=True)
SMALL = one_layer((9, 16, 5, 5))
CASES = {
    "columns": KindCase(LAYER, lambda weight: keep_columns(weight, 0.4, 16)),
    "winograd": KindCase(LAYER, lambda weight: weight),
    "pattern": KindCase(LAYER, lambda weight: keep_patterns(weight, 0.9)),
    "taps": KindCase(LAYER, lambda weight: keep_some(weight, 0.5)),
    "rows": KindCase(fully_connected(37), darb),
}
# Kind -> the small layer and the choice of its golden C file; taps share the patterns' template.
GOLDEN_CASES = {
    "columns": KindCase(SMALL, lambda weight: keep_columns(weight, 0.5, 4), (3, 2, 5)),
    "winograd": KindCase(SMALL, lambda weight: weight, (2, 2, 1, 4)),
    "pattern": KindCase(
        SMALL, lambda weight: keep_patterns(weight, 0.5, patterns=PATTERNS[3:5]), (2, 1, 1, 3)
    ),
    "rows": KindCase(fully_connected(5), darb, (1,)),
}


def legal_choices(kind, spec, tensors, target):
    """All candidates of a kind for the layer `tested`."""
    problem = problems_of(spec, tensors)["tested"]
    return list(KINDS[kind].candidates(LayerAnalysis(problem), target))
