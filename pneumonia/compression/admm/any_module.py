"""Masks and levels in any torch.nn.Module: constraints and ADMM on its named parameters.

This is the way for modules that `from_torch` does not understand: weights end up masked or on
levels, and nothing gets smaller. The loop is described in `own_loop`. With `example_inputs` the
module is run once to find coupled filters, and what else belongs to a filter: they are removed
together.
"""

import fnmatch
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.hardware.storage import StorageBits
from pneumonia.compression.admm.filter_trace import FilterTrace, trace_filters
from pneumonia.compression.admm.own_loop import OwnLoop
from pneumonia.compression.admm.plan_settings import describe
from pneumonia.compression.sets.constraint import (
    Constraint,
    JointConstraint,
    PerLayer,
    Projection,
    check_constraints,
    detach_to_cpu,
    gemm_view,
    masked,
    row_energies,
    top_k_mask,
)
from pneumonia.compression.sets.units import Filters
from pneumonia.network.blocks import transposed_weight
from pneumonia.network.module import check_module
from pneumonia.runtime.errors import PruneError

log = logging.getLogger(__name__)


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
    check_module(module)
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

    With `example_inputs`, `Filters` of one weight become those of every weight whose filters are
    the same channels (branches that are added, depthwise convolutions): the filters of largest
    joint energy stay. A filter without weights is removed whole: `harden` and `hold` also set its
    bias, and its gain and shift in batch norms, to zero.

    Args:
        module: Trained network; its parameters are changed in place.
        constraints: Parameter name -> the set its value must end up in.
        rho: First penalty, > 0.
        example_inputs: Positional arguments of the module's forward, or the tensor that is its only
            one, to trace its filters; without them every weight is masked by itself, and biases and
            norms stay.

    Raises:
        ConfigError: The module is not a torch module.
        PruneError: A name is not that of a parameter of the module, nothing is constrained, a value
            is not a constraint of one weight (a number, a class), rho is not a finite number above
            0, coupled weights are to keep different numbers of filters, or the module fails on the
            example.
    """

    def __init__(
        self,
        module: nn.Module,
        constraints: Mapping[str, Constraint],
        rho: float = 1e-3,
        example_inputs: Tensor | Sequence[Any] = (),
    ) -> None:
        check_module(module)
        check_constraints(constraints)
        parameters = dict(module.named_parameters())
        unknown = sorted(set(constraints) - set(parameters))
        if unknown or not constraints:
            raise PruneError(
                "Constraints do not fit the module",
                expected="names among " + ", ".join(parameters),
                found=repr(unknown[0]) if unknown else "none",
            )
        trace = FilterTrace([], [], [])
        if arguments := _positional(example_inputs):
            trace = trace_filters(module, arguments)
        self._module, self._vectors = module, trace.vectors
        self.constraints = _joint_constraints(module, constraints, trace)
        loose = [name for name in trace.loose if isinstance(constraints.get(name), Filters)]
        if loose:
            log.warning(
                "Filters of %s are added to channels of unknown origin; what is added there stays",
                ", ".join(loose),
            )
        names = [name for joint in self.constraints for name in joint.layers]
        settings: dict[str, Any] = {
            f"constraint of {name}:": describe(made) for name, made in constraints.items()
        }
        settings["masked weights"] = sorted(names)
        weights = {name: parameters[name] for name in names}
        super().__init__(weights, self.constraints, rho, settings=settings)

    @torch.no_grad()
    def harden(self) -> dict[str, Tensor]:
        """Put the weights into the sets and remember the masks.

        Returns:
            Parameter name -> bool mask of what may be non-zero, shaped like the parameter.
        """
        self._check_same_parameters()
        weights = {n: detach_to_cpu(w) for n, w in self.weights.items()}
        for joint in self.constraints:
            for name, projection in joint.project(weights).items():
                self.weights[name].copy_(projection.z)
                self.masks[name] = projection.mask
        self.hold()
        return self.masks

    def _check_same_parameters(self) -> None:
        now = dict(self._module.named_parameters())
        for name, weight in self.weights.items():
            if now.get(name) is not weight:
                raise PruneError(
                    "Parameter was replaced after the plan was made",
                    expected="the module's own parameter, changed in place",
                    found="none of that name" if name not in now else "another tensor",
                    where=name,
                    fix="Make the plan after the module has its final parameters",
                )

    @torch.no_grad()
    def hold(self) -> None:
        """Set what is masked to zero again; call after every optimiser step.

        Biases and batch norms of filters without weights are masked, too.
        """
        super().hold()
        removed = {
            name: ~gemm_view(_turned(self._module, name, mask)).any(1)
            for name, mask in self.masks.items()
        }
        for vector in self._vectors:
            if not all(name in removed for name in vector.sources):
                continue
            gone = torch.stack([removed[name] for name in vector.sources]).all(0)
            part = self._module.get_parameter(vector.name)[vector.first :][: vector.size]
            part.masked_fill_(gone.to(part.device), 0.0)

    def rate(self) -> float:
        """Weights of the constrained parameters over non-zero ones."""
        total = sum(w.numel() for w in self.weights.values())
        return total / max(1, sum(int(torch.count_nonzero(w)) for w in self.weights.values()))


class _Turned:
    """A constraint on filters, for the weight of a layer that torch may keep by inputs."""

    def __init__(self, module: nn.Module, name: str, constraint: Constraint) -> None:
        self.module, self.name, self.constraint = module, name, constraint

    def project(self, v: Tensor) -> Projection:
        """The allowed point nearest to `v`, shaped as torch keeps it."""
        found = self.constraint.project(_turned(self.module, self.name, v))
        return Projection(*(_turned(self.module, self.name, part) for part in found))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """Bits of the point, see the constraint."""
        return self.constraint.storage_bits(_turned(self.module, self.name, z))


class _CoupledFilters:
    """At most `n_keep` filters of coupled weights, the same of each: those of largest energy."""

    def __init__(self, module: nn.Module, layers: tuple[str, ...], n_keep: int) -> None:
        self.module, self.layers, self.n_keep = module, layers, n_keep

    def project(
        self, v: Mapping[str, Tensor], near: Mapping[str, Tensor] | None = None
    ) -> dict[str, Projection]:
        """The nearest point; exact, `near` is not needed."""
        by_filters = {name: _turned(self.module, name, v[name]) for name in self.layers}
        energies = torch.stack([row_energies(w) for w in by_filters.values()]).sum(0)
        keep = top_k_mask(energies, self.n_keep)
        found = {}
        for name, weight in by_filters.items():
            projection = masked(weight, keep.reshape(-1, *[1] * (weight.dim() - 1)))
            found[name] = Projection(*(_turned(self.module, name, x) for x in projection))
        return found


def _positional(example_inputs: object) -> tuple[Any, ...]:
    """Positional arguments of a forward; a tensor is the only one.

    Raises:
        PruneError: It is neither a tensor nor a list or tuple.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if not isinstance(example_inputs, list | tuple):
        raise PruneError(
            "Example inputs are not understood",
            expected="a tensor, or a tuple of the positional arguments of the module's forward",
            found=type(example_inputs).__name__,
        )
    return tuple(example_inputs)


