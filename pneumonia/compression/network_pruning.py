"""Pruning of a network in a training loop of one's own, coupled filters and compaction included."""

import numbers
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from pneumonia.compression.admm.engine import KeptWeights
from pneumonia.compression.admm.own_loop import OwnLoop
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import (
    ChannelGraph,
    UnitGroup,
    refuse_unmatched,
    select_layers,
)
from pneumonia.compression.compact.equality import check_compacted
from pneumonia.compression.compact.masks import tensor_masks
from pneumonia.compression.prune.method import PruningMethod
from pneumonia.compression.prune.rates import (
    LayerRates,
    RatePlan,
    StageStart,
    plan_rate,
    warn_of_excess,
)
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.network.module import Network, check_network
from pneumonia.network.torch_import.imported import ImportedNetwork
from pneumonia.runtime.errors import PruneError
from pneumonia.runtime.model.spec import dense_weight_count


class NetworkPruning(OwnLoop):
    """ADMM and hard masks of a network at a global rate, and its compaction.

    The loop is that of `ModuleCompression`; `compacted` gives the smaller network at the end.

    Args:
        network: Of `from_torch`, or any other network of this package; changed in place.
        rate: Weights of all convolutions and linear layers before over after compaction, > 1.
        method: What is removed; by default whole filters, as many as the rate needs.
        layers: Globs of the layers that may lose weights; a string is one glob.
        limits: Glob of layer names -> largest rate of the layer; 1 protects it.
        rho: First penalty, > 0.
        kept: `free`: the penalty pulls the weights that are to go alone. `held`: the others too,
            back to where the last `update` found them.

    Attributes:
        plan: Rates and kept weights of every layer on the current weights.

    Raises:
        ConfigError: The network is a plain torch module: `from_torch` describes it.
        PruneError: A glob matches no layer, the rate cannot be reached, the method is not one, or
            rho is not a finite number above 0.
    """

    def __init__(
        self,
        network: Network,
        rate: float,
        method: PruningMethod | None = None,
        layers: Sequence[str] = ("*",),
        limits: Mapping[str, float] | None = None,
        rho: float = 1e-3,
        kept: KeptWeights = "free",
    ) -> None:
        check_network(network)
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.network, self.rate = network, rate
        self.graph = ChannelGraph(network.spec)
        chosen = select_layers(network.spec, layers)
        known = ", ".join(layer.name for layer in network.spec.weighted())
        if chosen:
            patterns = {"layers": layers, "limits": limits or {}}
            refuse_unmatched(network.spec, patterns, PruneError)
        numeric = all(isinstance(x, numbers.Real) for x in (rate, *(limits or {}).values()))
        valid = numeric and rate > 1 and all(x >= 1 for x in (limits or {}).values())
        if not chosen or not valid:
            raise PruneError(
                "Nothing is to be pruned",
                expected=f"a rate above 1, limits of at least 1, and globs of {known}",
                found=f"rate {rate!r}, limits {dict(limits or {})}, layers {tuple(layers)}",
            )
        found = {
            name: limit
            for glob, limit in (limits or {}).items()
            for name in chosen
            if fnmatchcase(name, glob)
        }
        self.rates = LayerRates(dict.fromkeys(chosen, 1.0), found)
        method = method or StructuredMethod(filter_share=1.0, round_to=1)
        if isinstance(method, type) or not hasattr(method, "fitted"):
            raise PruneError(
                "Not a pruning method",
                expected="a method such as StructuredMethod() or DepthMethod()",
                found=method.__name__ if isinstance(method, type) else type(method).__name__,
            )
        settings = {
            "rate": float(rate),
            "method": method.model_dump(mode="json"),
            "layers": chosen,
            "limits": {name: float(limit) for name, limit in found.items()},
        }
        self.method = method.fitted(network.tensors())
        self.plan = self._planned()
        super().__init__(network.weights(), self.plan.sets.splits, rho, kept, settings)

    def _planned(self) -> RatePlan:
        weights = {n: w.detach().cpu() for n, w in self.network.weights().items()}
        start = StageStart(self.graph, weights, {}, dense_weight_count(self.network.spec))
        return plan_rate(start, self.method, self.rates, self.rate)

    def groups(self) -> list[UnitGroup]:
        """The layers whose filters are coupled, in execution order."""
        return self.graph.components()

    def harden(self) -> dict[str, Tensor]:
        """Choose what goes on the current weights, set it to zero and remember the masks.

        Returns:
            Layer -> bool mask of its weight.
        """
        self.plan = self._planned()
        warn_of_excess(self.plan, self.rate)
        self.masks = dict(self.plan.masks)
        self.hold()
        return self.masks

    @torch.no_grad()
    def hold(self) -> None:
        """Set everything outside the masks to zero again; call after every optimiser step.

        A filter's bias and norms go with it: else it would still emit a constant.
        """
        if not self.masks:
            return
        tensors = self.network.tensors()
        for name, mask in tensor_masks(self.graph, self.masks).items():
            tensors[name].masked_fill_(~mask.to(tensors[name].device), 0.0)

    def compacted(self) -> Network:
        """The same function in a smaller network.

        Raises:
            PruneError: Called before `harden`, or its outputs are not those of the masked network.
        """
        if not self.masks:
            raise PruneError("Nothing is masked yet", fix="Call harden() before compacted()")
        self.hold()
        tensors = {name: tensor.cpu() for name, tensor in self.network.tensors().items()}
        small, kept = compact(self.network.spec, tensors, self.masks, self.plan.sets.group_sizes)
        made = (
            self.network.resized(small, kept)
            if isinstance(self.network, ImportedNetwork)
            else Network(small, kept)
        )
        check_compacted(self.network, made)
        return made.train(self.network.training)
