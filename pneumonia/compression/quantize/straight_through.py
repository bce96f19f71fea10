"""Straight-through training: the network computes with projected weights, the latent ones learn.

The forward and backward pass use the projection of latent float32 weights; the gradient with
respect to the projected weights is applied to the latent ones unchanged (Courbariaux et al. 2015,
arXiv 1511.00363, for binary weights; Lin et al. 2020, arXiv 2006.07253, for sparse ones). A pruned
weight therefore keeps receiving gradients, and comes back when its latent value has grown. It ends
on the constraint set exactly, and follows ADMM where the set is so small that the support must
still change late in the training.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pneumonia.compression.sets.levels import Quantized
from pneumonia.network.module import Network
from pneumonia.runtime.errors import PruneError
from pneumonia.training.hooks import TrainingHook

SCALE_STEPS = 50  # optimiser steps between two choices of the scales: a search over all weights
LATENT_LIMIT = 4.0  # times a layer's mean magnitude: a weight beyond could not change its sign
Project = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class StraightThrough:
    """Latent weights of a network and their projection.

    Call `after_step` after every step of an optimiser over the network's own parameters: the
    difference that the step made to the projected weights is added to the latent ones, and the
    network gets their new projection. The network holds allowed weights at all times.

    Args:
        weights: Layer -> weight of the network; overwritten.
        project: Layer -> latent weights, to layer -> allowed weights of the same shapes.
        limit: Latent weights are clipped to this multiple of the mean magnitude of their layer's
            non-zero weights at the start, so that a sign can still change; None = never clipped.

    Raises:
        PruneError: A limit of zero or less.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], project: Project, limit: float | None = None
    ) -> None:
        if limit is not None and not limit > 0:
            raise PruneError("Latent weights cannot be clipped", expected="> 0", found=f"{limit:g}")
        self.weights = dict(weights)  # not detached: `Network.to` replaces their storage
        self.latent = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._project = project
        self._bounds = {
            name: math.inf if limit is None else limit * _mean_magnitude(weight)
            for name, weight in self.latent.items()
        }
        self._given: dict[str, Tensor] = {}

    @torch.no_grad()
    def start(self) -> None:
        """Give the network the projection of the latent weights."""
        self._given = dict(self._project(self.latent))
        for name, value in self._given.items():
            self.weights[name].copy_(value)

    @torch.no_grad()
    def move(self) -> None:
        """Add the optimiser's step to the latent weights; the network is not projected yet."""
        for name, value in self._given.items():
            bound = self._bounds[name]
            self.latent[name].add_(self.weights[name]).sub_(value).clamp_(-bound, bound)

    def after_step(self) -> None:
        """Add the optimiser's step to the latent weights, and project them anew."""
        self.move()
        self.start()

    def saved(self) -> dict[str, Tensor]:
        """What `load` needs to go on exactly: latent weights and bounds."""
        bounds = {
            f"{name}.bound": torch.tensor(b, dtype=torch.float64)
            for name, b in self._bounds.items()
        }
        return {f"{name}.latent": value for name, value in self.latent.items()} | bounds

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `saved` gave; call `start` afterwards."""
        for name in self.latent:
            self.latent[name].copy_(saved[f"{name}.latent"])
            self._bounds[name] = float(saved[f"{name}.bound"])


def _mean_magnitude(weight: Tensor) -> float:
    """Mean magnitude of the non-zero weights; infinite without any, so that nothing is clipped."""
    alive = weight[weight != 0]
    return float(alive.abs().mean()) if alive.numel() else math.inf


class ScaledLevels:
    """Projection onto levels at scales that are chosen now and then: a search over all weights.

    Args:
        sets: Layer -> levels and mask.

    Attributes:
        scales: Layer -> scale of now.
    """

    def __init__(self, sets: Mapping[str, Quantized]) -> None:
        self._sets = dict(sets)
        self.scales: dict[str, float] = {}

    def choose(self, latent: Mapping[str, Tensor]) -> None:
        """Take the best scale of each layer's latent weights."""
        self.scales = {name: s.scale_of(latent[name]) for name, s in self._sets.items()}

    def project(self, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The nearest weights on the levels."""
        return {
            name: Quantized(s.levels, s.mask, self.scales[name]).project(latent[name]).z
            for name, s in self._sets.items()
        }


class StraightThroughHook(TrainingHook):
    """The network computes with weights on their levels; latent float weights take its steps.

    The training must not average weights: an average is on no level.

    Args:
        sets: Layer -> levels and mask; scales are chosen anew every SCALE_STEPS steps.
    """

    def __init__(self, sets: Mapping[str, Quantized]) -> None:
        self._names = tuple(sets)
        self._levels = ScaledLevels(sets)
        self._steps = 0
        self._restored: Mapping[str, Tensor] = {}
        self._through: StraightThrough | None = None

    def before_fit(self, network: Network, ema: Network) -> None:
        """Project the weights, or what a checkpoint held as latent weights."""
        weights = {name: network.weights()[name] for name in self._names}
        self._through = StraightThrough(weights, self._levels.project, LATENT_LIMIT)
        if self._restored:
            self._through.load(self._restored)
        else:
            self._levels.choose(self._through.latent)
        self._through.start()

    def after_step(self, network: Network, ema: Network) -> None:
        """Move the latent weights and project them."""
        assert self._through is not None
        self._steps += 1
        self._through.move()
        if self._steps % SCALE_STEPS == 0:
            self._levels.choose(self._through.latent)
        self._through.start()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Latent weights and their bounds, the scales of now, and the steps done."""
        assert self._through is not None
        return self._through.saved(), {"steps": self._steps, "scales": self._levels.scales}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self._restored = dict(tensors)
        self._steps = int(values["steps"])
        self._levels.scales = {name: float(scale) for name, scale in values["scales"].items()}