def _turned(module: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A weight by filters, or such a weight as torch keeps it: the same but for transposed ones."""
    path, _, parameter = name.rpartition(".")
    owner = module.get_submodule(path)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    if not isinstance(owner, transposed) or parameter != "weight":
        return weight
    # towards filters the first dimension is that of the inputs: the blocks of the groups differ
    return transposed_weight(weight, owner.groups)


def _joint_constraints(
    module: nn.Module, constraints: Mapping[str, Constraint], trace: FilterTrace
) -> list[JointConstraint]:
    """Filters of coupled weights as one set, everything else by itself.

    Raises:
        PruneError: Coupled weights are to keep different numbers of filters.
    """
    alone = dict(constraints)
    joint: list[JointConstraint] = []
    for group in trace.groups:
        budgets = {
            name: found.n_keep for name in group if isinstance(found := alone.get(name), Filters)
        }
        if len(group) == 1 or not budgets:
            continue
        if len(set(budgets.values())) > 1:
            raise PruneError(
                "Coupled weights keep the same filters",
                expected="one number of filters for " + ", ".join(group),
                found=", ".join(f"{name}: {n_keep}" for name, n_keep in budgets.items()),
            )
        others = [name for name in group if name in alone and name not in budgets]
        if others:
            raise PruneError(
                "Coupled weights keep the same filters",
                expected=f"Filters, or no constraint, for {others[0]}",
                found=type(alone[others[0]]).__name__,
                fix=f"{', '.join(budgets)} have Filters",
            )
        for name in budgets:
            del alone[name]
        joint.append(_CoupledFilters(module, group, next(iter(budgets.values()))))
    if alone:
        joint.insert(0, PerLayer({n: _Turned(module, n, made) for n, made in alone.items()}))
    return joint
