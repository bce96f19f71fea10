"""Attention: written out as products and a softmax, or as torch's own op, to one layer."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.layer_rules import linear, softmax_channels
from pneumonia.network.torch_import.layouts import (
    AxisFactor,
    LayerView,
    NotUnderstoodError,
    all_of,
    merged,
    size_of,
)
from pneumonia.runtime.model.layers import Attention


class AttentionScores(NamedTuple):
    """Products of queries and keys on their way to an attention."""

    queries: LayerView  # (..., T, D per head)
    keys: LayerView  # (..., D per head, S)
    scale: float = 1.0  # what the products are multiplied with
    normalised: bool = False  # whether the softmax over the keys is done


def scaled_scores(scores: AttentionScores, number: Any) -> AttentionScores:
    """Scores times a number.

    Raises:
        NotUnderstoodError: They are normalised already, or the number is not a single one.
    """
    if scores.normalised or not (isinstance(number, (int, float)) or number.numel() == 1):
        raise NotUnderstoodError("attention weights that are changed")
    return scores._replace(scale=scores.scale * float(number))


def _softmax(b: SpecBuilder, a: SimpleNamespace) -> Any:
    if not isinstance(a.self, AttentionScores):
        return softmax_channels(b, a.self, a.dim)
    if a.self.normalised or a.dim not in (-1, len(a.self.queries.dims) - 1):
        raise NotUnderstoodError("softmax over the queries")
    return a.self._replace(normalised=True)


def _product(b: SpecBuilder, a: SimpleNamespace) -> Any:
    one, other = (a.self, a.mat2) if hasattr(a, "mat2") else (a.self, a.other)
    if isinstance(one, AttentionScores) and isinstance(other, LayerView):
        return _attended(b, one, other)
    if isinstance(one, LayerView) and isinstance(other, Tensor) and other.dim() == 2:
        return linear(b, one, other.T, None)
    if isinstance(one, Tensor) and one.dim() > 2 and isinstance(other, LayerView):
        one = _as_values(b, one, other)
    if isinstance(one, LayerView) and isinstance(other, LayerView):
        same = one.dims[:-2] == other.dims[:-2] and one.dims[-1] == other.dims[-2]
        if same and all(f.axis == "c" for f in one.dims[-1]):
            return AttentionScores(one, other)
    raise NotUnderstoodError("a product of two values that is not an attention")


def _einsum(b: SpecBuilder, a: SimpleNamespace) -> Any:
    """A product of two values as `matmul` has it, with the dimensions in another order.

    Raises:
        NotUnderstoodError: Not one dimension is summed, or each value has several of its own.
    """
    sources, _, out = a.equation.replace(" ", "").partition("->")
    names = sources.split(",")
    if len(names) != 2 or not out or "." in a.equation or any(len(set(n)) < len(n) for n in names):
        raise NotUnderstoodError(f"einsum {a.equation}")
    one, other = names
    constant = isinstance(a.tensors[1], Tensor)
    shared = [c for c in one if c in other and c in out]
    summed = [c for c in one if c in other and c not in out]
    rows = [c for c in one if c in out and c not in other]
    columns = [c for c in other if c in out and c not in one]
    if constant and not shared:  # a fully connected layer over the last dimension
        shared, rows = rows[:-1], rows[-1:]
    elif constant:
        rows = []
    if not len(summed) == len(rows) == len(columns) == 1:
        raise NotUnderstoodError(f"einsum {a.equation}")
    whole = [*shared, *rows, *columns]
    left = _arranged(a.tensors[0], one, [*shared, *rows, *summed])
    right = _arranged(a.tensors[1], other, [*([] if constant else shared), *summed, *columns])
    product = _product(b, SimpleNamespace(self=left, other=right))
    return _arranged(product, "".join(whole), list(out))


def _arranged(value: Any, names: str, wanted: list[str]) -> Any:
    """A value with its dimensions in another order."""
    order = [names.index(c) for c in wanted]
    if isinstance(value, LayerView):
        return LayerView(value.layer, tuple(value.dims[place] for place in order))
    if isinstance(value, Tensor):
        return value.permute(order)
    if order != sorted(order):
        raise NotUnderstoodError("transposed attention")
    return value


def _attended(b: SpecBuilder, scores: AttentionScores, values: LayerView) -> LayerView:
    if not scores.normalised:
        raise NotUnderstoodError("attention without softmax")
    keys = LayerView(scores.keys.layer, (*scores.keys.dims[:-2], *scores.keys.dims[:-3:-1]))
    return attention(b, scores.queries, keys, values, scores.scale)


def attention(
    b: SpecBuilder, queries: LayerView, keys: LayerView, values: LayerView, scale: float
) -> LayerView:
    """Attention of (..., T, D), (..., S, D), (..., S, E); the other dimensions hold the heads."""
    heads, layers = set(), []
    for view in (queries, keys, values):
        channels, positions = b.shapes[view.layer][0], b.positions(view)
        lead = merged([factor for dim in view.dims[:-2] for factor in dim if factor.axis != "n"])
        inner = size_of(view.dims[-1])
        wanted = merged([AxisFactor("c", inner, channels // inner)])
        fits = view.dims[-1] == all_of("c", inner) and lead == wanted
        if not fits or view.dims[-2] != all_of("s", positions):
            raise NotUnderstoodError("attention whose heads lie differently")
        heads.add(channels // inner)
        layers.append(b.resized(view.layer, positions, 1))
    if len(heads) != 1:
        raise NotUnderstoodError("attention with different numbers of heads")
    layer = b.add(Attention, layers, heads.pop(), scale)
    tokens = all_of("s", b.positions(queries))
    return LayerView(layer, (*values.dims[:-2], tokens, values.dims[-1]))


def _dot_product_attention(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if a.attn_mask is not None or a.is_causal:
        raise NotUnderstoodError("attention with a mask")
    views = [x for x in (a.query, a.key, a.value) if isinstance(x, LayerView)]
    queries, keys, values = (_as_values(b, x, views[0]) for x in (a.query, a.key, a.value))
    scale = a.scale or 1 / math.sqrt(size_of(queries.dims[-1]))
    return attention(b, queries, keys, values, scale)


def _as_values(b: SpecBuilder, x: LayerView | Tensor, like: LayerView) -> LayerView:
    """A constant (..., T, D) that all images share as a layer of the heads of `like`; views stay.

    Raises:
        NotUnderstoodError: It differs between the images, or its heads lie differently.
    """
    if isinstance(x, LayerView):
        return x
    tokens, inner = x.shape[-2:]
    lead = [factor for dim in like.dims[:-2] for factor in dim]
    heads = math.prod(factor.size for factor in lead if factor.axis == "c")
    split = x.reshape(-1, heads, tokens, inner)
    one_axis = sum(factor.axis == "c" for factor in lead) <= 1 and lead == sorted(
        lead, key=lambda factor: "nc".find(factor.axis)
    )
    if not one_axis or len(split) != b.batch or not bool((split == split[:1]).all()):
        raise NotUnderstoodError("a constant in an attention that differs between the images")
    layer = b.constant(split[0].permute(0, 2, 1).reshape(heads * inner, tokens, 1))
    dims = [
        tuple(f._replace(stride=inner) if f.axis == "c" else f for f in dim)
        for dim in like.dims[:-2]
    ]
    return LayerView(layer, (*dims, all_of("s", tokens), all_of("c", inner)))


ATTENTION_RULES: dict[str, Callable[[SpecBuilder, SimpleNamespace], Any]] = {
    "softmax": _softmax,
    "einsum": _einsum,
    "matmul": _product,
    "bmm": _product,
    "scaled_dot_product_attention": _dot_product_attention,
}
