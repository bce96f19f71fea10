"""Nodes and constants of an ONNX graph while it is written."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pneumonia.runtime.model.spec import INPUT, NetworkSpec, output_shape
from pneumonia.runtime.storage.sparse_layouts import LayoutError
from pneumonia.runtime.storage.value_codes import level_numbers

Array = NDArray[np.float32]
MAX_CODE = 127


class GatheredInput(NamedTuple):
    """A convolution that reads only the channels in which it keeps a column."""

    layer: str  # its name
    n_channels: int  # channels of its input
    n_alive: int  # channels it reads


class FilterCodes(NamedTuple):
    """A weight as whole numbers times scales."""

    codes: NDArray[np.int8]  # int8, shaped like the weight
    scales: Array  # float32 (O,)


def int8_codes(weight: Array) -> FilterCodes | None:
    """Codes of a weight (O, ...) of at most 8-bit levels; None where it has no such codes."""
    try:
        (found,) = level_numbers(weight.reshape(len(weight), -1), "scaled")
    except LayoutError:
        return None
    whole = np.concatenate([[0], found.table[0]])[found.numbers]
    if found.scales is None or np.abs(whole).max() > MAX_CODE:
        return None
    return FilterCodes(whole.astype(np.int8).reshape(weight.shape), found.scales.astype(np.float32))


class OnnxNodes:
    """Collects nodes and initialisers; `value` maps a layer to the tensor that carries it."""

    def __init__(
        self,
        spec: NetworkSpec,
        tensors: Mapping[str, Array],
        batch: int,
        coded: Collection[str] = (),
    ) -> None:
        self.spec = spec
        self.tensors = tensors
        self.batch = batch
        self.coded = coded
        self.shapes = spec.shapes()
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, onnx.TensorProto] = {}
        self.value = {INPUT: INPUT}
        self.gathered: list[GatheredInput] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add an initialiser unless its name exists: the same name always means the same values."""
        if name not in self.initialisers:
            self.initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def filters(self, layer: str, weight: Array) -> str:
        """The weight (O, I, KH, KW) of a layer; of coded layers as 8-bit codes times scales.

        Codes are int8, with one float32 scale per filter and no zero point; filters that are not
        whole numbers up to 127 times a scale stay float32.
        """
        name = layer + ".weight"
        codes = int8_codes(weight) if layer in self.coded else None
        if codes is None:
            return self.constant(name, weight)
        scales = self.constant(name + "/scales", codes.scales)
        return self.node(
            "DequantizeLinear", [self.constant(name + "/codes", codes.codes), scales], name, axis=0
        )

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
