"""The `torch.fx` graph and the modules of a plain torch module while it is written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from pneumonia.network.module import Network
from pneumonia.network.torch_import import layouts
from pneumonia.network.torch_import.imported import ImportedNetwork
from pneumonia.network.torch_import.layouts import Dim, map_dims, size_of
from pneumonia.runtime.model.layers import LEAKY_SLOPE, Shape
from pneumonia.runtime.model.spec import INPUT, output_shape

MODULES: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "elu": nn.ELU,
    "mish": nn.Mish,
}


class GraphWriter:
    """The graph under construction; every value is (N, C, H, W).

    Attributes:
        network: The network that is written.
        spec: Its description.
        shapes: Layer (or `input`) -> (C, H, W).
        root: Holds the modules.
        graph: Calls them.
        values: Layer (or `input`) -> node of its value.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.spec = network, network.spec
        self.shapes = network.spec.shapes()
        self.root, self.graph = nn.Module(), fx.Graph()
        self.interface = network.interface if isinstance(network, ImportedNetwork) else None
        self.made: dict[str, str] = {}  # layer and role -> path of its module
        x = self.graph.placeholder("x")
        dims = self.interface.input_dims if self.interface else ()
        self.values = {INPUT: self.from_layout(x, dims, self.shapes[INPUT]) if dims else x}

    # --- pieces ---------------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A node that calls a function."""
        return self.graph.call_function(function, args, kwargs)

    def method(self, name: str, node: fx.Node, *args: Any) -> fx.Node:
        """A node that calls a tensor's method."""
        return self.graph.call_method(name, (node, *args))

    def module(
        self, layer: str, role: str, make: Callable[[], nn.Module], *nodes: fx.Node
    ) -> fx.Node:
        """Call the module of a layer's role, made at its first use."""
        key = f"{layer}/{role}"
        if key not in self.made:
            self.made[key] = self._path(layer, role)
            self._place(self.made[key], make())
        return self.graph.call_module(self.made[key], nodes)

    def _path(self, layer: str, role: str) -> str:
        names = self.interface.names.get(layer, {}) if self.interface else {}
        path = names.get(role, layer if role == "layer" else f"{layer}_{role}")
        taken = set(self.made.values())
        others = [*self.shapes, *(name for found in self._names() for name in found.values())]
        if any(other.startswith(path + ".") for other in others):
            path = f"{path}.{role}"  # a module that has others inside
        while path in taken:
            path += "_"
        return path

    def _names(self) -> Sequence[Mapping[str, str]]:
        return list(self.interface.names.values()) if self.interface else []

    def _place(self, path: str, module: nn.Module) -> None:
        parent = self.root
        *folders, last = path.split(".")
        for folder in folders:
            if not hasattr(parent, folder):
                parent.add_module(folder, nn.Module())
            parent = getattr(parent, folder)
        parent.add_module(last, module)

    def tensors(self, layer: str, **parts: str) -> dict[str, torch.Tensor]:
        """Copies of a layer's tensors by their names in a torch module."""
        held = self.network.block(layer).parts()
        return {name: held[part].detach().clone() for name, part in parts.items() if part in held}

    def activated(self, layer: str, activation: str, node: fx.Node) -> fx.Node:
        """The value after a layer's activation."""
        if activation == "linear":
            return node
        return self.module(layer, "activation", MODULES[activation], node)

    # --- layouts --------------------------------------------------------------------------------

    def from_layout(self, node: fx.Node, dims: Sequence[Dim], shape: Shape) -> fx.Node:
        """(N, C, H, W) from a value that lies as `dims` says."""
        if tuple(dims) == map_dims(size_of(dims[0]), shape, 4):
            return node
        return self._recorded(layouts.from_layout, node, dims, shape)

    def to_layout(self, node: fx.Node, dims: Sequence[Dim], shape: Shape) -> fx.Node:
        """A value (N, C, H, W) laid out as `dims` says."""
        if tuple(dims) == map_dims(size_of(dims[0]), shape, 4):
            return node
        return self._recorded(layouts.to_layout, node, dims)

    def _recorded(self, function: Callable[..., Any], node: fx.Node, *args: Any) -> fx.Node:
        """The nodes of what a function does with a tensor."""
        made: fx.Node = function(fx.Proxy(node), *args).node
        return made

    def finish(self) -> None:
        """Add the output, in the structure of the original."""
        if self.interface is None:
            flat = []
            for name in self.spec.outputs:
                whole = len(output_shape(self.spec, name)) > 1
                value = self.values[name]
                flat.append(value if whole else self.method("flatten", value, 1))
            self.graph.output(flat[0] if len(flat) == 1 else tuple(flat))
            return
        flat = [
            self.to_layout(self.values[view.layer], view.dims, self.shapes[view.layer])
            for view in self.interface.outputs
        ]
        self.graph.output(pytree.tree_unflatten(flat, self.interface.structure))
