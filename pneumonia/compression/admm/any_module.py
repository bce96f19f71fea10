"""Masks and levels in any torch.nn.Module: constraints and ADMM on its named parameters.

This is the way for modules that `from_torch` does not understand: weights end up masked or on
levels, and nothing gets smaller. The loop is described in `own_loop`. A filter that is masked here
still has its bias and its batch norm, and its coupled partners stay: `NetworkPruning` knows them.
"""

import fnmatch
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from evaluation.hardware.storage import StorageBits
from pneumonia.compression.admm.own_loop import OwnLoop
from pneumonia.compression.sets.constraint import Constraint, PerLayer, Projection
from pneumonia.network.blocks import transposed_weight
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


class ModuleCompression(OwnLoop):
    """The ADMM engine and the hard masks of one module.

    Constraints see filters as rows, (O, I / groups, KH, KW); the weight of a transposed
    convolution, which torch keeps as (I, O / groups, KH, KW), is turned for them.

    Args:
        module: Trained network; its parameters are changed in place.
        constraints: Parameter name -> the set its value must end up in.
        rho: First penalty.

    Raises:
        PruneError: A name is not that of a parameter of the module, or nothing is constrained.
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
        self.constraint = PerLayer(
            {name: _by_filters(module, name, made) for name, made in constraints.items()}
        )
        weights = {name: parameters[name] for name in constraints}
        super().__init__(weights, [self.constraint], rho)

    @torch.no_grad()
    def harden(self) -> dict[str, Tensor]:
        """Put the weights into the sets and remember the masks.

        Returns:
            Parameter name -> bool mask of what may be non-zero, shaped like the parameter.
        """
        found = self.constraint.project({n: w.detach().cpu() for n, w in self.weights.items()})
        for name, projection in found.items():
            self.weights[name].copy_(projection.z)
            self.masks[name] = projection.mask
        return self.masks

    def rate(self) -> float:
        """Weights of the constrained parameters over non-zero ones."""
        total = sum(w.numel() for w in self.weights.values())
        return total / max(1, sum(int(torch.count_nonzero(w)) for w in self.weights.values()))


class _TurnedConstraint:
    """A constraint on filters, for a weight that torch keeps by inputs."""

    def __init__(self, constraint: Constraint, groups: int) -> None:
        self.constraint, self.groups = constraint, groups

    def project(self, v: Tensor) -> Projection:
        """The allowed point nearest to `v`, (I, O / groups, KH, KW)."""
        found = self.constraint.project(transposed_weight(v, self.groups))
        return Projection(*(transposed_weight(part, self.groups) for part in found))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Bits of the point, see the constraint."""
        return self.constraint.storage_bits(transposed_weight(z, self.groups))


def _by_filters(module: nn.Module, name: str, constraint: Constraint) -> Constraint:
    path, _, parameter = name.rpartition(".")
    owner = module.get_submodule(path)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    if isinstance(owner, transposed) and parameter == "weight":
        return _TurnedConstraint(constraint, owner.groups)
    return constraint
