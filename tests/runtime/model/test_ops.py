"""Every op has an entry in every table of its executors."""

import pytest

from pneumonia.compression.compact.constants import RULES
from pneumonia.compression.compact.tracing import TRACE
from pneumonia.exporting.onnx_ops import ACTIVATIONS as ONNX_ACTIVATIONS
from pneumonia.exporting.onnx_ops import EMIT
from pneumonia.network.blocks import BLOCKS, FUNCTIONS
from pneumonia.network.blocks import RUN as TORCH_RUN
from pneumonia.network.to_torch import MODULES, WRITE
from pneumonia.runtime.engines.numpy_ops import FUNCTIONS as NUMPY_FUNCTIONS
from pneumonia.runtime.engines.numpy_ops import RUN as NUMPY_RUN
from pneumonia.runtime.model.layers import ACTIVATIONS, Opaque, Reuse
from pneumonia.runtime.model.ops import OPS

RECORDS = {op.record for op in OPS.values()} - {Reuse}  # a repetition is what it repeats


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        ({OPS[name].record for name in NUMPY_RUN}, set()),
        (set(TORCH_RUN) | set(BLOCKS), {Opaque}),  # the module itself
        (set(EMIT), {Opaque}),  # refused by name
        (set(WRITE), set()),
        (set(TRACE), set()),
        (set(RULES), set()),
    ],
    ids=["numpy", "torch", "onnx", "to_torch", "coupling", "constants"],
)
def test_no_op_is_forgotten(table, missing):
    assert RECORDS - table == missing
    assert table <= RECORDS


def test_no_activation_is_forgotten():
    assert set(ACTIVATIONS) == set(NUMPY_FUNCTIONS) == set(FUNCTIONS)
    curved = set(ACTIVATIONS) - {"linear"}
    assert set(ONNX_ACTIVATIONS) == set(MODULES) == curved
