"""ADMM in a training loop of one's own: what `ModuleCompression` and `NetworkPruning` share.

    plan.start()
    for images, labels in loader:                # as often as you like
        loss(model(images), labels).backward()
        plan.add_penalty_gradient()              # after backward, before the optimiser's step
        optimiser.step()                         # Adam: plan.pull(learning_rate) after it, instead
        optimiser.zero_grad()
        if is_end_of_epoch:
            plan.update()                        # Z-step and U-step
    plan.harden()                                # the weights are now in the sets

Training may go on after `harden`, with `plan.hold()` after every step of the optimiser.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia.compression.admm.engine import Admm, AdmmResidual, KeptWeights, OnNewRho, check_rho
from pneumonia.compression.admm.plan_settings import check_settings, settings_tensor
from pneumonia.compression.sets.constraint import JointConstraint
from pneumonia.runtime.errors import PruneError


class OwnLoop:
    """The ADMM engine and the hard masks of some weights.

    Args:
        weights: By name; changed in place.
        splits: The sets that ADMM pulls the weights to.
        rho: First penalty, > 0.
        kept: Whether the penalty holds the weights that a set keeps; `free` is for sparse sets.
        settings: Settings of the plan, as JSON values; `load_state_dict` refuses other ones.

    Attributes:
        masks: Weight -> bool mask of what may be non-zero, after `harden`.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        splits: Sequence[JointConstraint],
        rho: float,
        kept: KeptWeights = "held",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.weights = dict(weights)
        self.engine = Admm(splits, rho, kept)
        self.masks: dict[str, Tensor] = {}
        self._settings = dict(settings or {})

    def start(self) -> None:
        """Z = projection of the weights, U = 0."""
        self.engine.start(self.weights)

    def add_penalty_gradient(self) -> None:
        """Add rho (W - Z + U) to the gradients; call between backward and the step.

        Raises:
            PruneError: Called before `start`.
        """
        self.engine.add_penalty_gradient(self.weights)

    def pull(self, learning_rate: float) -> None:
        """Step exactly on the penalty; call after the optimiser's step, with its learning rate.

        Instead of `add_penalty_gradient` where the optimiser normalises gradients, as Adam does:
        the penalty would lose its strength there.

        Raises:
            PruneError: Called before `start`.
        """
        self.engine.pull(self.weights, learning_rate)

    def update(self) -> list[AdmmResidual]:
        """Z-step and U-step; the residuals say how far the weights are from the sets.

        Raises:
            PruneError: Called before `start`.
        """
        return self.engine.update(self.weights)

    def set_rho(self, rho: float, how: OnNewRho = "rescale") -> None:
        """A new, usually larger, penalty.

        Raises:
            PruneError: Rho is not a finite number above 0.
        """
        self.engine.set_rho(rho, self.weights, how)

    def state_dict(self) -> dict[str, Tensor]:
        """Z, U, rho, masks and the plan's settings, for a checkpoint beside the model's own."""
        state = {f"admm.{name}": tensor for name, tensor in self.engine.state().items()}
        state.update({f"mask.{name}": mask for name, mask in self.masks.items()})
        state["plan"] = settings_tensor(self._settings)
        return {**state, "rho": torch.tensor(self.engine.rho, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; load the model's weights as well.

        Raises:
            PruneError: The state is of other weights, or of a plan with another rate, method or
                constraint; both values are named.
        """
        admm = {k.removeprefix("admm."): t for k, t in state.items() if k.startswith("admm.")}
        self._check_state(state, admm)
        check_settings(state, self._settings)
        rho = check_rho(float(state["rho"]))
        if admm:
            self.engine.load_state(admm)
            self.engine.match_layout(self.weights)
        self.engine.rho = rho
        self.masks = {
            k.removeprefix("mask."): t.clone() for k, t in state.items() if k.startswith("mask.")
        }

    def _check_state(self, state: Mapping[str, Tensor], admm: Mapping[str, Tensor]) -> None:
        known = {
            f"{number}.{kind}.{name}": self.weights[name].shape
            for number, split in enumerate(self.engine.splits)
            for kind in "zu"
            for name in split.constraint.layers
        }
        wrong = {n for n in known if admm and (n not in admm or admm[n].shape != known[n])}
        wrong |= set(admm) - set(known)
        wrong |= {
            key
            for key, mask in state.items()
            if key.startswith("mask.")
            and getattr(self.weights.get(key.removeprefix("mask.")), "shape", None) != mask.shape
        }
        if wrong or "rho" not in state:
            raise PruneError(
                "State does not fit these weights and constraints",
                expected="what state_dict() of the same plan gave: " + ", ".join(self.weights),
                found=f"{sorted(wrong)[0]!r} of another shape or set" if wrong else "no rho",
            )

    @torch.no_grad()
    def hold(self) -> None:
        """Set masked weights to zero again; call after every optimiser step."""
        for name, mask in self.masks.items():
            self.weights[name].masked_fill_(~mask.to(self.weights[name].device), 0.0)
