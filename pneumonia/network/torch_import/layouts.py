"""How a torch tensor lies over a value (C, H, W) of the network description.

Reshaping and permuting move no numbers in a description: a torch tensor is a view of some layer's
value, and each of its dimensions is a product of factors of the batch `n`, the channels `c` and the
positions `s` (h * W + w). A factor is (axis, stride, size), so that heads of 16 channels are
("c", 16, heads) and the channels in a head ("c", 1, 16).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model.layers import Shape


class NotUnderstoodError(Exception):
    """An op or a view that a network description cannot express; the importer says where."""


class UnknownPartError(SpecError):
    """A module of the network that is not understood.

    Args:
        path: Of the module; empty where it is the network itself.
        what: As of every error.
        without_rule: Whether its op is never understood, wherever it occurs.
        parts: As of every error.
    """

    def __init__(self, path: str, what: str, without_rule: bool = False, **parts: str) -> None:
        super().__init__(what, **parts)
        self.path, self.without_rule = path, without_rule


class AxisFactor(NamedTuple):
    """Part of an axis of a value."""

    axis: str  # `n` (batch), `c` (channels) or `s` (positions)
    stride: int  # steps of the axis from one entry to the next
    size: int  # entries


Dim = tuple[AxisFactor, ...]


class LayerView(NamedTuple):
    """A torch tensor as a view of a layer's whole value."""

    layer: str  # its name
    # the factors of each dimension, outermost first; none where the size is 1
    dims: tuple[Dim, ...]


def merged(factors: Sequence[AxisFactor]) -> Dim:
    """Neighbouring factors as one where together they are part of an axis, without size 1."""
    found: list[AxisFactor] = []
    for factor in factors:
        if factor.size == 1:
            continue
        before = found[-1] if found else None
        if before and before.axis == factor.axis and before.stride == factor.stride * factor.size:
            found[-1] = AxisFactor(factor.axis, factor.stride, before.size * factor.size)
        else:
            found.append(factor)
    return tuple(found)


def all_of(axis: str, size: int) -> Dim:
    """The whole axis as a dimension."""
    return merged([AxisFactor(axis, 1, size)])


def size_of(dim: Dim) -> int:
    """Entries of a dimension."""
    return math.prod(factor.size for factor in dim)


def map_dims(batch: int, shape: Shape, n_dims: int) -> tuple[Dim, ...]:
    """Dimensions (N, C, H, W), (N, C, H) or (N, C) of a value."""
    channels, height, width = shape
    spatial = [merged([AxisFactor("s", width, height)]), merged([AxisFactor("s", 1, width)])]
    return (all_of("n", batch), all_of("c", channels), *spatial[: n_dims - 2])


def reshaped(dims: Sequence[Dim], sizes: Sequence[int]) -> tuple[Dim, ...]:
    """The same numbers in other dimensions.

    Raises:
        NotUnderstoodError: A size cuts a factor in parts that are not whole.
    """
    rest = list(merged([factor for dim in dims for factor in dim]))
    found = []
    for wanted in sizes:
        dim: list[AxisFactor] = []
        size = wanted
        while size > 1:
            if not rest:
                raise NotUnderstoodError(f"view {list(sizes)}")
            axis, stride, extent = rest.pop(0)
            if size % extent == 0:
                dim.append(AxisFactor(axis, stride, extent))
                size //= extent
            elif extent % size == 0:
                inner = extent // size
                dim.append(AxisFactor(axis, stride * inner, size))
                rest.insert(0, AxisFactor(axis, stride, inner))
                size = 1
            else:
                raise NotUnderstoodError(f"view {list(sizes)}")
        found.append(merged(dim))
    if rest:
        raise NotUnderstoodError(f"view {list(sizes)}")
    return tuple(found)


def factors_in_layer_order(dims: Sequence[Dim]) -> list[AxisFactor]:
    """The factors of a view as they lie in (N, C, H, W)."""
    factors = [factor for dim in dims for factor in dim]
    return sorted(factors, key=lambda factor: ("ncs".index(factor.axis), -factor.stride))


def to_layout(value: Tensor, dims: Sequence[Dim]) -> Tensor:
    """(N, C, H, W) as the torch tensor of a view; the batch may have another size."""
    order, flat = factors_in_layer_order(dims), [factor for dim in dims for factor in dim]
    out = [-1 if any(f.axis == "n" for f in dim) else size_of(dim) for dim in dims]
    return _reordered(value, order, flat).reshape(out)


def from_layout(value: Tensor, dims: Sequence[Dim], shape: Shape) -> Tensor:
    """The inverse of `to_layout`: a torch tensor of a view as (N, C, H, W)."""
    flat = [factor for dim in dims for factor in dim]
    return _reordered(value, flat, factors_in_layer_order(dims)).reshape(-1, *shape)


def _reordered(value: Tensor, factors: list[AxisFactor], wanted: list[AxisFactor]) -> Tensor:
    """A value of these factors as one with a dimension for each, in another order."""
    if factors == wanted:
        return value
    sizes = [-1 if factor.axis == "n" else factor.size for factor in factors]
    return value.reshape(sizes).permute([factors.index(factor) for factor in wanted])
