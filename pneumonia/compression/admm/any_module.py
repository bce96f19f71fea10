"""Compression of any torch.nn.Module: constraints and ADMM on its named parameters.

    plan = ModuleCompression(model, {"conv1.weight": Irregular(50), ...}, rho=1e-3)
    plan.start()
    for images, labels in loader:                # as often as you like
        loss(model(images), labels).backward()
        plan.add_penalty_gradient()              # after backward, before the optimiser's step
        optimiser.step(); optimiser.zero_grad()
    plan.update()                                # Z-step and U-step, for example once an epoch
    plan.harden()                                # the weights are now in the sets
    ... train on, calling plan.hold() after every optimiser step

Weights end up masked or on levels; nothing gets smaller. Removing filters needs to know which
layers read them: that is what a NetworkSpec says (`compression.compact.compaction`).
"""

import fnmatch
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pneumonia.compression.admm.engine import Admm, AdmmResidual, OnNewRho
from pneumonia.compression.sets.constraint import Constraint, PerLayer
from pneumonia.runtime.errors import PruneError


def match_parameters(
    module: nn.Module, pattern: str, make: Callable[[nn.Parameter], Constraint]
) -> dict[str, Constraint]:
    """Constraints for all weights (two or more dimensions) whose name matches a glob.

    Args:
        module: The network.
        pattern: For example `features.*.weight`.
        make: Parameter -> its constraint.

    Raises:
        PruneError: Nothing matches; names what there is.
    """
    weights = {name: p for name, p in module.named_parameters() if p.dim() >= 2}
    found = {n: make(p) for n, p in weights.items() if fnmatch.fnmatchcase(n, pattern)}
    if not found:
        raise PruneError(
            "No parameter matches", expected=", ".join(weights) or "a weight", found=repr(pattern)
        )
    return found


class ModuleCompression:
    """The ADMM engine and the hard masks of one module.

    Args:
        module: Trained network; its parameters are changed in place.
        constraints: Parameter name -> the set its value must end up in.
        rho: First penalty.

    Raises:
        PruneError: A name is no parameter of the module, or nothing is constrained.
    """

    def __init__(
        self, module: nn.Module, constraints: Mapping[str, Constraint], rho: float = 1e-3
    ) -> None:
        parameters = dict(module.named_parameters())
        unknown = sorted(set(constraints) - set(parameters))
        if unknown or not constraints:
            raise PruneError(
                "Constraints do not fit the module",
                expected="names among " + ", ".join(parameters),
                found=repr(unknown[0]) if unknown else "none",
            )
        self.weights = {name: parameters[name] for name in constraints}
        self.constraint = PerLayer(constraints)
        self.engine = Admm([self.constraint], rho)
        self.masks: dict[str, Tensor] = {}

    def start(self) -> None:
        """Z = projection of the weights, U = 0."""
        self.engine.start(self.weights)

    def add_penalty_gradient(self) -> None:
        """Add rho (W - Z + U) to the gradients; call between backward and the step."""
        self.engine.add_penalty_gradient(self.weights)

    def update(self) -> list[AdmmResidual]:
        """Z-step and U-step; the residuals say how far the weights are from the sets."""
        return self.engine.update(self.weights)

    def set_rho(self, rho: float, how: OnNewRho = "rescale") -> None:
        """A new, usually larger, penalty."""
        self.engine.set_rho(rho, self.weights, how)

    @torch.no_grad()
    def harden(self) -> dict[str, Tensor]:
        """Put the weights into the sets and remember the masks.

        Returns:
            Parameter name -> bool mask of what may be non-zero.
        """
        found = self.constraint.project({n: w.detach() for n, w in self.weights.items()})
        for name, projection in found.items():
            self.weights[name].copy_(projection.z)
            self.masks[name] = projection.mask
        return self.masks

    @torch.no_grad()
    def hold(self) -> None:
        """Set masked weights to zero again; call after every optimiser step."""
        for name, mask in self.masks.items():
            self.weights[name].masked_fill_(~mask, 0.0)

    def rate(self) -> float:
        """Weights of the constrained parameters over non-zero ones."""
        total = sum(w.numel() for w in self.weights.values())
        return total / max(1, sum(int(torch.count_nonzero(w)) for w in self.weights.values()))
