"""Zeros stay exactly zero, whatever the optimiser does."""

import pytest
import torch

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import MaskHook, masked_tensors, tensor_masks
from pneumonia.compression.sets.units import Columns, Filters
from pneumonia.network.module import Network
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.training.config import OptimiserConfig
from pneumonia.training.ema import WeightAverage
from pneumonia.training.optimiser import make_optimiser

SPEC = NetworkSpec(
    "masked",
    InputSpec(1, 8, 8),
    (
        Conv("a", ("input",), 1, 6, 3, 1, 1, False, True, "leaky_relu"),
        Conv("b", ("a",), 6, 8, 3, 2, 1, True, False, "relu"),
        Conv("head", ("b",), 8, 2, 1),
    ),
    ("head",),
    ("x",),
)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_masked_tensors_stay_zero_through_100_steps(name: str) -> None:
    torch.manual_seed(0)
    network = Network(SPEC)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = OptimiserConfig(name=name, learning_rate=0.01, momentum=0.9, weight_decay=0.1)  # type: ignore[arg-type]
    optimiser, average = make_optimiser(network, config), WeightAverage(network, 0.9)
    weights = network.weights()
    masks = {
        "a": Filters(4).project(weights["a"].detach()).mask,
        "b": Columns(7, 4).project(weights["b"].detach()).mask,
        "head": Columns(3).project(weights["head"].detach()).mask,
    }
    for _ in range(10):  # momentum and moments before the mask, as after a dense epoch
        network(torch.rand(4, 1, 8, 8))["head"].square().sum().backward()
        optimiser.step()
    hook = MaskHook(ChannelGraph(SPEC), masks)
    hook.before_fit(network, average.network)
    before = {key: tensor.clone() for key, tensor in network.tensors().items()}
    for _ in range(100):
        optimiser.zero_grad()
        loss = (network(torch.rand(4, 1, 8, 8))["head"] - 1).square().sum()
        loss.backward()
        optimiser.step()
        average.update()
        hook.after_step(network, average.network)
    every = tensor_masks(ChannelGraph(SPEC), masks)
    assert int((~every["a.bn_bias"]).sum()) == int((~every["a.bn_weight"]).sum()) == 2
    for module in (network, average.network):
        for key, mask in every.items():
            assert torch.all(module.tensors()[key][~mask] == 0)
    after = network.tensors()
    assert all(bool((after[key][mask] != before[key][mask]).any()) for key, mask in every.items())


def test_bias_of_an_output_survives_a_filter_without_weights() -> None:
    graph = ChannelGraph(SPEC)
    masks = {"head": torch.zeros(2, 8, 1, 1, dtype=torch.bool)}
    assert tensor_masks(graph, masks)["head.bias"].tolist() == [True, True]
    rows = torch.tensor([True] * 7 + [False]).reshape(8, 1, 1, 1)
    assert tensor_masks(graph, {"b": rows.expand(8, 6, 3, 3)})["b.bias"].tolist()[-1] is False


def test_masking_leaves_the_given_tensors_alone() -> None:
    tensors = Network(SPEC).tensors()
    original = tensors["a.weight"].clone()
    masks = {"a": torch.zeros(6, 1, 3, 3, dtype=torch.bool)}
    assert torch.all(masked_tensors(ChannelGraph(SPEC), tensors, masks)["a.weight"] == 0)
    assert torch.equal(tensors["a.weight"], original)
