"""Connectivity pruning: at most a number of non-empty kernels, alone or jointly with patterns."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits
from pneumonia.compression.sets.constraint import Projection, check_n_keep, masked
from pneumonia.compression.sets.pattern import (
    FIXED_8,
    KernelChoice,
    check_patterns,
    pattern_storage_bits,
)
from pneumonia.compression.sets.selection import largest

Spread = Literal["layer", "balanced"]


def choose_kernels(energy: Tensor, n_keep: int, spread: Spread) -> Tensor:
    """The units that stay: bool (G, I).

    Args:
        energy: float64 (G, I) of each (group of filters, input channel).
        n_keep: Units kept in the layer.
        spread: `layer`: wherever they are worth most. `balanced`: every row keeps
            n_keep // G, and the rows whose next unit is worth most keep one more.
    """
    n_rows, n_channels = energy.shape
    if spread == "layer":
        return largest(energy.reshape(-1), n_keep).reshape(energy.shape)
    base, extra = divmod(min(n_keep, energy.numel()), n_rows)
    order = torch.sort(energy, dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(n_channels).expand(n_rows, n_channels)
    )
    alive = rank < base
    if extra:
        following = energy.gather(1, order[:, base : base + 1]).squeeze(1)
        more = largest(following, extra)
        alive |= (rank == base) & more.unsqueeze(1)
    return alive


class PatternConnectivity:
    """At most `n_keep` non-empty kernels, each 3x3 one with a pattern of the set. Exact.

    Kernels are ranked by what their best pattern keeps. (Choosing kernels by their full norm
    first and patterns afterwards loses some 4 % of the energy of random kernels.)

    Args:
        n_keep: Units (group of filters, input channel) kept in the layer; kernels if
            group_size is 1.
        codes: Pattern set; empty = connectivity alone.
        group_size: Filters that share channels and patterns; 1 = free, 0 = all filters.
        spread: See `choose_kernels`.
    """

    def __init__(
        self,
        n_keep: int,
        codes: Sequence[int] = FIXED_8,
        group_size: int = 1,
        spread: Spread = "layer",
    ) -> None:
        check_n_keep(n_keep, "kernels")
        if codes:
            check_patterns(codes)
        self.n_keep = n_keep
        self.codes = tuple(codes)
        self.group_size = group_size
        self.spread: Spread = spread

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set."""
        if v.dim() == 2:
            flat = self.project(v.reshape(*v.shape, 1, 1))
            return Projection(flat.z.reshape(v.shape), flat.mask.reshape(v.shape))
        choice = KernelChoice(v, self.codes, self.group_size)
        return masked(v, choice.mask(choose_kernels(choice.energy, self.n_keep, self.spread)))

    def storage_bits(self, z: Tensor) -> StorageBits:
        """FKW storage of the non-empty kernels."""
        return pattern_storage_bits(
            z.reshape(*z.shape[:2], -1, 1) if z.dim() == 2 else z, len(self.codes), self.group_size
        )
