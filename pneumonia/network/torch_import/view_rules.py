"""Torch's ops that move, join, cut and combine: views, concatenation, arithmetic.

Views become no layer: only their factors change (`layouts`).
"""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pneumonia.network.torch_import.attention_rules import AttentionScores, scaled_scores
from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.layouts import (
    AxisFactor,
    Dim,
    LayerView,
    NotUnderstoodError,
    all_of,
    merged,
    reshaped,
    size_of,
)
from pneumonia.runtime.model.layers import Crop, Multiply, Route, Select, Shortcut

# --- views --------------------------------------------------------------------------------------


def _first(a: SimpleNamespace) -> Any:
    return a.self if hasattr(a, "self") else a.input


def _same(b: SpecBuilder, a: SimpleNamespace) -> Any:
    return _first(a)


def _viewed(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    view = _first(a)
    return LayerView(view.layer, reshaped(view.dims, a.out_shape))


def _permuted(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return LayerView(a.self.layer, tuple(a.self.dims[place] for place in a.dims))


def _transposed(b: SpecBuilder, a: SimpleNamespace) -> Any:
    if isinstance(a.self, AttentionScores):
        raise NotUnderstoodError("transposed attention")
    dims = list(a.self.dims)
    dims[a.dim0], dims[a.dim1] = dims[a.dim1], dims[a.dim0]
    return LayerView(a.self.layer, tuple(dims))


def _expanded(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    added = len(a.out_shape) - len(a.self.dims)  # what is repeated stays of size 1 until it is used
    return LayerView(a.self.layer, ((),) * added + a.self.dims)


# --- parts --------------------------------------------------------------------------------------


def _taken(b: SpecBuilder, view: LayerView, place: int, limits: range) -> LayerView:
    """Some entries of one dimension."""
    place %= len(view.dims)
    dim = view.dims[place]
    if size_of(dim) == len(limits):
        return view
    if len(dim) > 1 and all(factor.axis == "c" for factor in dim):
        view = b.gather_channels(view, place)  # shuffled channels, put in order
        dim = view.dims[place]
    if len(dim) != 1 or dim[0].axis == "n":
        raise NotUnderstoodError("a slice of a dimension that is not one axis")
    factor = dim[0]
    if factor.axis == "c":
        layer, strides = _selected(b, view, factor, limits)
    else:
        layer, strides = _cropped(b, view, factor, limits)
    dims = [
        merged([_shrunk(f, factor, strides, len(limits)) for f in other]) for other in view.dims
    ]
    return LayerView(layer, tuple(dims))


def _shrunk(factor: AxisFactor, cut: AxisFactor, strides: int, count: int) -> AxisFactor:
    """A factor of the axis after the cut: those outside of the cut one lie closer together."""
    if factor == cut:
        return AxisFactor(factor.axis, cut.stride, count)
    if factor.axis == cut.axis and factor.stride >= cut.stride * cut.size:
        return factor._replace(stride=factor.stride // strides * count)
    return factor


def _selected(
    b: SpecBuilder, view: LayerView, factor: AxisFactor, limits: range
) -> tuple[str, int]:
    channels = range(b.shapes[view.layer][0])
    chosen = tuple(c for c in channels if c // factor.stride % factor.size in limits)
    return b.add(Select, [view.layer], chosen), factor.size


def _cropped(b: SpecBuilder, view: LayerView, factor: AxisFactor, limits: range) -> tuple[str, int]:
    _, height, width = b.shapes[view.layer]
    cut = (limits.start, limits.stop, limits.step)
    rows, columns = (0, height, 1), (0, width, 1)
    if factor == AxisFactor("s", width, height):
        layer = b.add(Crop, [view.layer], cut, columns)
    elif factor == AxisFactor("s", 1, width):
        layer = b.add(Crop, [view.layer], rows, cut)
    elif factor == AxisFactor("s", 1, height * width):
        source = b.resized(view.layer, height * width, 1)
        layer = b.add(Crop, [source], cut, (0, 1, 1))
    else:
        raise NotUnderstoodError("a slice of some positions")
    return layer, factor.size


def _limits(view: LayerView, place: int, start: int | None, end: int | None, step: int) -> range:
    return range(*slice(start, end, step).indices(size_of(view.dims[place])))


def _sliced(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return _taken(b, a.self, a.dim, _limits(a.self, a.dim, a.start, a.end, a.step))


def _chosen(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    index = a.index % size_of(a.self.dims[a.dim])
    view = _taken(b, a.self, a.dim, range(index, index + 1))
    place = a.dim % len(view.dims)
    return LayerView(view.layer, view.dims[:place] + view.dims[place + 1 :])


def parts_of(b: SpecBuilder, view: LayerView, place: int, sizes: Sequence[int]) -> list[LayerView]:
    """One dimension cut into consecutive parts of the given sizes."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        _taken(b, view, place, range(start, start + size))
        for start, size in zip(starts, sizes, strict=True)
    ]


def _split(b: SpecBuilder, a: SimpleNamespace) -> list[LayerView]:
    total = size_of(a.self.dims[a.dim])
    if isinstance(a.split_size, int):
        step = a.split_size
        return parts_of(b, a.self, a.dim, [min(step, total - i) for i in range(0, total, step)])
    return parts_of(b, a.self, a.dim, list(a.split_size))


def _chunk(b: SpecBuilder, a: SimpleNamespace) -> list[LayerView]:
    total = size_of(a.self.dims[a.dim])
    step = -(-total // a.chunks)
    return parts_of(b, a.self, a.dim, [min(step, total - i) for i in range(0, total, step)])


def _unbound(b: SpecBuilder, a: SimpleNamespace) -> list[LayerView]:
    count = size_of(a.self.dims[a.dim])
    return [_chosen(b, SimpleNamespace(self=a.self, dim=a.dim, index=i)) for i in range(count)]


# --- several values -----------------------------------------------------------------------------


def _joined(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    views = [x for x in a.tensors if isinstance(x, LayerView)]
    place = a.dim % len(views[0].dims)
    axes = {factor.axis for view in views for factor in view.dims[place]} or {"s"}
    sources = [_as_view(b, x, views[0], place, axes) for x in a.tensors]
    if axes == {"c"}:
        sources = [b.gather_channels(source, place) for source in sources]
        whole = _aligned(b, sources)
        layer = b.add(Route, whole)
        dims = list(sources[0].dims)
        dims[place] = all_of("c", b.shapes[layer][0])
        return LayerView(layer, tuple(dims))
    if axes != {"s"}:
        raise NotUnderstoodError("concatenation over something else than channels or positions")
    for i in range(len(views[0].dims)):
        if i != place and len({source.dims[i] for source in sources if source.dims[i]}) > 1:
            raise NotUnderstoodError("concatenation of values that lie differently")
    return _stacked(b, sources, place)


def _stacked(b: SpecBuilder, sources: list[LayerView], place: int) -> LayerView:
    """Concatenation over the height, or over all positions."""
    sizes = [size_of(source.dims[place]) for source in sources]
    shapes = [b.shapes[source.layer] for source in sources]
    widths = {shape[2] for shape in shapes}
    if len(widths) == 1 and sizes == [shape[1] for shape in shapes]:
        layer = b.add(Route, [source.layer for source in sources], "height")
        factor = AxisFactor("s", shapes[0][2], b.shapes[layer][1])
    elif sizes == [shape[1] * shape[2] for shape in shapes]:
        flat = [b.resized(s.layer, size, 1) for s, size in zip(sources, sizes, strict=True)]
        layer = b.add(Route, flat, "height")
        factor = AxisFactor("s", 1, b.shapes[layer][1])
    else:
        raise NotUnderstoodError("concatenation over the width")
    dims = list(max(sources, key=lambda s: sum(len(dim) for dim in s.dims)).dims)
    dims[place] = merged([factor])
    return LayerView(layer, tuple(dims))


def _as_view(
    b: SpecBuilder, x: Any, like: LayerView, place: int | None = None, axes: set[str] | None = None
) -> LayerView:
    """A number or a tensor as a constant that lies as `like` does; views stay."""
    if isinstance(x, LayerView):
        return x
    value = torch.as_tensor(x, dtype=torch.float32) if not isinstance(x, Tensor) else x
    value = value.reshape((1,) * (len(like.dims) - value.dim()) + tuple(value.shape))
    dims = list(like.dims)
    if place is not None:  # concatenated along this one: it has a length of its own there
        dims[place] = all_of(next(iter(axes or {"s"})), value.shape[place])
    for i, dim in enumerate(dims):
        if any(factor.axis == "n" for factor in dim):
            value, dims[i] = value.select(i, 0).unsqueeze(i), ()
        elif value.shape[i] == 1 and i != place:
            dims[i] = ()
        elif value.shape[i] != size_of(dim):
            raise NotUnderstoodError("a constant of another size")
    return _constant(b, value, tuple(dims), like)


def _constant(b: SpecBuilder, value: Tensor, dims: tuple[Dim, ...], like: LayerView) -> LayerView:
    factors = [factor for dim in dims for factor in dim]
    order = sorted(factors, key=lambda factor: ("cs".index(factor.axis), -factor.stride))
    split = value.reshape([factor.size for factor in factors])
    ordered = split.permute([factors.index(factor) for factor in order])
    channels = math.prod(f.size for f in factors if f.axis == "c")
    positions = math.prod(f.size for f in factors if f.axis == "s")
    _, height, width = b.shapes[like.layer]
    size = (height, width) if positions == height * width else (positions, 1)
    if {b.place_of(like, f) for f in factors if f.axis == "s"} == {("width", width)}:
        size = (1, width)
    layer = b.constant(ordered.reshape(channels, *size))
    whole = b.shapes[layer]
    if size[1] == 1 and size[0] == height and width > 1:  # a height without a width
        dims = tuple(tuple(f._replace(stride=1) if f.axis == "s" else f for f in d) for d in dims)
    assert math.prod(whole) == value.numel()
    return LayerView(layer, dims)


def _aligned(b: SpecBuilder, sources: Sequence[LayerView]) -> list[str]:
    """Layers of views with the same layout, so that their values can be combined by element.

    Raises:
        NotUnderstoodError: The views lie differently.
    """
    n_dims = max(len(source.dims) for source in sources)
    padded = [
        LayerView(source.layer, ((),) * (n_dims - len(source.dims)) + source.dims)
        for source in sources
    ]
    largest = max(padded, key=lambda source: math.prod(b.shapes[source.layer][1:]))
    _, height, width = b.shapes[largest.layer]
    layers = []
    for source in padded:
        layer, dims = source
        if b.positions(source) == height * width:
            layer = b.resized(layer, height, width)
        for i, dim in enumerate(dims):
            there = [b.place_of(largest, factor) for factor in largest.dims[i]]
            here = [b.place_of(LayerView(layer, dims), factor) for factor in dim]
            free = not dim or not largest.dims[i] or dim[0].axis == "c"
            if not free and here != there and not _same_part(b, source, largest, i):
                raise NotUnderstoodError("values that lie differently")
        layers.append(layer)
    return layers


def _same_part(b: SpecBuilder, source: LayerView, largest: LayerView, place: int) -> bool:
    """Whether a dimension is the whole height of both, of which one has no width."""
    _, height, width = b.shapes[source.layer]
    wanted = b.place_of(largest, largest.dims[place][0])
    return width == 1 and wanted == ("height", height) and size_of(source.dims[place]) == height


def combine(b: SpecBuilder, record: type, sources: Sequence[Any]) -> LayerView:
    """Sum or product of views, tensors and numbers."""
    views = [x for x in sources if isinstance(x, LayerView)]
    if not views:
        raise NotUnderstoodError("attention weights with a mask or bias")
    like = max(views, key=lambda view: sum(size_of(dim) for dim in view.dims))
    placed = [_as_view(b, x, like) for x in sources]
    placed = [_ordered(b, view) for view in placed]
    like = max(placed, key=lambda view: sum(size_of(dim) for dim in view.dims))
    channel_dims = {
        tuple(tuple(f for f in dim if f.axis == "c") for dim in view.dims)[-len(like.dims) :]
        for view in placed
        if b.shapes[view.layer][0] > 1
    }
    if len(channel_dims) > 1:
        raise NotUnderstoodError("channels that lie differently")
    layer = b.add(record, _aligned(b, placed))
    n_dims = max(len(view.dims) for view in placed)
    dims = []
    for i in range(n_dims):
        there = [v.dims[i - n_dims] for v in placed if i - n_dims >= -len(v.dims)]
        sized = [dim for dim in there if dim]
        largest = [d for v, d in zip(placed, there, strict=False) if d and b.positions(v) > 1]
        dims.append((largest or sized or [()])[0])
    return LayerView(layer, tuple(dims))


def _ordered(b: SpecBuilder, view: LayerView) -> LayerView:
    """The view with a dimension of shuffled channels put in order."""
    for place, dim in enumerate(view.dims):
        whole = size_of(dim) == b.shapes[view.layer][0] and len(dim) > 1
        if whole and all(factor.axis == "c" for factor in dim):
            return b.gather_channels(view, place)
    return view


def _added(b: SpecBuilder, a: SimpleNamespace) -> Any:
    other = a.other
    if getattr(a, "alpha", 1) != 1:
        other = _times(b, other, a.alpha)
    return combine(b, Shortcut, [a.self, other])


def _subtracted(b: SpecBuilder, a: SimpleNamespace) -> Any:
    return combine(b, Shortcut, [a.self, _times(b, a.other, -a.alpha)])


def _reversed(b: SpecBuilder, a: SimpleNamespace) -> Any:
    return combine(b, Shortcut, [_times(b, a.self, -a.alpha), a.other])


def _times(b: SpecBuilder, x: Any, number: float) -> Any:
    return combine(b, Multiply, [x, number]) if isinstance(x, LayerView) else x * number


def _multiplied(b: SpecBuilder, a: SimpleNamespace) -> Any:
    for one, other in ((a.self, a.other), (a.other, a.self)):
        if isinstance(one, AttentionScores):
            return scaled_scores(one, other)
    return combine(b, Multiply, [a.self, a.other])


def _divided(b: SpecBuilder, a: SimpleNamespace) -> Any:
    if isinstance(a.other, LayerView) or getattr(a, "rounding_mode", None):
        raise NotUnderstoodError("division by a value")
    if isinstance(a.self, AttentionScores):
        return scaled_scores(a.self, 1 / a.other)
    return combine(b, Multiply, [a.self, 1 / a.other])


def _power(b: SpecBuilder, a: SimpleNamespace) -> Any:
    if a.exponent != 2:
        raise NotUnderstoodError(f"power {a.exponent}")
    return combine(b, Multiply, [a.self, a.self])


VIEW_RULES: dict[str, Callable[[SpecBuilder, SimpleNamespace], Any]] = {
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"), _viewed
    ),
    **dict.fromkeys(
        ("contiguous", "clone", "alias", "detach", "dropout", "feature_dropout", "identity", "to",
         "_to_copy", "lift_fresh_copy"),
        _same,
    ),
    "permute": _permuted,
    "transpose": _transposed,
    "expand": _expanded,
    "expand_as": _expanded,
    "slice": _sliced,
    "select": _chosen,
    "narrow": lambda b, a: _taken(b, a.self, a.dim, range(a.start, a.start + a.length)),
    "split": _split,
    "split_with_sizes": lambda b, a: parts_of(b, a.self, a.dim, list(a.split_sizes)),
    "chunk": _chunk,
    "unbind": _unbound,
    "cat": _joined,
    "concat": _joined,
    "add": _added,
    "sub": _subtracted,
    "rsub": _reversed,
    "mul": _multiplied,
    "div": _divided,
    "neg": lambda b, a: _times(b, a.self, -1),
    "pow": _power,
}  # fmt: skip
