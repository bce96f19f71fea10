"""Straight-through training: the network stays in the set, latent weights carry the gradient."""

import pytest
import torch
from torch import Tensor

from pneumonia.compression.quantize.straight_through import Project, StraightThrough
from pneumonia.compression.sets.constraint import PerLayer
from pneumonia.compression.sets.levels import BINARY, Quantized
from pneumonia.compression.sets.units import Irregular
from pneumonia.runtime.errors import PruneError


def projection(constraint: PerLayer) -> Project:
    return lambda latent: {name: p.z for name, p in constraint.project(latent).items()}


def test_finds_the_best_support_where_masked_training_cannot() -> None:
    # f = 1/2 ||W - A||^2: the optimum on the set is the projection of A. W starts at weights whose
    # two largest are the wrong ones, so that training inside the first mask never gets there.
    wanted = torch.tensor([[0.1, 3.0, -2.0, 0.2]])
    weight = torch.nn.Parameter(torch.tensor([[1.0, 0.3, 0.2, 1.0]]))
    through = StraightThrough({"a": weight}, projection(PerLayer({"a": Irregular(2)})))
    through.start()
    optimiser = torch.optim.SGD([weight], lr=0.2)
    for _ in range(20):
        optimiser.zero_grad()
        (0.5 * (weight - wanted).square().sum()).backward()
        optimiser.step()
        through.after_step()
        assert int(weight.count_nonzero()) <= 2
    assert torch.allclose(weight, torch.tensor([[0.0, 3.0, -2.0, 0.0]]), atol=0.1)


def test_latent_weights_follow_the_gradient_of_the_projected_ones() -> None:
    # With SGD: latent' = latent - lr * gradient at the projected weights.
    weight = torch.nn.Parameter(torch.tensor([[0.5, -0.25, 0.75]]))
    latent = weight.detach().clone()
    through = StraightThrough({"a": weight}, projection(PerLayer({"a": Quantized(BINARY)})))
    through.start()
    assert torch.equal(weight.detach(), torch.tensor([[0.5, -0.5, 0.5]]))
    optimiser = torch.optim.SGD([weight], lr=0.5)
    optimiser.zero_grad()
    (weight * torch.tensor([[1.0, -1.0, 2.0]])).sum().backward()
    optimiser.step()
    through.after_step()
    expected = latent - 0.5 * torch.tensor([[1.0, -1.0, 2.0]])
    assert torch.allclose(through.latent["a"], expected)
    assert torch.allclose(weight.detach(), expected.abs().mean() * torch.tensor([[1.0, 1.0, -1.0]]))


def test_limit_keeps_every_sign_within_reach() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, -1.0]]))

    def double(latent: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: 2 * w for name, w in latent.items()}

    through = StraightThrough({"a": weight}, double, limit=1.5)
    through.start()
    with torch.no_grad():
        weight.add_(100.0)
    through.after_step()
    assert torch.equal(through.latent["a"], torch.tensor([[1.5, 1.5]]))


def test_limit_counts_weights_that_are_left_alone() -> None:
    # A pruned layer's mean over all places would clip every weight that is left.
    weight = torch.nn.Parameter(torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]]))
    through = StraightThrough({"a": weight}, dict, limit=4.0)
    through.start()
    through.after_step()
    assert torch.equal(through.latent["a"], weight.detach())


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_refuses_a_limit_that_leaves_nothing(limit: float) -> None:
    with pytest.raises(PruneError, match="Latent weights"):
        StraightThrough({"a": torch.zeros(1, 2)}, dict, limit)
