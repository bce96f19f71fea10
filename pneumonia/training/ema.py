"""Exponential moving average of weights: what is validated, kept and exported."""

import copy

import torch

from pneumonia.network.module import Network


class WeightAverage:
    """A second network whose tensors follow the trained one.

    After update n (from 1) with decay d_n = min(decay, (1 + n) / (10 + n)):
    average <- d_n * average + (1 - d_n) * weights. The growing decay lets the average forget the
    random start in short runs. Batch-norm statistics are averaged alike.

    Args:
        network: The trained network, already where it is to be trained; its current weights are
            the start.
        decay: Largest decay; 0 keeps no average: `network` is then the trained network itself.

    Attributes:
        network: The averaged network, in eval mode unless it is the trained one.
        updates: Updates so far.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = network
        if decay > 0:
            self.network = copy.deepcopy(network).eval().requires_grad_(False)
        # Listed once: collecting the tensors by name would cost as much as averaging them.
        self._averages = list(self.network.tensors().values())
        self._weights = list(network.tensors().values())

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights of the trained network."""
        self.updates += 1
        if self.decay > 0:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
