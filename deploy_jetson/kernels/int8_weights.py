"""Reads the integers, scales and activation ranges of an int8 bundle from its model.onnx."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from deploy_jetson.kernels.plan.layer_problem import LayerQuantization
from pneumonia.runtime.errors import ArtefactError

DEQUANTIZE = "DequantizeLinear"
WEIGHT = ".weight_quantized"


def read_quantization(model: Path) -> dict[str, LayerQuantization]:
    """The int8 convolutions of a QDQ file as `pneumonia quantize` writes it.

    Args:
        model: ONNX file: weights int8 per filter, activations uint8 per tensor.

    Returns:
        Layer name -> its integers and scales; convolutions that stay float are absent.

    Raises:
        ArtefactError: The file has no int8 convolution.
    """
    graph = onnx.load(str(model)).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        value, weight = (makers.get(name) for name in node.input[:2])
        if value is None or weight is None or weight.op_type != DEQUANTIZE:
            continue
        if value.op_type != DEQUANTIZE or not weight.input[0].endswith(WEIGHT):
            continue
        input_scale, zero_point = (constants[name] for name in value.input[1:3])
        integers, scales = (constants[name] for name in weight.input[:2])
        found[weight.input[0].removesuffix(WEIGHT)] = LayerQuantization(
            integers, scales.astype(np.float32).ravel(), float(input_scale), int(zero_point)
        )
    if not found:
        raise ArtefactError(
            "No int8 convolution in the model", "pairs of QuantizeLinear and DequantizeLinear",
            "none", str(model), "Make the bundle with pneumonia quantize --int8 again",
        )  # fmt: skip
    return found
