"""A folded network as ONNX, emitted node by node from the spec: opset 13, static shapes.

Opset 13 and the op list are what the ONNX parser of TensorRT 8.2 (JetPack 4.6, Jetson TX2) takes.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

from pneumonia import __version__
from pneumonia.exporting.onnx_nodes import Array, GatheredInput, OnnxNodes
from pneumonia.exporting.onnx_ops import emit_layer
from pneumonia.runtime.errors import DISCLAIMER, ExportError
from pneumonia.runtime.model.spec import INPUT, NetworkSpec

OPSET = 13
IR_VERSION = 7  # the one that came with opset 12 and 13; onnxruntime 1.10 on the device reads <= 8
ALLOWED_OPS = frozenset(
    (
        "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Div",
        "Elu", "Erf", "Gather", "GlobalAveragePool", "HardSigmoid", "Identity",
        "InstanceNormalization", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "ReduceMean",
        "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Softplus", "Sqrt", "Sub",
        "Tanh", "Transpose",
    )
)  # fmt: skip
CODED_OPS = frozenset(("DequantizeLinear",))  # of a graph whose weights are codes
MAX_PROTO_BYTES = 2**31 - 1


class OnnxGraph(NamedTuple):
    """An ONNX model and its convolutions that read only some of their input channels."""

    model: onnx.ModelProto
    gathered: tuple[GatheredInput, ...]


def emit_onnx(
    spec: NetworkSpec,
    tensors: Mapping[str, Array],
    batch: int = 1,
    coded: Collection[str] = (),
) -> OnnxGraph:
    """Write a network as an ONNX model.

    Args:
        spec: Batch norm folded.
        tensors: float32, named as `NamedTensors`.
        batch: The fixed number of images of the graph's input.
        coded: Layers whose weights are written as 8-bit codes and dequantized in the graph, where
            they are whole numbers times a scale per filter.

    Returns:
        The model: input `input` (batch, C, H, W), one output per `spec.outputs`.

    Raises:
        ExportError: A layer without an ONNX form, batch norm left, or more than 2 GB.
    """
    graph_nodes = OnnxNodes(spec, tensors, batch, coded)
    for layer in spec.layers:
        emit_layer(graph_nodes, layer)
    outputs = [graph_nodes.output(name) for name in spec.outputs]
    extents = [batch, *graph_nodes.shapes[INPUT]]
    graph = helper.make_graph(
        graph_nodes.nodes,
        spec.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, extents)],
        outputs,
        list(graph_nodes.initialisers.values()),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pneumonia",
        producer_version=__version__,
        doc_string=DISCLAIMER,
    )
    if model.ByteSize() > MAX_PROTO_BYTES:
        raise ExportError("Network is too large for one ONNX file", expected="< 2 GB")
    return OnnxGraph(model, tuple(graph_nodes.gathered))
