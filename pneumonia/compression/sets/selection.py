"""Exact choice of the best of millions of units, in linear time."""

import numpy as np
import torch
from torch import Tensor


def largest(scores: Tensor, k: int) -> Tensor:
    """The k largest of n scores as a bool mask (n,); of equal scores the lower index wins.

    The same choice as `constraint.top_k_mask`, by selection instead of sorting: what single
    weights and kernels need (n in millions), where sorting would cost seconds per network.

    Args:
        scores: (n,), finite or +inf.
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
