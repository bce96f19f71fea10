"""Monte-Carlo check of a network on imperfect memristor chips.

The levels a network was quantized to are the means of the device's states. A chip holds each weight
with a deviation of its own, so that accuracy becomes a distribution over chips: mean and standard
deviation over many of them are what a quantized network for crossbars should be judged by.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.sets.crossbar import program
from pneumonia.compression.sets.levels import Levels, table
from pneumonia.network.module import Network
from pneumonia.runtime.errors import PruneError

MIN_CHIPS = 20
MOST_LEVELS = 512  # of one polarity: more are not states of a device


class ChipMetrics(NamedTuple):
    """What a number of chips would do."""

    ideal: float  # metric of the weights on their levels
    metrics: tuple[float, ...]  # metric of each chip
    sigma: float  # deviation, in steps between neighbouring levels

    @property
    def mean(self) -> float:
        """Mean of the metric over the chips."""
        return math.fsum(self.metrics) / len(self.metrics)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the chips."""
        mean = self.mean
        total = math.fsum((metric - mean) ** 2 for metric in self.metrics)
        return math.sqrt(total / (len(self.metrics) - 1))


def levels_of_weights(weight: Tensor, where: str) -> Levels:
    """The magnitudes that occur in a quantized weight, as device levels of scale 1.

    Raises:
        PruneError: The weight is not quantized, or all zero.
    """
    magnitudes = torch.unique(weight[weight != 0].abs())
    with suppress(PruneError):  # too close to each other for any device
        if len(magnitudes) <= MOST_LEVELS:
            return table(magnitudes.double().tolist())
    raise PruneError(
        "Weights are not on the levels of a device",
        expected=f"1 to {MOST_LEVELS} distinct magnitudes",
        found=f"{len(magnitudes)}",
        where=f"layer {where!r}",
        fix="Quantize first, for example with `ladder: [5-bit-crossbar]`",
    )


def simulate_chips(
    network: Network,
    sigma: float,
    evaluate: Callable[[Network], float],
    n_chips: int = MIN_CHIPS,
    seed: int = 0,
) -> ChipMetrics:
    """Evaluate a quantized network as `n_chips` chips would hold it.

    Args:
        network: All its weights on levels; unchanged in the end.
        sigma: Standard deviation of a programmed level, in steps of the layer's levels.
        evaluate: The metric of a network, higher is better.
        n_chips: At least 20: fewer say little about the deviation.
        seed: Of the mismatch; chip i of a seed is always the same.

    Raises:
        PruneError: Not quantized, too few chips, or a negative sigma.
    """
    if n_chips < MIN_CHIPS or not (sigma >= 0 and math.isfinite(sigma)):
        raise PruneError(
            "Chips cannot be simulated",
            expected=f"at least {MIN_CHIPS} chips and a sigma >= 0",
            found=f"{n_chips} chips, sigma {sigma:g}",
        )
    weights = {name: weight.detach() for name, weight in network.weights().items()}
    ideal = {name: weight.clone() for name, weight in weights.items()}
    levels = {name: levels_of_weights(weight, name) for name, weight in ideal.items()}
    generator = torch.Generator().manual_seed(seed)
    metric = evaluate(network)
    try:
        found = []
        for _ in range(n_chips):
            _write(weights, {n: program(w, levels[n], 1.0, sigma, generator)
                             for n, w in ideal.items()})  # fmt: skip
            found.append(evaluate(network))
    finally:
        _write(weights, ideal)
    return ChipMetrics(metric, tuple(found), sigma)


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        weights[name].copy_(value)
