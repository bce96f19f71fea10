"""Reads the integers, scales and activation ranges of an int8 bundle from its model.onnx."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from deploy_jetson.kernels.plan.layer_problem import LayerQuantization
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes

DEQUANTIZE = "DequantizeLinear"
WEIGHT = ".weight_quantized"


def read_quantization(model: Path, spec: NetworkSpec) -> dict[str, LayerQuantization]:
    """The int8 convolutions of a QDQ file as `pneumonia quantize` writes it.

    Where the file gathers the input channels that a pruned layer reads, the weights of the other
    channels are 0.

    Args:
        model: ONNX file: weights int8 per filter, activations uint8 per tensor.
        spec: The network that the file computes.

    Returns:
        Layer name -> its (O, I, K, K) integers and scales; convolutions that stay float are absent.

    Raises:
        ArtefactError: The file has no int8 convolution, or one of another shape than `spec` says.
    """
    graph = onnx.load(str(model)).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    shapes = tensor_shapes(spec)
    found = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        value, weight = (makers.get(name) for name in node.input[:2])
        if value is None or weight is None or weight.op_type != DEQUANTIZE:
            continue
        if value.op_type != DEQUANTIZE or not weight.input[0].endswith(WEIGHT):
            continue
        name = weight.input[0].removesuffix(WEIGHT)
        input_scale, zero_point = (constants[part] for part in value.input[1:3])
        integers, scales = (constants[part] for part in weight.input[:2])
        expected = shapes.get(f"{name}.weight")
        channels = constants.get(f"{name}.channels")
        if expected and channels is not None and channels.max() < expected[1]:
            integers = _ungathered(integers, channels, expected[1])
        if not expected or integers.shape[: len(expected)] != expected:
            raise ArtefactError(
                "int8 weights do not fit the network",
                f"shape {expected}" if expected else "no such layer", f"shape {integers.shape}",
                f"{model}, layer {name!r}", "Make the bundle with pneumonia quantize --int8 again",
            )  # fmt: skip
        found[name] = LayerQuantization(
            integers, scales.astype(np.float32).ravel(), float(input_scale), int(zero_point)
        )
    if not found:
        raise ArtefactError(
            "No int8 convolution in the model", "pairs of QuantizeLinear and DequantizeLinear",
            "none", str(model), "Make the bundle with pneumonia quantize --int8 again",
        )  # fmt: skip
    return found


def _ungathered(
    integers: npt.NDArray[np.int8], channels: npt.NDArray[np.integer[Any]], n_inputs: int
) -> npt.NDArray[np.int8]:
    """(O, len(channels), K, K) weights of some input channels as (O, n_inputs, K, K)."""
    whole = np.zeros((len(integers), n_inputs, *integers.shape[2:]), np.int8)
    whole[:, channels] = integers
    return whole
