"""Pooling, statistics over positions, padding and other sizes, as layers."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.layer_rules import PAD_MODES, plain
from pneumonia.network.torch_import.layouts import (
    AxisFactor,
    Dim,
    LayerView,
    NotUnderstoodError,
    all_of,
    merged,
)
from pneumonia.network.torch_import.moment_rules import channel_mean
from pneumonia.runtime.model import layers


def _pool_sizes(b: SpecBuilder, a: SimpleNamespace, source: str, n_dims: int) -> dict[str, Any]:
    """Kernel, stride, padding and the rows and columns that `ceil_mode` adds behind."""
    kernel = plain(a.kernel_size, n_dims)
    found: dict[str, Any] = {
        "kernel": kernel,
        "stride": plain(a.stride, n_dims) if len(a.stride) else kernel,
        "padding": plain(a.padding, n_dims, 0),
    }
    sides, steps, pads = (layers.pair(found[key]) for key in ("kernel", "stride", "padding"))
    extra = []
    for size, side, step, pad in zip(b.shapes[source][1:], sides, steps, pads, strict=True):
        more = 0
        if a.ceil_mode:
            out = -(-(size + 2 * pad - side) // step) + 1
            if (out - 1) * step >= size + pad:  # a window must begin inside
                out -= 1
            more = max(0, (out - 1) * step + side - size - 2 * pad)
        extra.append(more)
    found["extra"] = tuple(extra)
    return found


def _max_pool(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = len(a.self.dims) - 2
    source = b.as_map(a.self)
    if any(number != 1 for number in a.dilation):
        raise NotUnderstoodError("max pooling with dilation")
    sizes = _pool_sizes(b, a, source, n_dims)
    end = [
        pad + more for pad, more in zip(layers.pair(sizes["padding"]), sizes["extra"], strict=True)
    ]
    layer = b.add(
        layers.MaxPool, [source], sizes["kernel"], sizes["stride"], sizes["padding"], plain(end, 2),
        own=True,
    )  # fmt: skip
    return b.map_of(layer, n_dims + 2)


def _avg_pool(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = len(a.self.dims) - 2
    source = b.as_map(a.self)
    sizes = _pool_sizes(b, a, source, n_dims)
    if any(sizes["extra"]) or getattr(a, "divisor_override", None):
        raise NotUnderstoodError("average pooling with ceil_mode or a divisor")
    layer = b.add(
        layers.AvgPool, [source], sizes["kernel"], sizes["stride"], sizes["padding"],
        a.count_include_pad, own=True,
    )  # fmt: skip
    return b.map_of(layer, n_dims + 2)


def _adaptive(record: type) -> Callable[[SpecBuilder, SimpleNamespace], Any]:
    def rule(b: SpecBuilder, a: SimpleNamespace) -> Any:
        n_dims = len(a.self.dims) - 2
        source = b.as_map(a.self)
        sizes = b.shapes[source][1:]
        wanted = [*([a.output_size] if isinstance(a.output_size, int) else a.output_size), 1][:2]
        view = b.map_of(_reduced(b, record, source, sizes, wanted), n_dims + 2)
        return (view, None) if record is layers.MaxPool else view  # torch gives the places as well

    return rule


def _reduced(
    b: SpecBuilder, record: type, source: str, sizes: Sequence[int], wanted: Sequence[int]
) -> str:
    """Pooling to equal windows."""
    if list(wanted) == list(sizes):
        return source
    if any(size % count for size, count in zip(sizes, wanted, strict=True)):
        raise NotUnderstoodError(f"adaptive pooling of {list(sizes)} to {list(wanted)}")
    if record is layers.AvgPool and list(wanted) == [1, 1]:
        return b.add(layers.GlobalAvgPool, [source], own=True)
    kernel = plain([size // count for size, count in zip(sizes, wanted, strict=True)], 2)
    return b.add(record, [source], kernel, kernel, own=True)


def _mean(b: SpecBuilder, a: SimpleNamespace) -> Any:
    return channel_mean(b, a) or _over_positions(b, a, layers.AvgPool)


def _over_positions(b: SpecBuilder, a: SimpleNamespace, record: type) -> LayerView:
    """Mean or maximum over height, width or both."""
    view, n_dims = a.self, len(a.self.dims)
    over = sorted(place % n_dims for place in (getattr(a, "dim", None) or range(n_dims)))
    gone = merged([factor for place in over for factor in view.dims[place]])
    _, height, width = b.shapes[view.layer]
    rows, columns = AxisFactor("s", width, height), AxisFactor("s", 1, width)
    wanted: dict[Dim, tuple[int, int]] = {
        all_of("s", height * width): (1, 1),
        merged([rows]): (1, width),
        merged([columns]): (height, 1),
    }
    if gone not in wanted:
        raise NotUnderstoodError("a statistic over something else than positions")
    layer = _reduced(b, record, view.layer, (height, width), wanted[gone])
    # without its width, a map's height has other strides
    scaled = {rows: AxisFactor("s", 1, height)} if wanted[gone] == (height, 1) else {}
    dims = [
        () if place in over else tuple(scaled.get(factor, factor) for factor in dim)
        for place, dim in enumerate(view.dims)
    ]
    return LayerView(layer, tuple(d for i, d in enumerate(dims) if i not in over or a.keepdim))


def _pad(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    n_dims = len(a.self.dims) - 2
    borders = list(a.pad)
    if min(borders) < 0 or len(borders) > 2 * n_dims or a.mode not in PAD_MODES:
        raise NotUnderstoodError(f"padding {borders} {a.mode}")
    pairs = [tuple(borders[i : i + 2]) for i in range(0, len(borders), 2)]  # last dimension first
    pairs += [(0, 0)] * (n_dims - len(pairs))
    rows, columns = (pairs[0], (0, 0)) if n_dims == 1 else (pairs[1], pairs[0])
    source = b.as_map(a.self)
    layer = b.add(
        layers.Pad, [source], rows, columns, PAD_MODES[a.mode], float(a.value or 0), own=True
    )
    return b.map_of(layer, n_dims + 2)


def _upsample(mode: str) -> Callable[[SpecBuilder, SimpleNamespace], LayerView]:
    def rule(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
        source, n_dims = b.as_map(a.input), len(a.input.dims)
        sizes = b.shapes[source][1:]
        wanted = (*a.out_shape[2:], 1)[:2]
        for factor, size, out in zip(a.scale_factors or (), sizes, wanted, strict=False):
            if size * factor != out:  # torch then steps by the factor, not by the sizes
                raise NotUnderstoodError(f"sizes {list(sizes)} times {list(a.scale_factors)}")
        settings = mode + ("_corners" if getattr(a, "align_corners", False) else "")
        scale = wanted[0] // sizes[0]
        if wanted == sizes:
            return a.input  # type: ignore[no-any-return]
        if wanted == (scale * sizes[0], scale * sizes[1]):
            layer = b.add(layers.Upsample, [source], scale, settings, own=True)
        else:
            layer = b.add(layers.Resize, [source], *wanted, settings, own=True)
        return b.map_of(layer, n_dims)

    return rule


def _pixel_shuffle(b: SpecBuilder, a: SimpleNamespace) -> LayerView:
    return b.map_of(b.add(layers.PixelShuffle, [b.as_map(a.self)], a.upscale_factor, own=True), 4)


POOL_RULES: dict[str, Callable[[SpecBuilder, SimpleNamespace], Any]] = {
    "max_pool1d": _max_pool,
    "max_pool2d": _max_pool,
    "avg_pool1d": _avg_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool1d": _adaptive(layers.AvgPool),
    "adaptive_avg_pool2d": _adaptive(layers.AvgPool),
    "adaptive_max_pool1d": _adaptive(layers.MaxPool),
    "adaptive_max_pool2d": _adaptive(layers.MaxPool),
    "mean": _mean,
    "amax": lambda b, a: _over_positions(b, a, layers.MaxPool),
    "pad": _pad,
    "upsample_nearest1d": _upsample("nearest"),
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_linear1d": _upsample("bilinear"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "pixel_shuffle": _pixel_shuffle,
}
