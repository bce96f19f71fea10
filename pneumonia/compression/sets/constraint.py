"""What a compression method is: a set of allowed weights and the Euclidean projection onto it.

Weights are OIHW; a fully connected weight (O, I) is treated as (O, I, 1, 1). The GEMM view of a
weight is the matrix M of O rows (filters) and P = I*KH*KW columns, column j = i*KH*KW + kh*KW + kw.
Sums of squares are taken in float64, so that no finite float32 weight under- or overflows, and
every choice of the best units breaks ties towards the lower index.
"""

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits
from pneumonia.runtime.errors import PruneError

WEIGHT_BITS = 32  # of one stored float32 weight


class Projection(NamedTuple):
    """The nearest allowed point of a set.

    Attributes:
        z: The point, shaped like the projected tensor.
        mask: Bool, same shape: the places the set lets be non-zero. For sparsity `z == v * mask`.
    """

    z: Tensor
    mask: Tensor


class Constraint(Protocol):
    """A set of allowed values of one weight tensor."""

    def project(self, v: Tensor) -> Projection:
        """The allowed point nearest to `v`; `project(project(v).z).z` is `project(v).z`."""
        ...

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Bits that a point of the set takes, values and indices."""
        ...


class JointConstraint(Protocol):
    """A set of allowed values of several layers' weights at once; all the ADMM engine knows."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers the set ties together."""
        ...

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """The allowed point nearest to `v`, layer by layer.

        Args:
            near: An allowed point that a search may start from (the previous Z); exact
                projections do without.
        """
        ...


class PerLayer:
    """One single-layer constraint per layer, as a joint one; the layers do not see each other."""

    def __init__(self, constraints: Mapping[str, Constraint]) -> None:
        check_constraints(constraints)
        self.constraints = dict(constraints)

    @property
    def layers(self) -> tuple[str, ...]:
        """The constrained layers."""
        return tuple(self.constraints)

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """Project each layer onto its own set; `near` is not needed."""
        return {name: c.project(v[name]) for name, c in self.constraints.items()}


def detach_to_cpu(weight: Tensor) -> Tensor:
    """A weight where and as projections take it: detached, on the CPU, float32 or float64."""
    value = weight.detach().cpu()
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def gemm_view(v: Tensor) -> Tensor:
    """The (O, P) matrix of a weight (O, I, KH, KW) or (O, I)."""
    return v.reshape(v.shape[0], -1)


def keep_count(n: int, rate: float, multiple: int = 1) -> int:
    """Units kept of n at a pruning rate: `clip(round(n / rate), 1, n)`, an explicit integer.

    Args:
        n: Units there are.
        rate: n / kept, >= 1.
        multiple: The count is rounded to a multiple of this (at least one multiple, at most n).
    """
    kept = round(n / rate / multiple) * multiple
    return min(max(kept, multiple, 1), n)


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """The k largest of n scores as a bool mask (n,); of equal scores the lower index wins.

    By selection in linear time: n is in the millions for single weights and kernels, where sorting
    would cost seconds per network.

    Args:
        scores: (n,) on the CPU, finite or infinite.
        k: 0 .. n.
    """
    n = scores.numel()
    if k >= n:
        return torch.ones(n, dtype=torch.bool)
    if k <= 0:
        return torch.zeros(n, dtype=torch.bool)
    values = scores.detach().numpy()
    threshold = np.partition(values, n - k)[n - k]
    mask = values > threshold
    missing = k - int(np.count_nonzero(mask))
    mask[np.flatnonzero(values == threshold)[:missing]] = True
    return torch.from_numpy(mask)


def check_n_keep(n_keep: object, what: str) -> None:
    """Refuse a budget that is not an integer, or that would empty the layer."""
    if not isinstance(n_keep, numbers.Integral):
        raise PruneError(
            f"Budget of {what} is not an integer", expected="an int >= 1", found=repr(n_keep)
        )
    if n_keep < 1:
        raise PruneError(f"Budget of {what} empties the layer", expected=">= 1", found=repr(n_keep))


def check_integer(value: object, what: str, least: int) -> None:
    """Refuse a setting that is not an integer, or that is too small.

    Args:
        value: The setting.
        what: Its name in the message, starting with a capital letter.
        least: The smallest valid value.
    """
    if not isinstance(value, numbers.Integral) or value < least:
        raise PruneError(f"{what} is not valid", expected=f"an int >= {least}", found=repr(value))


def check_number(value: object, what: str, expected: str, greatest: float) -> None:
    """Refuse a setting that is not a number from 0 to `greatest`, infinity not included.

    Args:
        value: The setting.
        what: Its name in the message, starting with a capital letter.
        expected: What the message says is valid.
        greatest: The largest valid value.
    """
    valid = isinstance(value, numbers.Real) and 0 <= float(value) <= greatest
    if not valid or value == math.inf:
        raise PruneError(f"{what} is not valid", expected=expected, found=repr(value))


def check_choice(value: object, choices: Any, what: str) -> None:
    """Refuse a word that is not one of a `Literal`: without types it would pass unnoticed.

    Args:
        value: The setting.
        choices: The Literal.
        what: Its name in the message, starting with a capital letter.
    """
    if value not in get_args(choices):
        raise PruneError(
            f"{what} is not known", expected=" or ".join(get_args(choices)), found=repr(value)
        )


def check_constraints(constraints: object) -> None:
    """Refuse anything but a mapping of names to constraints of single weights.

    Raises:
        PruneError: It is not a mapping, or a value is a number, a class or a set of several layers.
    """
    if not isinstance(constraints, Mapping):
        raise PruneError(
            "Constraints are not given by name",
            expected="a dict of parameter names and constraints, as {'conv.weight': Filters(8)}",
            found=type(constraints).__name__,
        )
    for name, value in constraints.items():
        single = callable(getattr(value, "project", None)) and not hasattr(value, "layers")
        if isinstance(value, type) or not single:
            raise PruneError(
                "Not a constraint of one weight",
                expected="a constraint such as Filters(8)",
                found=_shown(value),
                where=str(name),
                fix="Say by a constraint what of the weight may stay",
            )


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    plain = value is None or isinstance(value, str | numbers.Number)
    return repr(value) if plain else type(value).__name__


def check_finite(v: Tensor, where: str = "weight") -> None:
    """Refuse NaN and infinity: they have no order, so no projection.

    Raises:
        PruneError: A value is not finite.
    """
    # The sum of a tensor with a NaN or an infinity is never finite; float64 sums cannot overflow.
    if not math.isfinite(v.sum(dtype=torch.float64).item()):
        raise PruneError(
            "Weights are not finite",
            expected="finite numbers",
            where=where,
            fix="Training has diverged: lower the learning rate or rho",
        )


def row_energies(v: Tensor) -> Tensor:
    """Sum of squares of each filter: float64 (O,)."""
    return gemm_view(v).double().square().sum(1)


def masked(v: Tensor, mask: Tensor) -> Projection:
    """Keep `v` where the mask (broadcast to its shape) is true; zeros elsewhere are +0."""
    full = mask.expand(v.shape)
    return Projection(torch.where(full, v, torch.zeros((), dtype=v.dtype, device=v.device)), full)
