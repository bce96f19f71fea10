"""Batch-norm statistics measured again after the weights were changed by force."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BATCHES = 200


@torch.no_grad()
def reestimate_batch_norm(
    network: nn.Module, batches: Iterable[Tensor], limit: int = BATCHES
) -> int:
    """Replace running means and variances by averages over forward passes.

    Everything but batch norm runs as in evaluation; weights do not change.

    Args:
        network: Changed in place; ends in the mode it came in.
        batches: Inputs (N, C, H, W).

    Returns:
        Batches used; 0 when the network has no batch norm.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return 0
    training, momenta = network.training, [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
    used = 0
    for batch in batches:
        if used == limit:
            break
        used += 1
        for norm in norms:
            norm.momentum = 1 / used  # plain average: the first batch replaces what was there
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)
    return used
