"""Which filters of any torch module are one channel, and which vectors go with them.

The module is run once; the calls of torch functions are followed. A convolution or linear layer
makes new channels, a depthwise one keeps those of its input; activations, pooling, dropout and
batch norm pass channels on; sums and products tie them; concatenation puts them side by side. After
any other function (chunks, permutations, layer norm, attention) channels are unknown, which couples
nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pneumonia.runtime.errors import PruneError

CONVOLUTIONS = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip
UNARY = (
    "relu", "relu6", "leaky_relu", "silu", "gelu", "hardswish", "hardtanh", "tanh", "elu", "selu",
    "mish", "sigmoid", "hardsigmoid", "clamp", "dropout", "dropout1d", "dropout2d", "dropout3d",
    "contiguous", "clone", "detach", "to", "float", "neg", "abs", "square", "sqrt", "pow",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "interpolate", "pad", "prelu",
)  # fmt: skip
VIEWS = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "expand_as")
SUMS = ("add", "sub", "radd", "rsub", "iadd", "isub", "maximum", "minimum")
PRODUCTS = ("mul", "rmul", "imul", "div", "truediv", "itruediv", "multiply")


class _Part(NamedTuple):
    """Neighbouring channels of a tensor."""

    space: int  # number of the channels' identity, see `_Tracer`
    size: int  # channels
    # weights whose filters are summed up in them; none: their origin is unknown
    sources: frozenset[str]


class _Channels(NamedTuple):
    """Where a tensor has which channels; `axis` counts from the first dimension."""

    axis: int
    parts: tuple[_Part, ...]


class FilterVector(NamedTuple):
    """A bias, or a gain or shift of a batch norm, part of which belongs to filters."""

    name: str  # of the parameter
    first: int  # its entry for the first filter
    size: int  # entries
    # weights whose filters emit the channel: without all of them it is a constant
    sources: frozenset[str]


class FilterTrace(NamedTuple):
    """The filters of a module."""

    # weights whose filters of one index are one channel, in execution order; each weight of a
    # convolution or linear layer that was called is in one group
    groups: list[tuple[str, ...]]
    vectors: list[FilterVector]  # what goes with filters
    loose: list[str]  # weights whose filters are added to channels that are unknown


def trace_filters(module: nn.Module, example_inputs: Sequence[Any]) -> FilterTrace:
    """Run a module in evaluation mode and follow its channels.

    Args:
        module: Not changed.
        example_inputs: Positional arguments of its forward.

    Raises:
        PruneError: The module fails on them.
    """
    training = {part: part.training for part in module.modules()}
    tracer = _Tracer({id(p): name for name, p in module.named_parameters()})
    try:
        module.eval()
        with torch.no_grad(), tracer:
            module(*example_inputs)
    except Exception as error:  # whatever the module's code raises
        raise PruneError(
            "Module does not run on the example inputs",
            found=f"{type(error).__name__}: {error}"[:200],
            fix="example_inputs are the positional arguments of its forward",
        ) from None
    finally:
        for part, mode in training.items():
            part.training = mode
    return tracer.found()


class _Tracer(TorchFunctionMode):
    """Channels of the tensors that torch functions return.

    A space is the identity of the filters of a layer; tied spaces are one (`self._root`).
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self._parents: list[int] = []
        self._members: list[tuple[str, int]] = []  # weight, its space
        self._vectors: dict[FilterVector, None] = {}
        self._loose: dict[str, None] = {}
        self._channels: dict[int, tuple[Tensor, _Channels]] = {}  # the tensor keeps its id alive

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a torch function and follow its channels."""
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            name = getattr(func, "__name__", "").strip("_")
            channels = self._follow(name, args, kwargs or {}, made)
            if channels is None:
                self._channels.pop(id(made), None)  # in place: no longer what it was
            else:
                self._channels[id(made)] = (made, channels)
        return made

    def found(self) -> FilterTrace:
        """Groups and vectors so far."""
        groups: dict[int, list[str]] = {}
        for name, space in self._members:
            group = groups.setdefault(self._root(space), [])
            if name not in group:
                group.append(name)
        tied = [tuple(group) for group in groups.values()]
        return FilterTrace(tied, list(self._vectors), list(self._loose))

    # --- rules ----------------------------------------------------------------------------------

    def _follow(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], made: Tensor
    ) -> _Channels | None:
        if name in CONVOLUTIONS or name == "linear":
            return self._layer(name, args, kwargs, made)
        if name == "batch_norm":
            return self._norm(args, kwargs)
        if name in ("cat", "concat", "concatenate"):
            return self._joined(args, kwargs, made)
        if name in SUMS or name in PRODUCTS:
            return self._combined(args, made, name in PRODUCTS)
        channels = self._of(args[0]) if args else None
        if channels is None:
            return None
        if name in UNARY:
            return channels if self._fits(channels, made) else None
        if name == "mean":
            given = args[1] if len(args) > 1 else kwargs.get("dim", channels.axis)
            dims = given if isinstance(given, (tuple, list)) else [given]
            over = {dim % args[0].dim() for dim in dims}
            return None if channels.axis in over else self._viewed(args[0], made)
        return self._viewed(args[0], made) if name in VIEWS else None

    def _layer(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], made: Tensor
    ) -> _Channels | None:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs)
        weight, bias = given["weight"], given.get("bias")
        owner = self._names.get(id(weight))
        if owner is None:
            return None
        axis = made.dim() - (1 if name == "linear" else weight.dim() - 1)
        size = made.shape[axis]
        entry = self._of(given["input"])
        space = self._space(owner)
        if entry is not None and _is_depthwise(name, weight, entry, size):
            self._tie(space, entry.parts[0].space)  # also if unknown: then it ties nothing
        sources = frozenset({owner})
        self._add_vector(bias, [_Part(space, size, sources)])
        return _Channels(axis, (_Part(space, size, sources),))

    def _space(self, owner: str) -> int:
        """The space of a weight's filters; a weight that is called again keeps its own."""
        for name, space in self._members:
            if name == owner:
                return space
        self._parents.append(len(self._parents))
        self._members.append((owner, len(self._parents) - 1))
        return len(self._parents) - 1

    def _norm(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Channels | None:
        names = ("input", "running_mean", "running_var", "weight", "bias")
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        channels = self._of(given["input"])
        if channels is None or channels.axis != 1:
            return None
        for name in ("weight", "bias"):
            self._add_vector(given.get(name), channels.parts)
        return channels

    def _add_vector(self, vector: Any, parts: Sequence[_Part]) -> None:
        name = self._names.get(id(vector))
        first = 0
        for part in parts:
            if name is not None and part.sources:
                self._vectors[FilterVector(name, first, part.size, part.sources)] = None
            first += part.size

    def _joined(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], made: Tensor
    ) -> _Channels | None:
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % made.dim()
        parts: list[_Part] = []
        for tensor in args[0]:
            channels = self._of(tensor)
            if channels is None or channels.axis != dim:
                parts.append(self._unknown(tensor.shape[dim]))
            else:
                parts += channels.parts
        return _Channels(dim, tuple(parts))

    def _unknown(self, size: int) -> _Part:
        """Channels that no known filters emit."""
        self._parents.append(len(self._parents))
        return _Part(len(self._parents) - 1, size, frozenset())

    def _combined(self, args: Sequence[Any], made: Tensor, product: bool) -> _Channels | None:
        tensors = [x for x in args[:2] if isinstance(x, Tensor) and x.dim()]
        known = [c for c in map(self._of, tensors) if c is not None and self._fits(c, made)]
        if len(tensors) == 2 and len(known) < 2:  # an unknown factor keeps a zero, a summand not
            if product and known:
                return known[0]
            self._note_loose([part for channels in known for part in channels.parts])
            return None
        if len(known) < 2:
            return known[0] if known else None
        one, other = known
        if one.axis != other.axis or [p.size for p in one.parts] != [p.size for p in other.parts]:
            self._note_loose([*one.parts, *other.parts])
            return None
        pairs = zip(one.parts, other.parts, strict=True)
        return _Channels(one.axis, tuple(self._merged(a, b, product) for a, b in pairs))

    def _merged(self, one: _Part, other: _Part, product: bool) -> _Part:
        """Channels of a sum or product of both."""
        if one.sources and other.sources:
            self._tie(one.space, other.space)
            return _Part(one.space, one.size, one.sources | other.sources)
        if product:
            return one if one.sources else other
        self._note_loose([one, other])
        return self._unknown(one.size)

    def _note_loose(self, parts: Sequence[_Part]) -> None:
        self._loose.update({name: None for part in parts for name in sorted(part.sources)})

    def _viewed(self, source: Any, made: Tensor) -> _Channels | None:
        """Channels after a view or mean: as many entries lie before and in their dimension."""
        channels = self._of(source)
        if channels is None:
            return None
        before = math.prod(source.shape[: channels.axis])
        size = source.shape[channels.axis]
        for axis in range(made.dim()):
            if math.prod(made.shape[:axis]) == before and made.shape[axis] == size:
                return _Channels(axis, channels.parts)
        return None

    # --- identities -----------------------------------------------------------------------------

    def _of(self, tensor: Any) -> _Channels | None:
        found = self._channels.get(id(tensor))
        return found[1] if found is not None else None

    @staticmethod
    def _fits(channels: _Channels, made: Tensor) -> bool:
        size = sum(part.size for part in channels.parts)
        return channels.axis < made.dim() and made.shape[channels.axis] == size

    def _root(self, space: int) -> int:
        while self._parents[space] != space:
            space = self._parents[space]
        return space

    def _tie(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        self._parents[second] = first


def _is_depthwise(name: str, weight: Tensor, entry: _Channels, size: int) -> bool:
    """Whether filter i reads channel i alone."""
    per_filter = weight.shape[1] == 1 and weight.shape[0] == size  # also if transposed
    return name != "linear" and per_filter and len(entry.parts) == 1 and entry.parts[0].size == size
