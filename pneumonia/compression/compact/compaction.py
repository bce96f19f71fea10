"""Compaction: the same function in a smaller network, `(spec, tensors, masks) -> (spec, tensors)`.

Filters and channels that no path connects to an output are deleted with their batch-norm entries,
through shortcuts, routes, upsampling, pooling and flattening; columns that are left out become
`columns` storage. What comes out is an ordinary network: outputs equal the masked dense network's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pneumonia.compression.compact.branches import drop_zero_branches
from pneumonia.compression.compact.constants import find_constants
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.dead_paths import DeadPaths, find_dead_paths
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.network.module import check_tensors
from pneumonia.runtime.model import layers
from pneumonia.runtime.model.ops import parts_of
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes
from pneumonia.runtime.storage.packing import filter_groups, measured

INDEX_BITS = 32  # of a stored column number


def compact(
    spec: NetworkSpec,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    group_sizes: Mapping[str, int] | None = None,
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Remove what does not contribute and choose each weight's storage.

    Args:
        spec: The dense network.
        masks: Layer -> bool mask of its weight; none = the weights' own zeros decide.
        group_sizes: Layer -> filters that share one list of columns; such a layer is stored by
            columns where that takes less than dense. Other layers keep their storage.

    Returns:
        The smaller network, without the residual branches that add nothing; every other layer
        keeps at least one filter.

    Raises:
        ArtefactError: Tensors and spec do not fit.
    """
    check_tensors(spec, tensors)
    graph = ChannelGraph(spec)
    dense = masked_tensors(graph, tensors, masks or {})
    spec, dense = _without_zero_branches(spec, dense)
    while True:
        graph = ChannelGraph(spec)
        small, kept = shrink(graph, find_dead_paths(graph, dense), dense)
        spec, dense = _without_zero_branches(small, kept)
        if spec is small:  # else dead paths have emptied a branch
            break
    changes = {}
    for layer in small.weighted():
        size = (group_sizes or {}).get(layer.name)
        storage = layer.storage if size is None else layers.StorageSpec("columns", group_size=size)
        weight = kept[layer.name + ".weight"]
        changes[layer.name] = _choose_storage(layer._replace(storage=storage), weight)
    return small.replace_layers(changes), kept


def shrink(
    graph: ChannelGraph, paths: DeadPaths, tensors: Mapping[str, Tensor]
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The network without the filters and channels that are not live, and its tensors."""
    changes: dict[str, layers.Layer] = {}
    kept: dict[str, Tensor] = {}
    for layer in graph.spec.layers:
        inputs = [paths.live[graph.unit_out[name]] for name in layer.inputs]
        outputs = paths.live[graph.unit_out[layer.name]]
        parts = {part: tensors[f"{layer.name}.{part}"] for part in parts_of(layer)}
        whole: layers.Layer = layer
        if isinstance(layer, (layers.Conv, layers.Linear)):
            whole, parts = _fold(layer, parts, paths.offsets.get(layer.name))
            columns = graph.live_channels(paths.live, layer.name)
            parts["weight"] = parts["weight"][:, columns]
        changes[layer.name] = SHRINK.get(type(whole), _unchanged)(whole, inputs, outputs)
        for part, tensor in parts.items():
            kept[f"{layer.name}.{part}"] = tensor[outputs].contiguous()
    small = graph.spec.replace_layers(changes)
    check_tensors(small, kept)
    return small, kept


def _without_zero_branches(
    spec: NetworkSpec, tensors: dict[str, Tensor]
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The network without residual branches that are zero, and its tensors."""
    if not any(isinstance(layer, layers.Shortcut) for layer in spec.layers):
        return spec, tensors
    spec = drop_zero_branches(spec, find_constants(spec, tensors))
    return spec, {name: tensors[name] for name in tensor_shapes(spec)}


def _conv(layer: layers.Conv, inputs: Sequence[Tensor], outputs: Tensor) -> layers.Conv:
    n_inputs = int(inputs[0].sum())
    return layer._replace(
        out_channels=int(outputs.sum()),
        in_channels=n_inputs,
        groups=layer.groups * n_inputs // layer.in_channels if layer.groups > 1 else 1,
    )


def _linear(layer: layers.Linear, inputs: Sequence[Tensor], outputs: Tensor) -> layers.Linear:
    return layer._replace(out_channels=int(outputs.sum()), in_channels=int(inputs[0].sum()))


def _norm(layer: layers.Norm, inputs: Sequence[Tensor], outputs: Tensor) -> layers.Norm:
    channels = int(outputs.sum())
    groups = layer.groups * channels // layer.channels if layer.groups > 1 else 1
    return layer._replace(channels=channels, groups=groups)


def _constant(layer: layers.Constant, inputs: Sequence[Tensor], outputs: Tensor) -> layers.Constant:
    return layer._replace(channels=int(outputs.sum()))


def _select(layer: layers.Select, inputs: Sequence[Tensor], outputs: Tensor) -> layers.Select:
    places = (inputs[0].cumsum(0) - 1).tolist()  # of the channels that are left
    channels = zip(layer.channels, outputs.tolist(), strict=True)
    return layer._replace(channels=tuple(places[channel] for channel, live in channels if live))


def _attention(
    layer: layers.Attention, inputs: Sequence[Tensor], outputs: Tensor
) -> layers.Attention:
    return layer._replace(heads=layer.heads * int(outputs.sum()) // len(outputs))


def _unchanged(layer: layers.Layer, inputs: Sequence[Tensor], outputs: Tensor) -> layers.Layer:
    return layer


# (layer, live channels of each input, live channels of the output) -> the smaller layer
SHRINK: dict[type, Callable[[Any, Sequence[Tensor], Tensor], layers.Layer]] = {
    layers.Conv: _conv,
    layers.Linear: _linear,
    layers.Norm: _norm,
    layers.Constant: _constant,
    layers.Select: _select,
    layers.Attention: _attention,
}


def _fold(
    layer: layers.Conv | layers.Linear, parts: dict[str, Tensor], offset: Tensor | None
) -> tuple[layers.Conv | layers.Linear, dict[str, Tensor]]:
    """Fold the contribution of removed constant inputs into the bias or batch-norm mean."""
    if offset is None:
        return layer, parts
    dtype = parts["weight"].dtype
    if layer.bias:
        return layer, {**parts, "bias": (parts["bias"].double() + offset).to(dtype)}
    if isinstance(layer, layers.Conv) and layer.batch_norm:
        return layer, {**parts, "bn_mean": (parts["bn_mean"].double() - offset).to(dtype)}
    return layer._replace(bias=True), {**parts, "bias": offset.to(dtype)}


def _choose_storage(
    layer: layers.Conv | layers.Linear, weight: Tensor
) -> layers.Conv | layers.Linear:
    """Measure the layer's storage; dense where columns would not be smaller."""
    array = weight.detach().float().cpu().numpy()
    storage = measured(layer, array)
    if storage.format == "columns":
        groups = filter_groups(layer.out_channels, storage.group_size)
        # Every group lists its columns; a column of a full group holds group_size weights.
        rows = max(1, groups[0][1] - groups[0][0])
        index_bits = INDEX_BITS * (-(-storage.n_kept // rows) + len(groups) + 1)
        if storage.n_kept * storage.bits + index_bits >= array.size * storage.bits:
            storage = layers.StorageSpec()
    return layer._replace(storage=storage)


def zeros_outside(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    """Whether every weight outside the masks is exactly zero."""
    return all(
        not bool(torch.any(tensors[f"{name}.weight"][~mask] != 0)) for name, mask in masks.items()
    )
