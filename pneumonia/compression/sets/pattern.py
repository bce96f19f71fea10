"""Pattern pruning (PatDNN): every 3x3 kernel keeps 4 weights laid out as one of a few patterns.

A pattern is a 9-bit code, sum of bit(3r+c) * 2**(3r+c); it holds the centre, so there are
C(8,3) = 56 natural ones. Patterns may be chosen freely per kernel, or shared by groups of
consecutive filters: the kernel of one input channel then has the same pattern in all filters of a
group, which is what generated kernels run fastest (every vector lane does the same work).

Connectivity pruning limits the number of non-empty kernels, alone or jointly with patterns.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits, fkw_bits
from pneumonia.compression.sets.columns import group_count
from pneumonia.compression.sets.constraint import (
    WEIGHT_BITS,
    Projection,
    check_choice,
    check_finite,
    check_integer,
    check_n_keep,
    masked,
    top_k_mask,
)
from pneumonia.runtime.errors import PruneError

Spread = Literal["layer", "balanced"]
CENTRE = 4  # position 3*1+1 of a 3x3 kernel
KEPT = 4  # weights of a pattern
# Four 2x2 corner blocks, then four T-shapes; kept positions 3r+c.
_FIXED = (
    (4, 5, 7, 8), (3, 4, 6, 7), (1, 2, 4, 5), (0, 1, 3, 4),
    (1, 3, 4, 5), (3, 4, 5, 7), (1, 4, 5, 7), (1, 3, 4, 7),
)  # fmt: skip
FIXED_8: tuple[int, ...] = tuple(sum(1 << bit for bit in kept) for kept in _FIXED)


def natural_patterns() -> tuple[int, ...]:
    """All 56 codes of 4 weights with the centre, ascending."""
    return tuple(code for code in range(512) if code.bit_count() == KEPT and code >> CENTRE & 1)


def pattern_mask(codes: Sequence[int]) -> Tensor:
    """Codes -> bool (k, 9), row-major positions."""
    return torch.tensor([[bool(code >> bit & 1) for bit in range(9)] for code in codes])


def kernel_codes(v: Tensor) -> Tensor:
    """Natural pattern of each 3x3 kernel: the centre and the 3 largest |w| of the others.

    Args:
        v: (O, I, 3, 3).

    Returns:
        int64 codes (O, I); of equal magnitudes the lower position wins.
    """
    magnitude = v.abs().reshape(-1, 9).clone()
    magnitude[:, CENTRE] = torch.inf
    order = torch.sort(magnitude, dim=1, descending=True, stable=True).indices[:, :KEPT]
    return (1 << order).sum(1).reshape(v.shape[:2])


def mine_patterns(weights: Iterable[Tensor], k: int = 8) -> tuple[int, ...]:
    """The k most frequent natural patterns over all 3x3 kernels of a network.

    Args:
        weights: Convolution weights; others than 3x3 are passed over. Kernels that are all zero
            do not count.
        k: Patterns wanted.

    Returns:
        Codes by falling frequency (equal ones by code); fewer than k if fewer occur.

    Raises:
        PruneError: There is no 3x3 kernel.
    """
    counts: Counter[int] = Counter()
    for weight in weights:
        if tuple(weight.shape[2:]) == (3, 3):
            alive = (weight != 0).reshape(*weight.shape[:2], -1).any(2)
            codes, numbers = np.unique(kernel_codes(weight)[alive].numpy(), return_counts=True)
            counts.update(dict(zip(codes.tolist(), numbers.tolist(), strict=True)))
    if not counts:
        raise PruneError(
            "No patterns can be mined", expected="a network with 3x3 kernels", found="none"
        )
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(code for code, _ in ranked[:k])


def check_patterns(codes: Sequence[int]) -> None:
    """Refuse what is not a set of 4-weight patterns with the centre.

    Raises:
        PruneError: Empty, repeated, or another kind of code.
    """
    natural = set(natural_patterns())
    wrong = [code for code in codes if code not in natural]
    if not codes or wrong or len(set(codes)) != len(codes):
        raise PruneError(
            "Pattern set is not usable",
            expected="different 9-bit codes of 4 weights with the centre",
            found=repr(wrong[0]) if wrong else f"{len(codes)} codes, repeated or none",
        )


class KernelChoice:
    """Energies and best patterns of all kernels of a layer; the ground of every set here.

    Kernels other than 3x3 have the one pattern "everything". The unit of choice is (group of
    filters, input channel); with group_size 1 it is a kernel.

    Attributes:
        energy: float64 (G, I): what the best pattern of each unit keeps.
        best: int64 (G, I): its index.
        patterns: bool (k, KH*KW).
    """

    def __init__(self, v: Tensor, codes: Sequence[int], group_size: int) -> None:
        check_finite(v)
        self.shape = v.shape
        self.group_size = group_size or v.shape[0]
        kernel = v[0, 0].numel()
        squares = v.double().square().reshape(v.shape[0], v.shape[1] * kernel)
        sums = _group_sums(squares, self.group_size).reshape(-1, v.shape[1], kernel)
        use_patterns = tuple(v.shape[2:]) == (3, 3) and len(codes) > 0
        self.patterns = pattern_mask(codes) if use_patterns else torch.ones(1, kernel).bool()
        kept = sums @ self.patterns.double().T
        self.energy, self.best = kept.max(dim=2)
        if use_patterns:  # `max` does not promise the first of equals
            self.best = (kept == self.energy.unsqueeze(2)).to(torch.uint8).argmax(2)

    def mask(self, alive: Tensor | None = None) -> Tensor:
        """Bool mask of the weight's shape: best patterns, in the units (G, I) that are alive."""
        chosen = self.patterns[self.best]
        if alive is not None:
            chosen = chosen & alive.unsqueeze(2)
        rows = chosen.repeat_interleave(self.group_size, dim=0)[: self.shape[0]]
        return rows.reshape(self.shape)


