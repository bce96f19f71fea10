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
    quantized,
    random_tensors,
)
from tests.deploy_jetson.kernels.programs import darb, fully_connected


class KindCase(NamedTuple):
    """A network whose layer `tested` suits a kind.

    Attributes:
        spec: The network.
        keep: Prunes the layer's weight.
        golden: A choice for the golden C file of the kind's family; None: it has no file.
        limit: Relative error that its arithmetic is allowed against float32.
        input_range: What the layer reads, for the kinds that compute in int8.
    """

    spec: object
    keep: object
    golden: object = None
    limit: float = 1e-4
    input_range: object = None

    def tensors(self):
        tensors = random_tensors(self.spec)
        tensors["tested.weight"] = self.keep(tensors["tested.weight"])
        return tensors

    def problem(self):
        found = problems_of(self.spec, self.tensors(), quantization=self.quantization())
        return found["tested"]

    def quantization(self):
        if self.input_range is None:
            return None
        return {"tested": quantized(self.tensors()["tested.weight"], self.input_range)}


LAYER = one_layer((17, 35, 7, 11), skip=True)
SMALL = one_layer((9, 16, 5, 5))
CASES = {
    "columns": KindCase(LAYER, lambda weight: keep_columns(weight, 0.4, 16)),
    "winograd": KindCase(LAYER, lambda weight: weight),
    "pattern": KindCase(LAYER, lambda weight: keep_patterns(weight, 0.9)),
    "taps": KindCase(LAYER, lambda weight: keep_some(weight, 0.5)),
    "rows": KindCase(fully_connected(37), darb),
    "dots": KindCase(
        LAYER, lambda weight: keep_columns(weight, 0.4, 16), limit=0.03, input_range=(0, 10)
    ),
    "winograd_dots": KindCase(LAYER, lambda weight: weight, limit=0.03, input_range=(0, 10)),
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


def legal_choices(kind, target):
    """All candidates of a kind for the layer `tested`."""
    problem = CASES[kind].problem()
    return list(KINDS[kind].candidates(LayerAnalysis(problem), target))
