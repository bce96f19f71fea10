"""The ADMM engine on a problem whose answer is known, and its hook in the training loop."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from pneumonia.compression.admm.engine import Admm
from pneumonia.compression.sets.constraint import PerLayer, Projection, masked, top_k_mask
from pneumonia.compression.sets.units import Columns, Filters


class TopK:
    """At most n_keep non-zero weights."""

    def __init__(self, n_keep: int) -> None:
        self.n_keep = n_keep

    def project(self, v: Tensor) -> Projection:
        return masked(v, top_k_mask(v.abs().flatten(), self.n_keep).reshape(v.shape))

    def storage_bits(self, z: Tensor) -> object:
        raise NotImplementedError


def quadratic(a: Tensor, rho: float, updates: int) -> tuple[Tensor, Tensor, list[float]]:
    """ADMM with the exact W-step of f = 1/2 ||W - A||^2; returns W, Z and the churn."""
    w = a.clone()
    engine = Admm([PerLayer({"w": TopK(10)})], rho)  # type: ignore[dict-item]
    engine.start({"w": w})
    churn = []
    for _ in range(updates):
        split = engine.splits[0]
        w = (a + rho * (split.z["w"] - split.u["w"])) / (1 + rho)
        churn.append(engine.update({"w": w})[0].churn)
    return w, engine.splits[0].z["w"], churn


@pytest.mark.parametrize("rho", [1.0, 1.5, 3.0])
def test_quadratic_reaches_the_projection_of_its_minimum(rho: float) -> None:
    for seed in range(12):
        a = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        w, z, churn = quadratic(a, rho, 200)
        expected = TopK(10).project(a).z
        assert torch.allclose(z, expected, atol=1e-9)
        assert torch.allclose(w, expected, atol=1e-9)
        assert churn[-1] == 0


@pytest.mark.parametrize("rho", [0.1, 0.3, 0.5])
def test_too_small_a_rho_makes_the_support_swap_for_ever(rho: float) -> None:
    for seed in range(6):
        a = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert sum(quadratic(a, rho, 400)[2][-100:]) > 0


def test_penalty_gradient_is_that_of_the_squared_norm() -> None:
    w = torch.nn.Parameter(torch.randn(4, 3, 2, 2))
    engine = Admm([PerLayer({"w": Filters(2)}), PerLayer({"w": Columns(5)})], rho=0.3)
    engine.start({"w": w})
    with torch.no_grad():
        w.add_(torch.randn_like(w))
    engine.update({"w": w})
    penalty = sum(
        0.15 * (w - split.z["w"] + split.u["w"]).square().sum() for split in engine.splits
    )
    assert isinstance(penalty, Tensor)
    (expected,) = torch.autograd.grad(penalty, w)
    w.grad = torch.ones_like(w)
    engine.add_penalty_gradient({"w": w})
    assert torch.allclose(w.grad, expected + 1, atol=1e-6)


def test_pull_is_the_minimum_of_distance_and_penalty() -> None:
    torch.manual_seed(0)
    w = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    engine = Admm([PerLayer({"w": Filters(2)}), PerLayer({"w": Columns(5)})], rho=0.7)
    engine.start({"w": w})
    engine.update({"w": w + torch.randn_like(w)})
    before, tau = w.clone(), 0.2
    engine.pull({"w": w}, tau)
    penalty = sum(0.7 * (w - split.z["w"] + split.u["w"]) for split in engine.splits)
    assert torch.allclose((w - before) / tau + penalty, torch.zeros_like(w), atol=1e-12)


@pytest.mark.parametrize("rho", [20.0, 1e4])
def test_proximal_steps_reach_the_projection_at_any_large_rho(rho: float) -> None:
    """Gradient steps on f = 1/2 ||W - A||^2, each followed by a pull; 1e4 would blow SGD up."""
    a = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w, tau = a.clone(), 0.05
    engine = Admm([PerLayer({"w": TopK(10)})], rho)  # type: ignore[dict-item]
    engine.start({"w": w})
    for step in range(20_000 if rho < 100 else 2_000):
        w -= tau * (w - a)
        engine.pull({"w": w}, tau)
        if step % 20 == 19:
            engine.update({"w": w})
    expected = TopK(10).project(a).z
    assert torch.allclose(engine.splits[0].z["w"] != 0, expected != 0)
    assert torch.allclose(w, expected, atol=1e-6 if rho < 100 else 0.1)


def test_start_update_and_residuals_by_hand() -> None:
    w = torch.tensor([[3.0], [1.0]])
    engine = Admm([PerLayer({"w": Filters(1)})], rho=2.0)
    engine.start({"w": w})
    assert engine.splits[0].z["w"].tolist() == [[3.0], [0.0]]
    assert engine.splits[0].u["w"].tolist() == [[0.0], [0.0]]
    w = torch.tensor([[2.0], [4.0]])
    (residual,) = engine.update({"w": w})
    assert engine.splits[0].z["w"].tolist() == [[0.0], [4.0]]
    assert engine.splits[0].u["w"].tolist() == [[2.0], [0.0]]
    norm = math.sqrt(20)
    assert residual.primal == pytest.approx(2 / norm)
    assert residual.dual == pytest.approx(2 * 5 / norm)
    assert residual.churn == 1.0
    engine.update({"w": w})  # V = W + U = (4, 4): the lower index wins
    assert engine.splits[0].z["w"].tolist() == [[4.0], [0.0]]


def test_a_new_rho_keeps_the_multiplier_or_restarts() -> None:
    w = {"w": torch.tensor([[3.0], [1.0]])}
    engine = Admm([PerLayer({"w": Filters(1)})], rho=0.5)
    engine.start(w)
    engine.update(w)
    engine.update(w)
    multiplier = engine.rho * engine.splits[0].u["w"]
    assert multiplier.abs().sum() > 0
    engine.set_rho(5.0, w, "rescale")
    assert torch.allclose(engine.rho * engine.splits[0].u["w"], multiplier)
    engine.set_rho(7.0, w, "restart")
    assert engine.splits[0].u["w"].abs().sum() == 0
    assert engine.splits[0].z["w"].tolist() == [[3.0], [0.0]]


def test_state_is_everything() -> None:
    def make() -> Admm:
        return Admm([PerLayer({"w": Filters(2)})], rho=1.0)

    generator = torch.Generator().manual_seed(0)
    path = [torch.randn(4, 3, generator=generator) for _ in range(6)]
    whole, first, second = make(), make(), make()
    whole.start({"w": path[0]})
    first.start({"w": path[0]})
    for w in path[1:3]:
        whole.update({"w": w})
        first.update({"w": w})
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for w in path[3:]:
        assert whole.update({"w": w}) == second.update({"w": w})
    expected: Mapping[str, Tensor] = whole.state()
    assert all(torch.equal(expected[name], tensor) for name, tensor in second.state().items())


def test_free_weights_are_not_pulled_and_removed_ones_go_the_exact_step() -> None:
    w = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    engine = Admm([PerLayer({"w": Filters(2)})], rho=3.0, kept="free")
    engine.start({"w": w})
    engine.update({"w": w})  # U is W on what is removed, 0 elsewhere
    split, tau = engine.splits[0], 0.1
    removed = split.z["w"] == 0
    before, u = w.clone(), split.u["w"].clone()
    engine.pull({"w": w}, tau)
    assert torch.equal(w[~removed], before[~removed])
    left = (w - before) / tau + 3.0 * (w + u)  # gradient of the pull's own problem
    assert torch.allclose(left[removed], torch.zeros(()).double(), atol=1e-12)

    held = Admm([PerLayer({"w": Filters(2)})], rho=3.0)
    held.load_state(engine.state())
    again = before.clone()
    held.pull({"w": again}, tau)
    assert torch.allclose(again[removed], w[removed], atol=1e-12)  # Z is 0 there: the same step


def test_the_gradient_of_free_weights_is_that_of_the_removed_alone() -> None:
    w = torch.nn.Parameter(torch.tensor([[3.0], [1.0]]))
    engine = Admm([PerLayer({"w": Filters(1)})], rho=2.0, kept="free")
    engine.start({"w": w})
    engine.update({"w": w})  # U = (0, 1)
    with torch.no_grad():
        w.copy_(torch.tensor([[5.0], [2.0]]))
    engine.add_penalty_gradient({"w": w})
    assert w.grad is not None
    assert w.grad.tolist() == [[0.0], [2.0 * (2.0 + 1.0)]]


def test_two_sets_pull_free_weights_where_either_removes_them() -> None:
    w = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sets = [PerLayer({"w": Filters(2)}), PerLayer({"w": Columns(2)})]
    engine = Admm(sets, rho=3.0, kept="free")
    engine.start({"w": w})
    before, tau = w.clone(), 0.1
    engine.pull({"w": w}, tau)  # U is 0
    pulls = sum((split.z["w"] == 0).double() for split in engine.splits)
    assert torch.allclose(w, before / (1 + tau * 3.0 * pulls), atol=1e-12)
    assert set(pulls.unique().tolist()) == {0.0, 1.0, 2.0}