def _group_sums(squares: Tensor, group_size: int) -> Tensor:
    """Sums over consecutive groups of rows: (O, n) -> (G, n)."""
    if group_size == 1:
        return squares
    n_groups = group_count(squares.shape[0], group_size)
    groups = torch.arange(squares.shape[0]) // group_size
    return squares.new_zeros(n_groups, squares.shape[1]).index_add_(0, groups, squares)


class Patterns:
    """Every 3x3 kernel has one of the given patterns; other kernels are free. Exact.

    Args:
        codes: The pattern set.
        group_size: Filters that share a pattern per input channel; 1 = free, 0 = all.
    """

    def __init__(self, codes: Sequence[int] = FIXED_8, group_size: int = 1) -> None:
        check_patterns(codes)
        self.codes = tuple(codes)
        check_integer(group_size, "Group of filters", 0)
        self.group_size = group_size

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set: per unit the pattern of largest energy."""
        return masked(v, KernelChoice(v, self.codes, self.group_size).mask())

    def storage_bits(self, z: Tensor) -> StorageBits:
        """FKW storage; see `pattern_storage_bits`."""
        return pattern_storage_bits(z, len(self.codes), self.group_size)


def pattern_storage_bits(z: Tensor, n_patterns: int, group_size: int) -> StorageBits:
    """Bits of FKW storage of the non-empty kernels.

    Filters of a group share their lists of channels and patterns, so indices are counted once
    per group, and groups are not reordered.
    """
    kernel = z[0, 0].numel()
    size = group_size or z.shape[0]
    alive = (z != 0).reshape(z.shape[0], z.shape[1], kernel).any(2)
    units = _group_sums(alive.double(), size) > 0
    rows = torch.full((units.shape[0],), size)
    rows[-1] = z.shape[0] - size * (units.shape[0] - 1)
    n_kernels = int((units.sum(1) * rows).sum())
    patterned = kernel == 9 and n_patterns > 0
    bits = fkw_bits(
        n_rows=units.shape[0],
        n_channels=z.shape[1],
        n_kernels=int(units.sum()),
        n_patterns=n_patterns if patterned else 1,
        reordered=size == 1,
    )
    return StorageBits(n_kernels * (KEPT if patterned else kernel) * WEIGHT_BITS, bits)


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
        return top_k_mask(energy.reshape(-1), n_keep).reshape(energy.shape)
    base, extra = divmod(min(n_keep, energy.numel()), n_rows)
    order = torch.sort(energy, dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(n_channels).expand(n_rows, n_channels)
    )
    alive = rank < base
    if extra:
        following = energy.gather(1, order[:, base : base + 1]).squeeze(1)
        more = top_k_mask(following, extra)
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
        spread: `layer`: kernels where they are worth most; `balanced`: equally many per group.
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
        check_integer(group_size, "Group of filters", 0)
        check_choice(spread, Spread, "Spread of the kernels")
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
