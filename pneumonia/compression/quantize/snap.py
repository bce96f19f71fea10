"""Progressive snap (masked mapping and retraining): weights move onto their levels bit by bit.

Each round takes, level by level, the closest share of the weights that are still free, puts them
on the level and freezes them; the others are trained on and make up for it. After the last round
every weight is on a level, so the result is feasible whatever the training did.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pneumonia.compression.sets.constraint import check_finite, check_number
from pneumonia.compression.sets.levels import Quantized, snap
from pneumonia.network.module import Network
from pneumonia.runtime.errors import PruneError
from pneumonia.training.hooks import TrainingHook

CLOSEST = 0.3  # published share of a round: 30, 51, 66, 76, 83 ... % of the weights are fixed


class ProgressiveSnap:
    """Which weights are frozen, and where.

    Args:
        weights: Name -> weight; changed in place.
        sets: Name -> levels, mask and a fixed scale.

    Raises:
        PruneError: A name is not that of a weight, or a set is not of levels.
    """

    def __init__(self, weights: Mapping[str, Tensor], sets: Mapping[str, Quantized]) -> None:
        for name, levels in sets.items():
            if name not in weights or not isinstance(levels, Quantized):
                raise PruneError(
                    "Set of levels does not fit the weights",
                    expected=f"Quantized(...) for some of {', '.join(weights)}",
                    found=f"{type(levels).__name__} for {name!r}",
                )
        self.weights = {name: weights[name] for name in sets}
        self.sets = dict(sets)
        self.scales = {name: s.scale_of(self.weights[name].detach()) for name, s in sets.items()}
        self.values = {name: self._target(name) for name in sets}
        self.fixed: dict[str, Tensor] = {}
        for name, value in self.values.items():
            mask = self.sets[name].mask
            on_level = self.weights[name].detach() == value
            self.fixed[name] = on_level if mask is None else on_level | ~mask
        self.hold()

    def _target(self, name: str) -> Tensor:
        weight = self.weights[name].detach()
        check_finite(weight, name)
        value = snap(weight, self.sets[name].levels, self.scales[name])
        mask = self.sets[name].mask
        return value if mask is None else torch.where(mask, value, torch.zeros(()))

    @torch.no_grad()
    def advance(self, share: float = CLOSEST) -> float:
        """Freeze the closest share (rounded up) of the free weights of every level.

        Args:
            share: 0 .. 1; 1 = everything that is left.

        Returns:
            Share of all weights (pruned ones not counted) that is now fixed.

        Raises:
            PruneError: Another share.
        """
        check_number(share, "Share", "0 to 1", 1.0)
        for name, weight in self.weights.items():
            target = self._target(name)
            free = ~self.fixed[name]
            chosen = _closest(weight.detach()[free], target[free], share)
            newly = torch.zeros_like(free)
            newly[free] = chosen
            self.values[name] = torch.where(newly, target, self.values[name])
            self.fixed[name] |= newly
        self.hold()
        return self.fixed_share()

    @torch.no_grad()
    def hold(self) -> None:
        """Put frozen weights back on their levels; call after every optimiser step."""
        for name, weight in self.weights.items():
            weight.copy_(torch.where(self.fixed[name], self.values[name], weight))

    def fixed_share(self) -> float:
        """Share of the weights that are fixed; pruned ones do not count."""
        done = total = 0
        for name, fixed in self.fixed.items():
            mask = self.sets[name].mask
            done += int(fixed.sum() if mask is None else (fixed & mask).sum())
            total += int(fixed.numel() if mask is None else mask.sum())
        return done / max(total, 1)


def _closest(weight: Tensor, target: Tensor, share: float) -> Tensor:
    """Of each level's weights the closest share, rounded up; ties by lower index: bool (n,)."""
    if weight.numel() == 0:  # ADMM alone put the whole layer on its levels
        return torch.zeros(0, dtype=torch.bool)
    distance = (weight - target).abs().numpy()
    _, level, counts = np.unique(target.numpy(), return_inverse=True, return_counts=True)
    order = np.lexsort((distance, level))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, counts)
    quota = np.array([math.ceil(count * share) for count in counts], dtype=np.int64)
    return torch.from_numpy(rank < quota[level])


class SnapHook(TrainingHook):
    """Holds frozen weights on their levels through training, also in the average.

    Args:
        sets: Layer -> levels, mask and fixed scale.
        shares: Share of the free weights to freeze at the start and after each epoch; when the
            list is over nothing more is frozen.
    """

    def __init__(self, sets: Mapping[str, Quantized], shares: tuple[float, ...]) -> None:
        self.sets = dict(sets)
        self.shares = shares
        self.done = 0
        self.raw: ProgressiveSnap | None = None
        self._targets: list[tuple[Tensor, str]] = []
        self._restored: Mapping[str, Tensor] | None = None

    def before_fit(self, network: Network, ema: Network) -> None:
        """First round, or what a checkpoint held."""
        self.raw = ProgressiveSnap(network.weights(), self.sets)
        averaged = {} if ema is network else ema.weights()
        self._targets = [(averaged[name], name) for name in self.sets if name in averaged]
        if self._restored is not None:
            for name in self.sets:
                self.raw.fixed[name] = self._restored[f"{name}.fixed"].bool()
                self.raw.values[name] = self._restored[f"{name}.value"].clone()
            self.raw.hold()
        else:
            self._advance()
        self._hold_average()

    def after_step(self, network: Network, ema: Network) -> None:
        """Frozen weights back on their levels."""
        assert self.raw is not None
        self.raw.hold()
        self._hold_average()

    def after_epoch(self, network: Network, epoch: int) -> dict[str, float]:
        """Advance to the next round; returns the share of weights that are frozen."""
        assert self.raw is not None
        self._advance()
        self._hold_average()
        return {"snap_fixed": self.raw.fixed_share()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Frozen places and their values."""
        assert self.raw is not None
        tensors = {f"{name}.fixed": f.to(torch.uint8) for name, f in self.raw.fixed.items()}
        tensors |= {f"{name}.value": v for name, v in self.raw.values.items()}
        return tensors, {"done": self.done}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, object]) -> None:
        """Take back what `state` gave."""
        self._restored = dict(tensors)
        self.done = int(str(values["done"]))

    def _advance(self) -> None:
        assert self.raw is not None
        if self.done < len(self.shares):
            self.raw.advance(self.shares[self.done])
            self.done += 1

    @torch.no_grad()
    def _hold_average(self) -> None:
        assert self.raw is not None
        for weight, name in self._targets:
            weight.copy_(torch.where(self.raw.fixed[name], self.raw.values[name], weight))


def partial_shares(fixed: tuple[float, ...]) -> tuple[float, ...]:
    """Cumulative fixed fractions, such as (0.5, 0.75, 1.0), as shares of what is still free."""
    shares, before = [], 0.0
    for now in fixed:
        shares.append(1.0 if now >= 1 else (now - before) / (1 - before))
        before = now
    return tuple(shares)
