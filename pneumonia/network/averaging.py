"""Weights of two trainings of one network, averaged."""

import torch
from torch import Tensor

from pneumonia.network.module import NamedTensors, check_tensors
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import NetworkSpec


def average_weights(
    spec: NetworkSpec, first: NamedTensors, second: NamedTensors, share: float
) -> dict[str, Tensor]:
    """Average of two sets of weights, filter by filter at the norm of the second.

    first * share + second * (1 - share).

    For a network and what it became by further training, whose average is often better than either
    on other images (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). The norm of a
    filter before a batch norm has no meaning, so the first's filters are brought to the second's.
    Places where both are zero stay zero.

    Args:
        spec: Of both.
        share: Of the first, 0 .. 1.

    Returns:
        New tensors. Means and variances of batch norms are averages, too, which is not what the
        averaged weights give: measure them again.

    Raises:
        ArtefactError: Tensors do not fit the spec.
    """
    check_tensors(spec, first)
    check_tensors(spec, second)
    averaged = {}
    for name, end in second.items():
        start = first[name].detach()
        layer = spec.layer(name.rpartition(".")[0])
        if name.endswith(".weight") and isinstance(layer, Conv) and layer.batch_norm:
            start = start * _norms(end) / _norms(start)
        averaged[name] = torch.lerp(end.detach(), start, share)
    return averaged


def _norms(weight: Tensor) -> Tensor:
    """Norm of every filter of (O, I, KH, KW), as (O, 1, 1, 1)."""
    norms: Tensor = weight.detach().flatten(1).norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)
    return norms[:, None, None, None]
