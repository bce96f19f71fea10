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
        network: The trained network; its current weights are the start.
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

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Move the average towards the weights of `network`."""
        self.updates += 1
        if self.network is network:
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        pairs = zip(self.network.tensors().values(), network.tensors().values(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 1 - decay)
