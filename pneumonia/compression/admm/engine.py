"""The ADMM engine: scaled form, any joint constraints over any named weights.

    minimise f(W) subject to W in S_1, ..., W in S_m        (one (Z_i, U_i) pair per set)

    W-step   the optimiser, on f(W) + sum_i rho/2 ||W - Z_i + U_i||^2
    Z-step   Z_i <- projection onto S_i of W + U_i
    U-step   U_i <- U_i + W - Z_i
    start    U_i = 0, Z_i = projection of W

The penalty is the squared norm, so its gradient rho (W - Z_i + U_i) can just be added to the task's
(`add_penalty_gradient`). Adam would divide it by the size of the task's gradients, and clipping
scales it down with them; `pull` therefore takes the penalty out of the optimiser: each step of the
optimiser on f is followed by the exact minimum over W of

    1/(2 tau) ||W - W'||^2 + sum_i rho/2 ||W - Z_i + U_i||^2        (W' = after the optimiser)

that is W = (W' + tau rho sum_i (Z_i - U_i)) / (1 + m tau rho), stable for every rho.

Between two Z-steps the weights that a set keeps can be held or free. Held: they are pulled back to
where the last Z-step found them. Free: Z follows W there, which is the exact Z-step for the last
support (a sparse set puts no condition on the values of its support, and U is 0 on it); only the
choice of the support waits. Then the penalty pulls the removed weights alone, and the others learn
at full speed. A set of levels has no such places: its weights must be held.

The engine knows sets only through `project`: a method is a constraint, a schedule, an accounting.

A support is a fixed point only if rho exceeds |df/dw| of the removed weights over the smallest
kept |w|: a churn that does not fall means "raise rho", not "train longer".
"""

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.sets.constraint import (
    JointConstraint,
    check_choice,
    check_number,
    detach_to_cpu,
)
from pneumonia.runtime.errors import PruneError

OnNewRho = Literal["rescale", "restart"]
KeptWeights = Literal["held", "free"]
EPSILON = 1e-12


class AdmmResidual(NamedTuple):
    """How far one layer is from one of its sets after a Z-step.

    Attributes:
        layer: Layer name.
        split: Number of the set, from 0.
        primal: ||W - Z|| / ||W||. A layer that the set makes zero is compared with the largest
            layer of the set: its own norm goes to zero as well.
        dual: rho ||Z - previous Z|| over the same norm.
        churn: Share of the places in the support that were not in it before.
    """

    layer: str
    split: int
    primal: float
    dual: float
    churn: float


class AdmmSplit:
    """One constraint with its Z and U, by layer, in the memory layout of the weights."""

    def __init__(self, constraint: JointConstraint) -> None:
        self.constraint = constraint
        self.z: dict[str, Tensor] = {}
        self.u: dict[str, Tensor] = {}

    def start(self, weights: Mapping[str, Tensor]) -> None:
        """Z = projection of W, U = 0."""
        found = self.constraint.project(
            {name: detach_to_cpu(weights[name]) for name in self.constraint.layers}
        )
        self.z = {name: _like(weights[name], found[name].z) for name in found}
        self.u = {name: torch.zeros_like(weights[name]).detach() for name in found}

    def update(self, weights: Mapping[str, Tensor], number: int, rho: float) -> list[AdmmResidual]:
        """Z-step and U-step; returns the residuals layer by layer."""
        v = {name: weights[name].detach() + self.u[name] for name in self.constraint.layers}
        # Projections sort and search: they run on the CPU, wherever the network is.
        found = self.constraint.project(
            {name: detach_to_cpu(tensor) for name, tensor in v.items()},
            near={name: detach_to_cpu(z) for name, z in self.z.items()},
        )
        residuals = []
        norms = {name: float(weights[name].detach().norm()) for name in found}
        for name, projection in found.items():
            w, z = weights[name].detach(), _like(weights[name], projection.z)
            norm = (norms[name] if bool(z.any()) else max(norms.values())) + EPSILON
            added = int(((z != 0) & (self.z[name] == 0)).sum())
            residuals.append(
                AdmmResidual(
                    name,
                    number,
                    float((w - z).norm()) / norm,
                    rho * float((z - self.z[name]).norm()) / norm,
                    added / max(int((z != 0).sum()), 1),
                )
            )
            self.u[name] = v[name].sub_(z)  # U + W - Z
            self.z[name] = z
        return residuals


def check_rho(rho: object) -> float:
    """The penalty itself.

    Raises:
        PruneError: It is not a finite number above 0.
    """
    if not isinstance(rho, numbers.Real) or not 0 < float(rho) < math.inf:
        raise PruneError(
            "Penalty rho is not valid",
            expected="a finite number above 0",
            found=repr(rho),
            fix="Values from 1e-3 are usual; raise it in steps",
        )
    return float(rho)


