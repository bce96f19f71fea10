"""The description under construction: layers, their tensors, and views that ops can read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia.network.torch_import.layouts import (
    AxisFactor,
    Dim,
    LayerView,
    NotUnderstoodError,
    all_of,
    map_dims,
    merged,
    size_of,
)
from pneumonia.runtime.model.layers import Constant, Flatten, Layer, Reshape, Reuse, Select, Shape
from pneumonia.runtime.model.ops import layer_shape
from pneumonia.runtime.model.spec import INPUT


class SpecBuilder:
    """Layers so far.

    Attributes:
        batch: Images of the example.
        path: Module path that the next layers are named after.
        layers: By name, in execution order.
        shapes: Layer (or `input`) -> (C, H, W).
        tensors: As in `network.module.NamedTensors`.
        modules: Torch modules of opaque layers by their paths.
        paths: Layer -> path of the module that it came from.
    """

    def __init__(self, shape: Shape, batch: int, parameters: Mapping[str, Tensor]) -> None:
        self.batch = batch
        self._parameter_names = {_memory(t): name for name, t in parameters.items()}
        self.path = ""
        self.layers: dict[str, Layer] = {}
        self.shapes: dict[str, Shape] = {INPUT: shape}
        self.tensors: dict[str, Tensor] = {}
        self.modules: dict[str, nn.Module] = {}
        self.paths: dict[str, str] = {}
        self._owners: dict[tuple[object, ...], str] = {}  # parameters and settings -> layer
        self._parameters: list[Tensor] = []
        self._numbers: Counter[str] = Counter()

    # --- layers ---------------------------------------------------------------------------------

    def name(self, record: type, own: bool, tensor: Tensor | None = None) -> str:
        """A free name: the module's path, with the op where the module has other layers.

        Args:
            record: The layer's class.
            own: Whether the module is this layer, and no more.
            tensor: A parameter of the layer: then its name in the module counts.
        """
        base = self.path if own and self.path else f"{self.path}.{record.__name__.lower()}"
        if tensor is not None and _memory(tensor) in self._parameter_names:
            known = self._parameter_names[_memory(tensor)]
            base = known.removesuffix("weight").rstrip("._") or base
        base = base.strip(".")
        if base not in self.shapes and base != INPUT:
            return base
        self._numbers[base] += 1
        return f"{base}_{self._numbers[base]}"

    def add(
        self, record: type, inputs: Sequence[str], *settings: Any, own: bool = False, **more: Any
    ) -> str:
        """Append a layer without tensors; returns its name."""
        layer = record(self.name(record, own), tuple(inputs), *settings, **more)
        return self._append(layer)

    def add_with(
        self,
        record: type,
        inputs: Sequence[str],
        parts: dict[str, Tensor | None],
        *settings: Any,
        **more: Any,
    ) -> str:
        """Append a layer with tensors; the same parameters once more are a `Reuse`.

        Args:
            record: Its class.
            inputs: Its inputs.
            parts: Part -> tensor; None is left out.
            settings: Of the record, after its inputs.
            more: Of the record, by name.
        """
        held = {part: tensor for part, tensor in parts.items() if tensor is not None}
        key = (record, *(id(tensor) for tensor in held.values()), settings, tuple(more.items()))
        if key in self._owners and held:
            return self.add(Reuse, inputs, self._owners[key])
        named = self.name(record, True, next(iter(held.values()), None))
        layer = record(named, tuple(inputs), *settings, **more)
        self._owners[key] = layer.name
        for part, tensor in held.items():
            self.tensors[f"{layer.name}.{part}"] = tensor.detach().clone()
        self._parameters.extend(held.values())  # kept alive: no other tensor may get their id
        return self._append(layer)

    def _append(self, layer: Layer) -> str:
        runs = layer
        if isinstance(layer, Reuse):
            runs = self.layers[layer.layer]._replace(inputs=layer.inputs)
        self.shapes[layer.name] = layer_shape(runs, [self.shapes[name] for name in layer.inputs])
        self.layers[layer.name] = layer
        self.paths[layer.name] = self.path
        return layer.name

    def constant(self, value: Tensor) -> str:
        """A constant (C, H, W)."""
        name = self.name(Constant, False, value)
        self.tensors[name + ".value"] = value.detach().clone()
        return self._append(Constant(name, (), *value.shape))

    # --- views ----------------------------------------------------------------------------------

    def map_of(self, layer: str, n_dims: int) -> LayerView:
        """A layer's value as (N, C, H, W), (N, C, H) or (N, C)."""
        return LayerView(layer, map_dims(self.batch, self.shapes[layer], n_dims))

    def positions(self, view: LayerView) -> int:
        """H * W of the value."""
        _, height, width = self.shapes[view.layer]
        return height * width

    def gather_channels(self, view: LayerView, place: int) -> LayerView:
        """The view with all channels, in their order, in one dimension.

        Raises:
            NotUnderstoodError: The dimension holds something else.
        """
        dim, channels = view.dims[place], self.shapes[view.layer][0]
        if dim == all_of("c", channels):
            return view
        if {factor.axis for factor in dim} == {"c", "s"}:
            return self._flattened(view, place)
        if size_of(dim) != channels or any(factor.axis != "c" for factor in dim):
            raise NotUnderstoodError("channels that are not one dimension")
        order = channel_order(dim)
        layer = self.add(Select, [view.layer], tuple(order.tolist()))
        return LayerView(layer, _replaced(view.dims, place, all_of("c", channels)))

    def _flattened(self, view: LayerView, place: int) -> LayerView:
        """All channels and positions in one dimension, as flattening leaves them."""
        dim = view.dims[place]
        channels, positions = self.shapes[view.layer][0], self.positions(view)
        if size_of(dim) != channels * positions:
            raise NotUnderstoodError("part of the positions beside the channels")
        layer = self.add(Flatten, [view.layer])
        if dim != (*all_of("c", channels), *all_of("s", positions)):
            # feature c * positions + s, in the order in which the view has them
            scaled = [
                factor._replace(axis="c", stride=factor.stride * positions)
                if factor.axis == "c" else factor._replace(axis="c")
                for factor in dim
            ]  # fmt: skip
            layer = self.add(Select, [layer], tuple(channel_order(scaled).tolist()))
        return LayerView(layer, _replaced(view.dims, place, all_of("c", channels * positions)))

    def as_map(self, view: LayerView) -> str:
        """The layer that holds the view as (C, H, W), from (N, C, H, W), (N, C, H) or (N, C).

        Raises:
            NotUnderstoodError: The dimensions are not those of a map.
        """
        if len(view.dims) < 2 or len(view.dims) > 4 or view.dims[0] != all_of("n", self.batch):
            raise NotUnderstoodError("an input that is not (N, C, H, W)")
        view = self.gather_channels(view, 1)
        spatial = merged([factor for dim in view.dims[2:] for factor in dim])
        if spatial != all_of("s", self.positions(view)):
            raise NotUnderstoodError("height and width in another order")
        sizes = [size_of(dim) for dim in view.dims[2:]] + [1, 1]
        return self.resized(view.layer, sizes[0], sizes[1])

    def resized(self, layer: str, height: int, width: int) -> str:
        """The layer with its positions as another height and width."""
        if self.shapes[layer][1:] == (height, width):
            return layer
        return self.add(Reshape, [layer], height, width)

    def place_of(self, view: LayerView, factor: AxisFactor) -> tuple[str, int]:
        """Which part of an axis a factor is, whatever the sizes of the others: for comparison."""
        _, height, width = self.shapes[view.layer]
        if factor.axis == "s" and factor.size == height and factor.stride == width and width > 1:
            return ("height", factor.size)
        if factor.axis == "s" and factor.size == width and factor.stride == 1 and height > 1:
            return ("width", factor.size)
        return (f"{factor.axis}/{factor.stride}", factor.size)


def _memory(tensor: Tensor) -> int:
    """Address of the memory that a tensor or a view of it lies in."""
    return tensor.untyped_storage().data_ptr()


def channel_order(dim: Sequence[AxisFactor]) -> Tensor:
    """The channels in the order in which a dimension of channel factors has them."""
    order = torch.zeros(1, dtype=torch.long)
    for factor in dim:
        order = (order[:, None] + torch.arange(factor.size) * factor.stride).flatten()
    return order


def _replaced(dims: tuple[Dim, ...], place: int, dim: Dim) -> tuple[Dim, ...]:
    return (*dims[:place], dim, *dims[place + 1 :])
