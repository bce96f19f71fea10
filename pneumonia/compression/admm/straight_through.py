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

import torch
from torch import Tensor

from pneumonia.runtime.errors import PruneError

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
    """Of the non-zero weights; infinite where there are none, so that nothing is clipped."""
    alive = weight[weight != 0]
    return float(alive.abs().mean()) if alive.numel() else math.inf
