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
from pneumonia.runtime.model.spec import Attention


class AttentionScores(NamedTuple):
    """Products of queries and keys on their way to an attention.

    Attributes:
        queries: (..., T, D per head).
        keys: (..., D per head, S).
        scale: What the products are multiplied with.
        normalised: Whether the softmax over the keys is done.
    """

    queries: LayerView
    keys: LayerView
    scale: float = 1.0
    normalised: bool = False


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
    if isinstance(one, LayerView) and isinstance(other, LayerView):
        same = one.dims[:-2] == other.dims[:-2] and one.dims[-1] == other.dims[-2]
        if same and all(f.axis == "c" for f in one.dims[-1]):
            return AttentionScores(one, other)
    raise NotUnderstoodError("a product of two values that is not an attention")


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
    return LayerView(layer, (*queries.dims[:-2], tokens, values.dims[-1]))


def _dot_product_attention(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    if a.attn_mask is not None or a.is_causal:
        raise NotUnderstoodError("attention with a mask")
    scale = a.scale or 1 / math.sqrt(size_of(a.query.dims[-1]))
    return attention(b, a.query, a.key, a.value, scale)


ATTENTION_RULES: dict[str, Callable[[SpecBuilder, SimpleNamespace], Any]] = {
    "softmax": _softmax,
    "matmul": _product,
    "bmm": _product,
    "scaled_dot_product_attention": _dot_product_attention,
}
