"""Networks on simulated chips: the ideal one comes back, noise follows sigma, seeds repeat."""

import pytest
import torch

from pneumonia.compression.quantize.mismatch import levels_of_weights, simulate_chips
from pneumonia.compression.sets.crossbar import linear_device
from pneumonia.compression.sets.levels import Quantized
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import PruneError


@pytest.fixture
def network():
    found = Network(build("lenet5", channels=1, size=28, n_classes=10, width=0.25))
    initialise(found, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in found.weights().values():
            weight.copy_(Quantized(linear_device(4)).project(weight.detach()).z)
    return found


def total(network):
    return float(sum(w.detach().double().sum() for w in network.weights().values()))


def test_levels_are_found_in_the_weights(network):
    for name, weight in network.weights().items():
        magnitudes = levels_of_weights(weight.detach(), name).magnitudes
        found = torch.unique(weight.detach().abs())
        # 4 bits: 8 states of each polarity at most
        assert 1 < len(magnitudes) <= 8
        assert magnitudes == pytest.approx(found.tolist(), rel=1e-3)


def test_the_network_comes_back_unchanged_and_a_perfect_chip_is_ideal(network):
    before = {name: w.detach().clone() for name, w in network.weights().items()}
    chips = simulate_chips(network, 0.0, total)
    assert set(chips.metrics) == {chips.ideal}
    assert chips.deviation == 0.0
    chips = simulate_chips(network, 0.3, total)
    assert len(set(chips.metrics)) == 20
    for name, weight in network.weights().items():
        assert torch.equal(weight, before[name])


def test_mean_and_deviation_follow_the_law(network):
    """The sum of n weights errs by sigma * step * sqrt(n) in each layer, with mean zero."""
    chips = simulate_chips(network, 0.2, total, n_chips=400, seed=3)
    variance = 0.0
    for weight in network.weights().values():
        magnitudes = torch.unique(weight.detach().abs()).double()
        step = float(torch.diff(magnitudes, prepend=torch.zeros(1).double()).min())
        variance += weight.numel() * (0.2 * step) ** 2
    assert chips.deviation == pytest.approx(variance**0.5, rel=0.12)
    assert abs(chips.mean - chips.ideal) < 4 * variance**0.5 / 400**0.5
    assert chips.metrics == simulate_chips(network, 0.2, total, n_chips=400, seed=3).metrics
    assert chips.metrics[:20] == simulate_chips(network, 0.2, total, seed=3).metrics


def test_an_evaluation_that_fails_leaves_the_network_alone(network):
    before = total(network)
    calls = []

    def fail(chip):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        simulate_chips(network, 0.5, fail)
    assert total(network) == before


def test_what_no_device_holds_is_refused(network):
    with pytest.raises(PruneError, match=r"at least 20 chips.*found 5 chips"):
        simulate_chips(network, 0.1, total, n_chips=5)
    with pytest.raises(PruneError, match="sigma >= 0"):
        simulate_chips(network, -0.1, total)
    initialise(network, torch.Generator().manual_seed(0))
    with pytest.raises(PruneError, match=r"not on the levels of a device.*Quantize first"):
        simulate_chips(network, 0.1, total)
