"""Number of parameters, the oracle of several tests."""

import math

from pneumonia.runtime.model.spec import STATISTICS, NetworkSpec, tensor_shapes


def parameter_count(spec: NetworkSpec) -> int:
    """Trainable parameters of the dense network; batch-norm statistics do not count."""
    shapes = tensor_shapes(spec).items()
    return sum(math.prod(shape) for name, shape in shapes if not name.endswith(STATISTICS))