class Admm:
    """The splits of a network and their common rho.

    Args:
        constraints: The sets; a layer may be in several.
        rho: First penalty, > 0.
        kept: Whether the penalty holds the weights that a set keeps; `free` is for sparse sets.

    Raises:
        PruneError: Rho is not a finite number above 0, a constraint is that of a single weight, a
            weight or a part of the state is missing, or a step is called before `start` (or
            `load_state`).
    """

    def __init__(
        self, constraints: Sequence[JointConstraint], rho: float, kept: KeptWeights = "held"
    ) -> None:
        if not isinstance(constraints, Sequence) or not all(
            callable(getattr(c, "project", None)) and hasattr(c, "layers") for c in constraints
        ):
            raise PruneError(
                "Constraints of ADMM are not valid",
                expected="a list of sets of several weights, as PerLayer({name: Filters(8)})",
                found=type(constraints).__name__,
            )
        check_choice(kept, KeptWeights, "What the penalty does with kept weights")
        self.splits = [AdmmSplit(constraint) for constraint in constraints]
        self.rho = check_rho(rho)
        self.kept = kept
        self._started = False

    @torch.no_grad()
    def start(self, weights: Mapping[str, Tensor]) -> None:
        """Begin at the weights: Z their projection, U zero."""
        _check_names(weights, [n for split in self.splits for n in split.constraint.layers])
        for split in self.splits:
            split.start(weights)
        self._started = True

    def _check_started(self) -> None:
        if not self._started:
            raise PruneError(
                "ADMM has not started",
                expected="start() before update(), add_penalty_gradient() and pull()",
                fix="Call start() once, on the trained weights, or load a state that has Z and U",
            )

    @torch.no_grad()
    def add_penalty_gradient(self, weights: Mapping[str, Tensor]) -> None:
        """Add rho (W - Z + U) of every split to the gradients; 0 where kept weights are free."""
        self._check_started()
        for split in self.splits:
            for name, z in split.z.items():
                gradient, w = weights[name].grad, weights[name].detach()
                if gradient is None:
                    gradient = weights[name].grad = torch.zeros_like(w)
                if self.kept == "free":
                    gradient.add_(w * (z == 0), alpha=self.rho)
                else:
                    gradient.add_(w, alpha=self.rho).sub_(z, alpha=self.rho)
                gradient.add_(split.u[name], alpha=self.rho)

    @torch.no_grad()
    def pull(self, weights: Mapping[str, Tensor], tau: float) -> None:
        """Move the weights towards every Z - U by the exact (implicit) step of size tau, >= 0."""
        self._check_started()
        check_number(
            tau, "Step of the penalty", "a finite number >= 0: the learning rate", math.inf
        )
        if self.kept == "free":
            self._pull_removed(weights, tau * self.rho)
            return
        targets: dict[str, list[Tensor]] = {}
        for split in self.splits:
            for name, z in split.z.items():
                targets.setdefault(name, []).append(z - split.u[name])
        for name, wanted in targets.items():
            strength = len(wanted) * tau * self.rho
            mean = wanted[0] if len(wanted) == 1 else torch.stack(wanted).mean(0)
            weights[name].detach().lerp_(mean, strength / (1 + strength))

    def _pull_removed(self, weights: Mapping[str, Tensor], strength: float) -> None:
        """`pull` of the places where Z is 0; U is 0 at all others."""
        divisors: dict[str, Tensor | float] = {}
        for split in self.splits:
            for name, z in split.z.items():
                weights[name].detach().sub_(split.u[name], alpha=strength)
                divisors[name] = divisors.get(name, 1.0) + strength * (z == 0).to(z.dtype)
        for name, divisor in divisors.items():
            weights[name].detach().div_(divisor)

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> list[AdmmResidual]:
        """Z-step and U-step of every split."""
        self._check_started()
        return [
            residual
            for number, split in enumerate(self.splits)
            for residual in split.update(weights, number, self.rho)
        ]

    @torch.no_grad()
    def set_rho(self, rho: float, weights: Mapping[str, Tensor], how: OnNewRho) -> None:
        """Change the penalty.

        Args:
            rho: New value, > 0.
            how: `rescale` keeps the multiplier rho U, so U is multiplied by old / new rho;
                `restart` begins again with U = 0 and Z the projection of W.

        Raises:
            PruneError: Rho is not a finite number above 0.
        """
        rho = check_rho(rho)
        check_choice(how, OnNewRho, "What a new rho does")
        if how == "restart":
            self.rho = rho
            self.start(weights)
            return
        for split in self.splits:
            for u in split.u.values():
                u.mul_(self.rho / rho)
        self.rho = rho

    def state(self) -> dict[str, Tensor]:
        """Z and U by name; `load_state` is the inverse."""
        return {
            f"{number}.{kind}.{name}": tensor
            for number, split in enumerate(self.splits)
            for kind, tensors in (("z", split.z), ("u", split.u))
            for name, tensor in tensors.items()
        }

    def _state_names(self) -> Iterator[str]:
        for number, split in enumerate(self.splits):
            for name in split.constraint.layers:
                yield from (f"{number}.z.{name}", f"{number}.u.{name}")

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        _check_names(tensors, list(self._state_names()))
        for number, split in enumerate(self.splits):
            for name in split.constraint.layers:
                split.z[name] = tensors[f"{number}.z.{name}"].clone()
                split.u[name] = tensors[f"{number}.u.{name}"].clone()
        self._started = True

    def match_layout(self, weights: Mapping[str, Tensor]) -> None:
        """Bring Z and U to the weights' device and memory layout (after `load_state`)."""
        for split in self.splits:
            for tensors in (split.z, split.u):
                for name, tensor in tensors.items():
                    tensors[name] = _like(weights[name], tensor)


def _check_names(tensors: Mapping[str, Tensor], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise PruneError(
            "Tensors for ADMM are missing",
            expected=", ".join(wanted),
            found=f"no {missing[0]!r} among {', '.join(tensors) or 'no tensors'}",
        )


def _like(weight: Tensor, value: Tensor) -> Tensor:
    """`value` copied to the device and memory layout of `weight`: adding them is then linear."""
    return torch.empty_like(weight).detach().copy_(value)
