import itertools

import pytest
import torch

from pneumonia.runtime.errors import ArtefactError
from pneumonia.training.config import OptimiserConfig, ScheduleConfig
from pneumonia.training.ema import WeightAverage
from pneumonia.training.optimiser import (
    learning_rate,
    load_optimiser_state,
    make_optimiser,
    optimiser_state,
)
from tests.support.tiny import tiny_network


def test_learning_rate_by_hand():
    # 2 warm-up epochs of 5 steps, then 40 steps of cosine from 1 to 0.1
    config = ScheduleConfig(warmup_epochs=2, final_fraction=0.1)
    rates = [learning_rate(step, 5, 10, config) for step in range(50)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[49] == pytest.approx(0.1)
    assert learning_rate(10 + 13, 5, 10, config) == pytest.approx(0.1 + 0.9 * 0.75)  # a third done
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_constant_learning_rate_and_shortest_run():
    constant = ScheduleConfig(warmup_epochs=0, final_fraction=1)
    assert {learning_rate(step, 4, 3, constant) for step in range(12)} == {1.0}
    assert learning_rate(0, 1, 1, ScheduleConfig(warmup_epochs=0)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_convolution_weights_decay(name):
    network = tiny_network()
    optimiser = make_optimiser(network, OptimiserConfig(name=name, weight_decay=0.3))
    decays = {
        id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]
    }
    assert len(decays) == len(list(network.parameters()))
    for key, parameter in network.named_parameters():
        wanted = 0.3 if parameter.ndim == 4 else 0.0
        assert decays[id(parameter)] == wanted, key


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_state_survives_a_round_trip(name):
    def step(network, optimiser, seed):
        torch.manual_seed(seed)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()

    config = OptimiserConfig(name=name)
    first, second = tiny_network(), tiny_network()
    trained = make_optimiser(first, config)
    step(first, trained, 1)
    second.load_tensors(first.tensors())
    restored = make_optimiser(second, config)
    load_optimiser_state(second, restored, optimiser_state(first, trained))
    step(first, trained, 2)
    step(second, restored, 2)
    for key, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[key]), key


def test_state_of_another_network_is_refused():
    network = tiny_network()
    optimiser = make_optimiser(network, OptimiserConfig())
    with pytest.raises(ArtefactError, match="does not fit the network"):
        load_optimiser_state(network, optimiser, {"blocks.9.conv.weight/exp_avg": torch.zeros(1)})


def test_average_by_hand():
    # decay of the first updates: 2/11, then 3/12; below the largest decay 0.9
    network = tiny_network()
    weight = network.weights()["a"]
    with torch.no_grad():
        weight.fill_(0.0)
        network.tensors()["a.bn_mean"].fill_(0.0)
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        weight.fill_(11.0)
        network.tensors()["a.bn_mean"].fill_(22.0)
    average.update()
    first = 11.0 * (1 - 2 / 11)
    assert average.network.weights()["a"].flatten()[0].item() == pytest.approx(first)
    assert average.network.tensors()["a.bn_mean"][0].item() == pytest.approx(2 * first)
    average.update()
    second = 3 / 12 * first + 9 / 12 * 11.0
    assert average.network.weights()["a"].flatten()[0].item() == pytest.approx(second)
    assert weight.flatten()[0].item() == 11.0
    assert not any(p.requires_grad for p in average.network.parameters())


def test_average_reaches_its_decay_and_zero_means_none():
    network = tiny_network()
    average = WeightAverage(network, 0.5)
    average.updates = 1000
    with torch.no_grad():
        average.network.weights()["a"].fill_(0.0)
        network.weights()["a"].fill_(1.0)
    average.update()
    assert average.network.weights()["a"].flatten()[0].item() == pytest.approx(0.5)
    assert WeightAverage(network, 0.0).network is network
