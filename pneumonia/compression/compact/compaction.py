"""Compaction: the same function in a smaller network, `(spec, tensors, masks) -> (spec, tensors)`.

Filters and channels that no path connects to an output are deleted with their batch-norm entries,
through shortcuts, routes, upsampling, pooling and flattening; columns that are left out become
`columns` storage. What comes out is an ordinary network: outputs equal the masked dense network's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.dead_paths import find_dead_paths
from pneumonia.compression.prune.masks import masked_tensors
from pneumonia.network.module import check_tensors
from pneumonia.runtime.model.spec import Conv, Linear, NetworkSpec, StorageSpec
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
        tensors: Its dense tensors.
        masks: Layer -> bool mask of its weight; none = the weights' own zeros decide.
        group_sizes: Layer -> filters that share one list of columns; such a layer is stored by
            columns where that takes less than dense. Other layers keep their storage.

    Returns:
        The smaller network; every layer keeps at least one filter.

    Raises:
        ArtefactError: Tensors and spec do not fit.
    """
    check_tensors(spec, tensors)
    graph = ChannelGraph(spec)
    dense = masked_tensors(graph, tensors, masks or {})
    paths = find_dead_paths(graph, dense)
    changes = {}
    kept: dict[str, Tensor] = {}
    for layer in spec.weighted():
        whole, parts = _fold(layer, _parts(dense, layer.name), paths.offsets.get(layer.name))
        rows = graph.live_rows(paths.live, layer.name)
        channels = graph.live_channels(paths.live, layer.name)
        weight = parts["weight"][rows][:, channels].contiguous()
        smaller = whole._replace(out_channels=weight.shape[0], in_channels=weight.shape[1])
        if group_sizes is not None and layer.name in group_sizes:
            smaller = smaller._replace(
                storage=StorageSpec("columns", group_size=group_sizes[layer.name])
            )
        changes[layer.name] = _choose_storage(smaller, weight)
        kept[f"{layer.name}.weight"] = weight
        kept.update(
            {f"{layer.name}.{part}": t[rows] for part, t in parts.items() if part != "weight"}
        )
    small = spec.replace_layers(changes)
    check_tensors(small, kept)
    return small, kept


def _parts(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    names = ("weight", "bias", "bn_weight", "bn_bias", "bn_mean", "bn_var")
    return {part: tensors[f"{name}.{part}"] for part in names if f"{name}.{part}" in tensors}


def _fold(
    layer: Conv | Linear, parts: dict[str, Tensor], offset: Tensor | None
) -> tuple[Conv | Linear, dict[str, Tensor]]:
    """Fold the contribution of removed constant inputs into the bias or batch-norm mean."""
    if offset is None:
        return layer, parts
    if layer.bias:
        return layer, {**parts, "bias": (parts["bias"].double() + offset).float()}
    if isinstance(layer, Conv) and layer.batch_norm:
        return layer, {**parts, "bn_mean": (parts["bn_mean"].double() - offset).float()}
    return layer._replace(bias=True), {**parts, "bias": offset.float()}


def _choose_storage(layer: Conv | Linear, weight: Tensor) -> Conv | Linear:
    """Measure the layer's storage; dense where columns would not be smaller."""
    array = weight.detach().float().cpu().numpy()
    storage = measured(layer, array)
    if storage.format == "columns":
        groups = filter_groups(layer.out_channels, storage.group_size)
        # Every group lists its columns; a column of a full group holds group_size weights.
        rows = max(1, groups[0][1] - groups[0][0])
        index_bits = INDEX_BITS * (-(-storage.n_kept // rows) + len(groups) + 1)
        if storage.n_kept * storage.bits + index_bits >= array.size * storage.bits:
            storage = StorageSpec()
    return layer._replace(storage=storage)


def zeros_outside(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    """Whether every weight outside the masks is exactly zero."""
    return all(
        not bool(torch.any(tensors[f"{name}.weight"][~mask] != 0)) for name, mask in masks.items()
    )
