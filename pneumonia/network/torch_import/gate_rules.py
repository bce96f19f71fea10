"""Activations that are several layers of a description: GLU and PReLU."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.layouts import LayerView, size_of
from pneumonia.network.torch_import.view_rules import combine, parts_of
from pneumonia.runtime.model.layers import Activation, Multiply, Shortcut


def _glu(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    """The first half times the sigmoid of the second."""
    half = size_of(a.self.dims[a.dim]) // 2
    first, second = parts_of(b, a.self, a.dim, [half, half])
    gate = LayerView(b.add(Activation, [second.layer], "sigmoid"), second.dims)
    return combine(b, Multiply, [first, gate])


def _prelu(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    """relu(x) + weight (x - relu(x)), with one weight per channel or one for all."""
    positive = LayerView(b.add(Activation, [a.self.layer], "relu"), a.self.dims)
    negative = combine(b, Shortcut, [a.self, combine(b, Multiply, [positive, -1.0])])
    weight = a.weight.reshape(-1, *[1] * (len(a.self.dims) - 2))
    return combine(b, Shortcut, [positive, combine(b, Multiply, [negative, weight])])


GATE_RULES: dict[str, Callable[[SpecBuilder, SimpleNamespace], Any]] = {
    "glu": _glu,
    "prelu": _prelu,
}
