"""Hard masks: what may be non-zero, kept exactly so through training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pneumonia.compression.compact.coupling import ChannelGraph, kept_rows
from pneumonia.network.module import Network
from pneumonia.runtime.model.layers import Constant, Norm
from pneumonia.runtime.model.ops import parts_of
from pneumonia.runtime.model.spec import tensor_shapes
from pneumonia.training.hooks import TrainingHook

# A filter without weights still emits its bias, or through batch norm beta - gamma * mean / std:
# only without these is it the zero that compaction may delete.
EMITTING_PARTS = ("bias", "bn_weight", "bn_bias", "norm_weight", "norm_bias", "value")


def tensor_masks(graph: ChannelGraph, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of all tensors that follow from masks of the weights.

    The bias and the batch-norm gain and offset of a filter without any weight go with it, except
    for filters that are part of an output or added to the input. Norms and constants of their own
    lose the channels of which no filter is left.

    Args:
        masks: Layer -> places that may be non-zero, bool, shaped like the weight.

    Returns:
        Tensor name, as in `NamedTensors` -> bool mask.
    """
    names = tensor_shapes(graph.spec)
    found = {}
    for layer, mask in masks.items():
        found[f"{layer}.weight"] = mask
        rows = kept_rows(mask) | graph.protected[graph.unit_out[layer]]
        found.update(
            {f"{layer}.{part}": rows for part in EMITTING_PARTS if f"{layer}.{part}" in names}
        )
    live = graph.live_units_of(masks)
    for other in graph.spec.layers:
        if isinstance(other, (Norm, Constant)):
            kept = live[graph.unit_out[other.name]]
            for part, shape in parts_of(other).items():
                if part in EMITTING_PARTS:
                    ones = [1] * (len(shape) - 1)
                    found[f"{other.name}.{part}"] = kept.reshape(-1, *ones).expand(shape)
    return found


def masked_tensors(
    graph: ChannelGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The dense tensors with everything outside the masks at zero; the inputs stay as they are."""
    every = tensor_masks(graph, masks)
    zero = torch.zeros(())
    return {
        name: torch.where(every[name], tensor, zero) if name in every else tensor
        for name, tensor in tensors.items()
    }


class MaskHook(TrainingHook):
    """Sets everything outside the masks to zero after every optimiser step, also in the average.

    Masking the gradient would not do: momentum, Adam's moments and decoupled weight decay move
    weights whose gradient is zero. The hook has no state: the masks belong to the stage, and the
    weights of a checkpoint are already masked.

    Args:
        masks: Layer -> bool mask of its weight.
    """

    def __init__(self, graph: ChannelGraph, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)
        self._tensor_masks = tensor_masks(graph, masks)
        self._targets: list[tuple[Tensor, Tensor]] = []

    def before_fit(self, network: Network, ema: Network) -> None:
        """Find the tensors to mask, and mask them."""
        self._targets = []
        for module in {id(network): network, id(ema): ema}.values():
            tensors = module.tensors()
            for name, mask in self._tensor_masks.items():
                if not bool(mask.all()):
                    # In the weight's own memory layout, or every step would pay for strides.
                    removed = torch.empty_like(tensors[name], dtype=torch.bool).copy_(~mask)
                    self._targets.append((tensors[name], removed))
        self._apply()

    def after_step(self, network: Network, ema: Network) -> None:
        """Mask the raw and the averaged weights."""
        self._apply()

    @torch.no_grad()
    def _apply(self) -> None:
        for tensor, removed in self._targets:
            tensor.masked_fill_(removed, 0.0)
