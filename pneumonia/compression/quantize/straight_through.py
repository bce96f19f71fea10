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


class StraightThroughHook(TrainingHook):
    """The network computes with weights on their levels; latent float weights take its steps.

    The training must not average weights: an average is on no level.

    Args:
        sets: Layer -> levels and mask; scales are chosen anew every SCALE_STEPS steps.
    """

    def __init__(self, sets: Mapping[str, Quantized]) -> None:
        self._sets = dict(sets)
        self._scaled = dict(sets)
        self._steps = 0
        self._restored: Mapping[str, Tensor] = {}
        self._through: StraightThrough | None = None

    def before_fit(self, network: Network, ema: Network) -> None:
        """Project the weights, or what a checkpoint held as latent weights."""
        weights = {name: network.weights()[name] for name in self._sets}
        self._through = StraightThrough(weights, self._project, LATENT_LIMIT)
        if self._restored:
            self._through.load(self._restored)
        else:
            self._choose_scales()
        self._through.start()

    def after_backward(self, network: Network) -> None:
        """Gradients at the projected weights are those of the latent ones."""

    def after_step(self, network: Network, ema: Network) -> None:
        """Move the latent weights and project them."""
        assert self._through is not None
        self._steps += 1
        self._through.move()
        if self._steps % SCALE_STEPS == 0:
            self._choose_scales()
        self._through.start()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Latent weights and their bounds, the scales of now, and the steps done."""
        assert self._through is not None
        scales = {name: s.scale for name, s in self._scaled.items()}
        return self._through.saved(), {"steps": self._steps, "scales": scales}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self._restored = dict(tensors)
        self._steps = int(values["steps"])
        self._scaled = {
            name: Quantized(s.levels, s.mask, float(values["scales"][name]))
            for name, s in self._sets.items()
        }

    def _choose_scales(self) -> None:
        assert self._through is not None
        latent = self._through.latent
        self._scaled = {
            name: Quantized(s.levels, s.mask, s.scale_of(latent[name]))
            for name, s in self._sets.items()
        }

    def _project(self, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._scaled[name].project(value).z for name, value in latent.items()}
