"""Multiply-accumulates, weights and activations of each layer for one image."""

from typing import List, Mapping, NamedTuple

import numpy as np

from pneumonia.runtime.model.layers import Conv, Detect, Flatten, Linear, Route
from pneumonia.runtime.model.ops import op_of
from pneumonia.runtime.model.spec import NetworkSpec, positions

# Layers that cost nothing: a marker, or another name for the same memory.
FREE = (Detect, Flatten, Route)


class LayerWork(NamedTuple):
    """One layer."""

    name: str  # layer
    op: str  # its op, as in JSON
    macs: int  # multiply-accumulates of the dense weight
    kept_macs: int  # of the weights that are not zero
    weights: int  # entries of the dense weight and bias
    kept_weights: int  # those that are not zero
    values_in: int  # activations read
    values_out: int  # activations written
    filters: int = 0  # rows of the matrix product
    columns: int = 0  # its inner side


def network_work(spec: NetworkSpec, weights: Mapping[str, np.ndarray]) -> List[LayerWork]:
    """Work of every layer that computes something.

    Args:
        weights: Dense, as `Bundle.weights` gives them.
    """
    shapes = spec.shapes()
    rows = []
    for layer in spec.layers:
        if isinstance(layer, FREE):
            continue
        shape = shapes[layer.name]
        values_in = sum(int(np.prod(shapes[source])) for source in layer.inputs)
        row = LayerWork(layer.name, op_of(layer), 0, 0, 0, 0, values_in, int(np.prod(shape)))
        weight = weights.get(layer.name + ".weight")
        if weight is not None and isinstance(layer, (Conv, Linear)):
            kept, pixels = int(np.count_nonzero(weight)), positions(layer, shapes)
            bias = shape[0] if layer.name + ".bias" in weights else 0
            row = row._replace(
                macs=int(weight.size) * pixels,
                kept_macs=kept * pixels,
                weights=int(weight.size) + bias,
                kept_weights=kept + bias,
                filters=int(weight.shape[0]),
                columns=int(np.prod(weight.shape[1:])),
            )
        rows.append(row)
    return rows


class WorkTotals(NamedTuple):
    """Sums over the layers."""

    macs: int
    kept_macs: int
    weights: int
    kept_weights: int


def totals(work: List[LayerWork]) -> WorkTotals:
    """Sum the layers."""
    return WorkTotals(*(sum(getattr(row, field) for row in work) for field in WorkTotals._fields))
