"""Training of the latent weights behind weights on levels, inside the training loop."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pneumonia.compression.admm.straight_through import StraightThrough
from pneumonia.compression.sets.levels import Quantized
from pneumonia.network.module import Network
from pneumonia.training.hooks import TrainingHook

SCALE_STEPS = 50  # optimiser steps between two choices of the scales: a search over all weights
LATENT_LIMIT = 4.0  # times a layer's mean magnitude: a weight beyond could not change its sign


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

    def after_backward(self, network: Network) -> None:
        """Gradients at the projected weights are those of the latent ones."""

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
