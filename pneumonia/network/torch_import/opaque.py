"""Modules that stay whole: hidden from the tracer, with their borders as layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.layouts import (
    AxisFactor,
    Dim,
    LayerView,
    UnknownPartError,
    from_layout,
    merged,
    size_of,
    to_layout,
)
from pneumonia.runtime.model.layers import Opaque, Shape

OPAQUE_OP = "pneumonia.opaque.default"


@torch.library.custom_op("pneumonia::opaque", mutates_args=())
def _opaque(inputs: list[Tensor], path: str, shape: list[int], several: bool) -> Tensor:
    """Stands for a module while a network is traced; never runs."""
    raise NotImplementedError


@_opaque.register_fake
def _(inputs: list[Tensor], path: str, shape: list[int], several: bool) -> Tensor:
    return inputs[0].new_empty(shape)


class _Hidden(nn.Module):
    def __init__(self, path: str, shape: Sequence[int], n_others: int | None) -> None:
        super().__init__()
        self.path, self.shape, self.n_others = path, list(shape), n_others

    def forward(self, *inputs: Tensor) -> Any:
        made: Tensor = _opaque(list(inputs), self.path, self.shape, self.n_others is not None)
        return made if self.n_others is None else (made, *[None] * self.n_others)


class LaidOutModule(nn.Module):
    """A module between values (N, C, H, W) of a description.

    Args:
        inputs: How its torch inputs lie over the values.
        output: How its torch output lies.
        shape: (C, H, W) of its output.
        several: Whether it returns a tuple, whose first tensor is the output.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[Sequence[Dim]],
        output: Sequence[Dim],
        shape: Shape,
        several: bool = False,
    ) -> None:
        super().__init__()
        self.module, self.several = module, several
        self.inputs, self.output, self.shape = list(inputs), list(output), shape

    def forward(self, *values: Tensor) -> Tensor:
        """(N, C, H, W) of each input -> (N, C, H, W)."""
        inputs = [to_layout(x, dims) for x, dims in zip(values, self.inputs, strict=True)]
        made = self.module(*inputs)
        return from_layout(made[0] if self.several else made, self.output, self.shape)


@contextmanager
def replaced_by_stand_ins(
    module: nn.Module, paths: Sequence[str], example: Tensor
) -> Iterator[dict[str, Any]]:
    """Replace submodules by stand-ins of one op, and put them back afterwards.

    Args:
        module: Changed in between.
        paths: Of the submodules; one inside another is left to it.
        example: Run once, to see what the submodules return.

    Yields:
        Path -> the hidden submodule.
    """
    outer = [p for p in paths if not any(p.startswith(other + ".") for other in paths)]
    found = {path: module.get_submodule(path) for path in outer}
    shapes = _output_shapes(module, found, example)
    try:
        for path in outer:
            module.set_submodule(path, _Hidden(path, *shapes[path]))
        yield found
    finally:
        for path, original in found.items():
            module.set_submodule(path, original)


def _output_shapes(
    module: nn.Module, parts: dict[str, nn.Module], example: Tensor
) -> dict[str, tuple[tuple[int, ...], int | None]]:
    """Path -> shape of the first tensor that a submodule returns, and how many things beside it."""
    shapes: dict[str, tuple[tuple[int, ...], int | None]] = {}

    def keep(path: str, output: Any) -> None:
        several = isinstance(output, tuple) and len(output) > 0
        first = output[0] if several else output
        if not isinstance(first, Tensor) or not 2 <= first.dim() <= 4:
            raise UnknownPartError(
                path,
                "Module cannot be kept whole",
                expected="a tensor (N, C, H, W), (N, T, D) or (N, n), alone or first in a tuple",
                found=type(first).__name__,
                where=f"module {path!r}",
            )
        if len(first) != len(example):
            raise UnknownPartError(
                path,
                "Module cannot be kept whole",
                expected=f"the batch of {len(example)} as first dimension",
                found=str(tuple(first.shape)),
                where=f"module {path!r}",
                fix="Use batch_first=True, or a larger module around it",
            )
        shapes[path] = (tuple(first.shape), len(output) - 1 if several else None)

    hooks = [
        part.register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        for path, part in parts.items()
    ]
    try:
        if parts:
            with torch.no_grad():
                module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def opaque_layer(
    b: SpecBuilder, inputs: Sequence[LayerView], path: str, sizes: Sequence[int], several: bool
) -> LayerView:
    """The layer of a hidden module.

    Its output lies like its first input where that has as many dimensions, channels last or not;
    else as (N, C, H, W), (N, T, D) with D channels, or (N, C).
    """
    given = inputs[0].dims if inputs else ()
    if tuple(size_of(dim) for dim in given) == tuple(sizes):
        dims, shape = tuple(given), b.shapes[inputs[0].layer]
    else:
        order = _order_of(given, len(sizes)) or {2: "nc", 3: "nsc", 4: "ncss"}[len(sizes)]
        dims, shape = _in_order(order, sizes)
    own = b.modules[path]
    whole = LaidOutModule(own, [view.dims for view in inputs], dims, shape, several)
    b.modules[path] = whole
    layer = b.add(Opaque, [view.layer for view in inputs], path, *shape, own=True)
    return LayerView(layer, dims)


def _order_of(dims: Sequence[Dim], n_dims: int) -> str:
    """Axes of the dimensions, as `ncss` or `nssc`; empty where they are others."""
    axes = ["".join(sorted({factor.axis for factor in dim})) or "s" for dim in dims]
    order = "".join(axes)
    known = len(dims) == n_dims and order in ("ncss", "nssc", "ncs", "nsc", "nc")
    return order if known else ""


def _in_order(order: str, sizes: Sequence[int]) -> tuple[tuple[Dim, ...], Shape]:
    """Dimensions of these axes and sizes, and (C, H, W)."""
    by_axis = list(zip(order, sizes, strict=True))
    channels = next(size for axis, size in by_axis if axis == "c")
    height, width = (*(size for axis, size in by_axis if axis == "s"), 1, 1)[:2]
    dims, stride = [], width
    for axis, size in by_axis:
        dims.append(merged([AxisFactor(axis, stride if axis == "s" else 1, size)]))
        stride = 1 if axis == "s" else stride  # rows first, then columns
    return tuple(dims), (channels, height, width)
