"""What a network costs: parameters, multiply-accumulates, storage, per layer and in total."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pneumonia.network.module import NamedTensors, check_tensors
from pneumonia.runtime.model.layers import Reuse, Shape, Weighted
from pneumonia.runtime.model.ops import op_of
from pneumonia.runtime.model.spec import STATISTICS, NetworkSpec, positions, tensor_shapes
from pneumonia.runtime.storage.packing import filter_groups, kept_columns, pack

FLOAT_BITS = 32


class LayerAccount(NamedTuple):
    """The cost of one layer for one image."""

    name: str  # layer
    op: str  # its op, as in JSON
    shape_in: Shape  # (C, H, W) of the first input
    shape_out: Shape  # (C, H, W)
    parameters: int = 0  # trainable numbers: weights, bias, batch-norm gain and offset
    weights: int = 0  # entries of the dense weight, O * P
    kept_weights: int = 0  # stored by the `columns` format, or not zero in the others
    macs: int = 0  # multiply-accumulates of the dense weight
    kept_macs: int = 0  # multiply-accumulates of the kept weights
    storage_bits: int = 0  # stored weights, bias and all four batch-norm vectors
    # for `columns` the least that names them: per group of filters the smaller of a bit map (P
    # bits) and a list (c * ceil(log2 P) bits). For other formats everything that is stored beside
    # the values: indices, and the table of levels
    index_bits: int = 0


class NetworkTotals(NamedTuple):
    """Sums over the layers, and the two rates (dense / kept)."""

    parameters: int
    weights: int
    kept_weights: int
    macs: int
    kept_macs: int
    storage_bits: int
    index_bits: int

    @property
    def rate(self) -> float:
        """Pruning rate of the weights; 1 for a dense network, infinite when nothing is kept."""
        return self.weights / self.kept_weights if self.kept_weights else math.inf

    @property
    def mac_rate(self) -> float:
        """The same for multiply-accumulates."""
        return self.macs / self.kept_macs if self.kept_macs else math.inf


class NetworkAccount(NamedTuple):
    """Every layer in execution order, and the totals."""

    layers: tuple[LayerAccount, ...]
    totals: NetworkTotals


def account(spec: NetworkSpec, tensors: NamedTensors) -> NetworkAccount:
    """Count a network at its own input size.

    Args:
        spec: The network; each layer's `storage` decides what is stored.

    Raises:
        ArtefactError: Tensors and spec do not fit.
    """
    check_tensors(spec, tensors)
    shapes = spec.shapes()
    weighted = {layer.name: layer for layer in spec.weighted()}
    sizes: dict[str, dict[str, int]] = {layer.name: {} for layer in spec.layers}
    for tensor_name, shape in tensor_shapes(spec).items():
        layer_name, _, part = tensor_name.rpartition(".")
        sizes[layer_name][part] = math.prod(shape)
    rows = []
    for layer in spec.layers:
        entry = shapes[layer.inputs[0]] if layer.inputs else shapes[layer.name]
        row = LayerAccount(layer.name, op_of(layer), entry, shapes[layer.name])
        if layer.name in weighted:
            weight = tensors[layer.name + ".weight"]
            uses = positions(weighted[layer.name], shapes)
            row = _count(row, weighted[layer.name], weight, sizes[layer.name], uses)
        elif isinstance(layer, Reuse) and layer.layer in weighted:
            repeated = weighted[layer.layer]._replace(name=layer.name, inputs=layer.inputs)
            weight, uses = tensors[layer.layer + ".weight"], positions(repeated, shapes)
            whole = _count(row, weighted[layer.layer], weight, sizes[layer.layer], uses)
            row = row._replace(macs=whole.macs, kept_macs=whole.kept_macs)
        else:
            n_values = sum(sizes[layer.name].values())
            row = row._replace(
                parameters=n_values - _statistics(sizes[layer.name]),
                storage_bits=n_values * FLOAT_BITS,
            )
        rows.append(row)
    totals = NetworkTotals(
        *(sum(getattr(row, field) for row in rows) for field in NetworkTotals._fields)
    )
    return NetworkAccount(tuple(rows), totals)


def _count(
    row: LayerAccount, layer: Weighted, weight: Tensor, sizes: Mapping[str, int], uses: int
) -> LayerAccount:
    n_weights = sizes["weight"]
    others = sum(sizes.values()) - n_weights
    array = weight.detach().cpu().numpy()
    stored, kept, index_bits = n_weights, int(np.count_nonzero(array)), 0
    if layer.storage.format == "columns":
        stored, index_bits = _columns_cost(array, layer.storage.group_size)
        kept = stored
    elif layer.storage.format != "dense":
        stored = layer.storage.n_kept
        packed = sum(8 * part.nbytes for part in pack(layer, array).values())
        index_bits = max(0, packed - stored * layer.storage.bits)
    return row._replace(
        parameters=n_weights + others - _statistics(sizes),
        weights=n_weights,
        kept_weights=kept,
        macs=n_weights * uses,
        kept_macs=kept * uses,
        storage_bits=stored * layer.storage.bits + others * FLOAT_BITS,
        index_bits=index_bits,
    )


def _statistics(sizes: Mapping[str, int]) -> int:
    return sum(size for part, size in sizes.items() if "." + part in STATISTICS)


def _columns_cost(weight: NDArray[np.float32], group_size: int) -> tuple[int, int]:
    """Stored weights and index bits of the `columns` format."""
    n_columns = weight[0].size
    list_bits = math.ceil(math.log2(n_columns)) if n_columns > 1 else 0
    stored = index_bits = 0
    groups = filter_groups(len(weight), group_size)
    for (first, end), kept in zip(groups, kept_columns(weight, group_size), strict=True):
        stored += (end - first) * len(kept)
        index_bits += min(n_columns, len(kept) * list_bits)
    return stored, index_bits
