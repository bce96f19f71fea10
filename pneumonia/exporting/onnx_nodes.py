"""Nodes and constants of an ONNX graph while it is written."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pneumonia.runtime.engines import output_shape
from pneumonia.runtime.model.spec import INPUT, NetworkSpec

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


class OnnxNodes:
    """Collects nodes and initialisers; `value` maps a layer to the tensor that carries it."""

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Array], batch: int) -> None:
        self.spec = spec
        self.tensors = tensors
        self.batch = batch
        self.shapes = spec.shapes()
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, onnx.TensorProto] = {}
        self.value = {INPUT: INPUT}
        self.gathered: list[GatheredInput] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An initialiser; a name that is taken already stands for the same values."""
        if name not in self.initialisers:
            self.initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def numbers(self, name: str, *values: float) -> str:
        """A float32 initialiser of a scalar, or of a vector of several."""
        return self.constant(name, np.array(values if len(values) > 1 else values[0], np.float32))

    def integers(self, name: str, *values: int) -> str:
        """An int64 initialiser of a vector."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node, named as its output; returns the output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def reshape(self, x: str, output: str, *shape: int, key: str = "shape") -> str:
        """Reshape to (batch, *shape); `key` names the constant that holds the shape."""
        target = self.integers(f"{output}.{key}", self.batch, *shape)
        return self.node("Reshape", [x, target], output)

    def output(self, name: str) -> onnx.ValueInfoProto:
        """Let a value leave the graph under its layer's own name; flat values as (N, n)."""
        extents = list(self.shapes[name])
        value = self.value[name]
        if len(output_shape(self.spec, name)) == 1:
            extents = extents[:1]
            self._rename(name)
            self.reshape(self.value[name], name, *extents, key="flat_shape")
        elif value != name:
            self.node("Identity", [value], name)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.batch, *extents])

    def _rename(self, name: str) -> None:
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
