"""Layer and RMS norm over the channels that are written out as means, squares and roots."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.layouts import LayerView, NotUnderstoodError
from pneumonia.runtime.model.layers import Multiply, Norm


class ChannelMoment(NamedTuple):
    """A value on its way to a layer norm, or to an RMS norm."""

    view: LayerView  # the value that is normalised
    place: int  # its dimension of the channels
    # `mean`, `centred` (value - mean), `square` of it, `variance`, its root `deviation`, or one
    # over the root, `inverse`
    stage: str
    eps: float = 0.0  # added to the variance so far
    centred: bool = True  # whether the mean was subtracted; else the variance is the mean square


def channel_mean(b: SpecBuilder, a: SimpleNamespace) -> ChannelMoment | None:
    """The mean over all channels, or None where it is over something else."""
    view = a.self.view if isinstance(a.self, ChannelMoment) else a.self
    over = list(getattr(a, "dim", None) or ())
    if len(over) != 1 or not a.keepdim:
        return None
    place = over[0] % len(view.dims)
    if {factor.axis for factor in view.dims[place]} != {"c"}:
        return None
    if isinstance(a.self, ChannelMoment):
        return _next(a.self, {"square": "variance"}) if place == a.self.place else None
    squared = b.layers.get(view.layer)
    if isinstance(squared, Multiply) and len(squared.inputs) == 2 and len(set(squared.inputs)) == 1:
        value = b.gather_channels(view._replace(layer=squared.inputs[0]), place)
        return ChannelMoment(value, place, "variance", centred=False)
    return ChannelMoment(b.gather_channels(view, place), place, "mean")


def _next(moment: ChannelMoment, steps: dict[str, str]) -> ChannelMoment:
    if moment.stage not in steps:
        raise NotUnderstoodError("a statistic of channels that is not a layer norm")
    return moment._replace(stage=steps[moment.stage])


def _mean(b: SpecBuilder, a: SimpleNamespace) -> Any:
    found = channel_mean(b, a)
    if found is None:
        raise NotUnderstoodError("a mean that is not over the channels alone")
    return found


def _variance(b: SpecBuilder, a: SimpleNamespace) -> Any:
    correction = int(a.unbiased) if hasattr(a, "unbiased") else getattr(a, "correction", 1)
    found = channel_mean(b, a) if isinstance(a.self, LayerView) else None
    if found is None or correction != 0:
        raise NotUnderstoodError("a variance other than of all channels, with `unbiased=False`")
    return found._replace(stage="variance")


def _deviation(b: SpecBuilder, a: SimpleNamespace) -> Any:
    return _variance(b, a)._replace(stage="deviation")


def _subtracted(b: SpecBuilder, a: SimpleNamespace) -> Any:
    mean = a.other
    if not isinstance(mean, ChannelMoment) or mean.stage != "mean" or a.alpha != 1:
        raise NotUnderstoodError("a statistic of channels that is not a layer norm")
    if not isinstance(a.self, LayerView) or b.gather_channels(a.self, mean.place) != mean.view:
        raise NotUnderstoodError("the mean of other channels")
    return mean._replace(stage="centred")


def _multiplied(b: SpecBuilder, a: SimpleNamespace) -> Any:
    if a.self == a.other:
        return _next(a.self, {"centred": "square"})
    one, other = sorted((a.self, a.other), key=lambda x: getattr(x, "stage", ""))
    return _normalised(b, one, other, "inverse")


def _divided(b: SpecBuilder, a: SimpleNamespace) -> Any:
    if a.self == 1:
        return _next(a.other, {"deviation": "inverse"})
    return _normalised(b, a.self, a.other, "deviation")


def _normalised(b: SpecBuilder, centred: Any, scale: Any, wanted: str) -> LayerView:
    if isinstance(scale, ChannelMoment) and not scale.centred and isinstance(centred, LayerView):
        value = b.gather_channels(centred, scale.place)
        centred = scale._replace(view=value, stage="centred")  # as it is: nothing is subtracted
    fits = isinstance(centred, ChannelMoment) and isinstance(scale, ChannelMoment)
    if not fits or (centred.stage, scale.stage) != ("centred", wanted):
        raise NotUnderstoodError("a statistic of channels that is not a layer norm")
    if centred.view != scale.view:
        raise NotUnderstoodError("the variance of other channels")
    channels = b.shapes[scale.view.layer][0]
    layer = b.add(
        Norm, [scale.view.layer], channels, "layer" if scale.centred else "rms", eps=scale.eps,
        affine=False, own=True,
    )  # fmt: skip
    return LayerView(layer, scale.view.dims)


def _added(b: SpecBuilder, a: SimpleNamespace) -> Any:
    one, other = (a.self, a.other) if isinstance(a.self, ChannelMoment) else (a.other, a.self)
    single = isinstance(other, (int, float)) or (isinstance(other, Tensor) and other.numel() == 1)
    if one.stage != "variance" or not single or getattr(a, "alpha", 1) != 1:
        raise NotUnderstoodError("a statistic of channels that is not a layer norm")
    return one._replace(eps=one.eps + float(other))


def _power(b: SpecBuilder, a: SimpleNamespace) -> Any:
    steps = {
        2: {"centred": "square"},
        0.5: {"variance": "deviation"},
        -0.5: {"variance": "inverse"},
    }
    return _next(a.self, steps.get(a.exponent, {}))


MOMENT_RULES: dict[str, Callable[[SpecBuilder, SimpleNamespace], Any]] = {
    "mean": _mean,
    "var": _variance,
    "std": _deviation,
    "sub": _subtracted,
    "mul": _multiplied,
    "div": _divided,
    "add": _added,
    "pow": _power,
    "square": lambda b, a: _next(a.self, {"centred": "square"}),
    "sqrt": lambda b, a: _next(a.self, {"variance": "deviation"}),
    "rsqrt": lambda b, a: _next(a.self, {"variance": "inverse"}),
    "reciprocal": lambda b, a: _next(a.self, {"deviation": "inverse"}),
}
