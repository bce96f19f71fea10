"""A folded network as ONNX, emitted node by node from the spec: opset 13, static shapes.

Opset 13 and the op list are what the ONNX parser of TensorRT 8.2 (JetPack 4.6, Jetson TX2) takes.
Inside, every value is (N, C, H, W); a fully connected layer is a 1 x 1 convolution of (N, n, 1, 1).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pneumonia import __version__
from pneumonia.runtime.engines import output_shape
from pneumonia.runtime.errors import DISCLAIMER, ExportError
from pneumonia.runtime.model.spec import (
    INPUT,
    LEAKY_SLOPE,
    Conv,
    Detect,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    NetworkSpec,
    Route,
    Shape,
    Shortcut,
    Upsample,
)

OPSET = 13
IR_VERSION = 7  # the one that came with opset 12 and 13; onnxruntime 1.10 on the device reads <= 8
ALLOWED_OPS = frozenset(
    (
        "Add", "Concat", "Conv", "Gather", "GlobalAveragePool", "Identity", "LeakyRelu", "MaxPool",
        "Relu", "Reshape", "Resize",
    )
)  # fmt: skip
MAX_PROTO_BYTES = 2**31 - 1
Array = NDArray[np.float32]


class GatheredInput(NamedTuple):
    """A convolution that reads only the channels in which it keeps a column.

    Attributes:
        layer: Its name.
        n_channels: Channels of its input.
        n_alive: Channels it reads.
    """

    layer: str
    n_channels: int
    n_alive: int


class OnnxGraph(NamedTuple):
    """The model, and which convolutions got smaller by gathering their input channels."""

    model: onnx.ModelProto
    gathered: tuple[GatheredInput, ...]


class _Emitter:
    """Collects nodes and initialisers; `value` maps a layer to the tensor that carries it."""

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Array], batch: int) -> None:
        self.spec = spec
        self.tensors = tensors
        self.batch = batch
        self.shapes = spec.shapes()
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.value = {INPUT: INPUT}
        self.gathered: list[GatheredInput] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def activate(self, activation: str, x: str, output: str) -> str:
        if activation == "leaky_relu":
            return self.node("LeakyRelu", [x], output, alpha=LEAKY_SLOPE)
        if activation == "relu":
            return self.node("Relu", [x], output)
        assert x == output
        return output

    def emit(self, layer: Layer) -> None:
        sources = [self.value[name] for name in layer.inputs]
        if isinstance(layer, (Conv, Linear)):
            value = self.weighted(layer, sources[0])
        elif isinstance(layer, Shortcut):
            value = self.shortcut(layer, sources)
        elif isinstance(layer, Route):
            value = sources[0]
            if len(sources) > 1:
                value = self.node("Concat", sources, layer.name, axis=1)
        elif isinstance(layer, Detect):
            value = sources[0]
        else:
            value = self.resized(layer, sources[0])
        self.value[layer.name] = value

    def weighted(self, layer: Conv | Linear, x: str) -> str:
        if isinstance(layer, Conv) and layer.batch_norm:
            raise ExportError("Batch norm is not folded", where=f"layer {layer.name!r}")
        weight = self.tensors[layer.name + ".weight"]
        kernel, stride, padding = 1, 1, 0
        if isinstance(layer, Conv):
            kernel, stride, padding = layer.kernel, layer.stride, layer.padding
        weight = weight.reshape(layer.out_channels, layer.in_channels, kernel, kernel)
        x, weight = self.gather(layer, x, weight)
        inputs = [x, self.constant(layer.name + ".weight", weight)]
        if layer.bias:
            bias = self.tensors[layer.name + ".bias"]
            inputs.append(self.constant(layer.name + ".bias", bias))
        linear = layer.activation == "linear"
        output = layer.name if linear else layer.name + "/linear"
        self.node(
            "Conv",
            inputs,
            output,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[padding] * 4,
        )
        return self.activate(layer.activation, output, layer.name)

    def gather(self, layer: Conv | Linear, x: str, weight: Array) -> tuple[str, Array]:
        """Read only the channels with a kept column, when they are at most half.

        Then at least half of the multiply-accumulates go, for one copy of the channels kept.
        """
        if layer.storage.format != "columns":
            return x, weight
        alive = np.flatnonzero((weight != 0).any(axis=(0, 2, 3)))
        if 2 * len(alive) > layer.in_channels or layer.in_channels == 1:
            return x, weight
        if not len(alive):
            alive = np.zeros(1, dtype=np.int64)  # an empty convolution is not valid ONNX
        indices = self.constant(layer.name + ".channels", alive.astype(np.int32))
        self.gathered.append(GatheredInput(layer.name, layer.in_channels, len(alive)))
        gathered = self.node("Gather", [x, indices], layer.name + "/gather", axis=1)
        return gathered, weight[:, alive]

    def shortcut(self, layer: Shortcut, sources: list[str]) -> str:
        value = sources[0]
        last = len(sources) - 1
        for i, source in enumerate(sources[1:], start=1):
            done = i == last and layer.activation == "linear"
            value = self.node("Add", [value, source], layer.name if done else f"{layer.name}/{i}")
        if layer.activation == "linear":
            return value
        return self.activate(layer.activation, value, layer.name)

    def resized(self, layer: Layer, x: str) -> str:
        if isinstance(layer, Upsample):
            scales = np.array([1, 1, layer.scale, layer.scale], dtype=np.float32)
            return self.node(
                "Resize",
                [x, "", self.constant(layer.name + ".scales", scales)],
                layer.name,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        if isinstance(layer, MaxPool):
            return self.node(
                "MaxPool",
                [x],
                layer.name,
                kernel_shape=[layer.kernel] * 2,
                strides=[layer.stride] * 2,
                pads=[layer.pad_begin, layer.pad_begin, layer.pad_end, layer.pad_end],
            )
        if isinstance(layer, GlobalAvgPool):
            return self.node("GlobalAveragePool", [x], layer.name)
        if isinstance(layer, Flatten):
            extents = [self.batch, *self.shapes[layer.name]]
            return self.reshape(x, layer.name, extents, layer.name + ".shape")
        raise ExportError(
            "Layer has no ONNX form", found=type(layer).__name__, where=f"layer {layer.name!r}"
        )

    def reshape(self, x: str, output: str, shape: list[int], constant: str) -> str:
        target = self.constant(constant, np.array(shape, dtype=np.int64))
        return self.node("Reshape", [x, target], output)

    def output(self, name: str) -> onnx.ValueInfoProto:
        """Let a value leave the graph under its layer's own name; flat values as (N, n)."""
        shape: Shape = self.shapes[name]
        extents = [self.batch, *shape]
        value = self.value[name]
        if len(output_shape(self.spec, name)) == 1:
            extents = extents[:2]
            self.rename(name)
            self.reshape(self.value[name], name, extents, name + ".flat_shape")
        elif value != name:
            self.node("Identity", [value], name)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, extents)

    def rename(self, name: str) -> None:
        """Free a layer's name for the flat output made from its 4-D value."""
        inner = name + "/4d"
        for node in self.nodes:
            if node.name == name:
                node.name = inner
            for fields in (node.input, node.output):
                for i, field in enumerate(fields):
                    if field == name:
                        fields[i] = inner
        self.value = {key: inner if value == name else value for key, value in self.value.items()}


def emit_onnx(spec: NetworkSpec, tensors: Mapping[str, Array], batch: int = 1) -> OnnxGraph:
    """Write a network as an ONNX model.

    Args:
        spec: Batch norm folded.
        tensors: Dense float32, named as `runtime.model.spec.tensor_shapes`.
        batch: The fixed number of images of the graph's input.

    Returns:
        The model: input `input` (batch, C, H, W), one output per `spec.outputs`.

    Raises:
        ExportError: A layer without an ONNX form, batch norm left, or more than 2 GB.
    """
    emitter = _Emitter(spec, tensors, batch)
    for layer in spec.layers:
        emitter.emit(layer)
    outputs = [emitter.output(name) for name in spec.outputs]
    extents = [batch, *emitter.shapes[INPUT]]
    graph = helper.make_graph(
        emitter.nodes,
        spec.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, extents)],
        outputs,
        emitter.initialisers,
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
    return OnnxGraph(model, tuple(emitter.gathered))
