"""ADMM and masks on modules that have no NetworkSpec."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pneumonia.compression.admm.any_module import ModuleCompression, match_parameters
from pneumonia.compression.sets.constraint import PerLayer
from pneumonia.compression.sets.levels import BINARY, Levels, Quantized
from pneumonia.compression.sets.units import Columns, Filters, Irregular
from pneumonia.runtime.errors import PruneError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 6, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def train(network: nn.Module, steps: int, after_backward=None, after_step=None, each=None) -> float:
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-3)
    x, y = data()
    for step in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        if after_backward:
            after_backward()
        optimiser.step()
        if after_step:
            after_step()
        if each and step % 20 == 19:
            each()
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def test_pruned_module_learns_and_stays_sparse():
    network = model()
    dense = train(network, 200)
    plan = ModuleCompression(
        network, match_parameters(network, "*.weight", lambda p: Irregular(p.numel() // 3)), 0.01
    )
    plan.start()
    train(network, 200, plan.add_penalty_gradient, each=plan.update)
    plan.set_rho(0.3)
    train(network, 100, plan.add_penalty_gradient, each=plan.update)
    assert max(r.primal for r in plan.update()) < 0.2, "the weights came to the set"
    masks = plan.harden()
    pruned = train(network, 200, after_step=plan.hold)
    for name, mask in masks.items():
        assert int(mask.sum()) == mask.numel() // 3
        assert (dict(network.named_parameters())[name][~mask] == 0).all()
    assert plan.rate() == pytest.approx(3, rel=0.05)
    assert dense > 0.95
    assert pruned > 0.9


def test_any_constraint_will_do():
    network = model()
    plan = ModuleCompression(network, {"0.weight": Quantized(BINARY)})
    plan.harden()
    assert len(network[0].weight.abs().unique()) == 1


def test_wrong_names_are_named():
    with pytest.raises(PruneError, match=r"0\.weight"):
        ModuleCompression(model(), {"conv.weight": Irregular(1)})
    with pytest.raises(PruneError, match="none"):
        ModuleCompression(model(), {})
    with pytest.raises(PruneError, match=r"2\.weight"):
        match_parameters(model(), "features.*", lambda p: Irregular(1))


def plan_of(constraint, **options) -> ModuleCompression:
    return ModuleCompression(model(), {"0.weight": constraint}, **options)


@pytest.mark.parametrize("value", [8, 0.5, "Filters", None, Filters, PerLayer({})])
def test_what_is_not_a_constraint_is_refused_at_construction(value):
    with pytest.raises(PruneError, match=r"Not a constraint.*such as Filters\(8\).*in 0\.weight"):
        plan_of(value)
    with pytest.raises(PruneError, match=r"Not a constraint"):
        PerLayer({"0.weight": value})
    with pytest.raises(PruneError, match=r"found Filters"):
        ModuleCompression(model(), Filters(8))


@pytest.mark.parametrize("n_keep", [8.0, "8", None])
def test_budgets_are_integers(n_keep):
    with pytest.raises(PruneError, match=r"not an integer; expected an int >= 1; found"):
        Filters(n_keep)


@pytest.mark.parametrize("step", ["update", "add_penalty_gradient", "pull"])
def test_a_step_before_start_is_refused(step):
    plan = plan_of(Filters(4))
    learning_rate = [0.1] if step == "pull" else []
    with pytest.raises(PruneError, match=r"has not started; expected start\(\) before"):
        getattr(plan, step)(*learning_rate)
    unstarted = plan.state_dict()
    plan.start()
    getattr(plan, step)(*learning_rate)
    resumed = plan_of(Filters(4))
    resumed.load_state_dict(unstarted)
    with pytest.raises(PruneError, match="has not started"):
        getattr(resumed, step)(*learning_rate)
    resumed.load_state_dict(plan.state_dict())
    getattr(resumed, step)(*learning_rate)


@pytest.mark.parametrize("rho", [-1.0, 0.0, float("nan"), float("inf"), "1", None])
def test_a_penalty_is_a_finite_positive_number(rho):
    plan = plan_of(Filters(4), rho=0.1)
    plan.start()
    for how in ("rescale", "restart"):
        with pytest.raises(PruneError, match=r"rho.*expected a finite number above 0; found"):
            plan.set_rho(rho, how)
    with pytest.raises(PruneError, match="rho"):
        plan_of(Filters(4), rho=rho)
    assert plan.engine.rho == 0.1
    if isinstance(rho, float):
        with pytest.raises(PruneError, match="rho"):
            plan.load_state_dict({**plan.state_dict(), "rho": torch.tensor(rho)})
    assert plan.engine.rho == 0.1


def test_one_example_input_is_given_as_a_tensor():
    x = data()[0][:4]
    for given in (x, (x,), [x]):
        network = model()
        ModuleCompression(network, {"0.weight": Filters(4)}, example_inputs=given).harden()
        assert int(network[0].bias.count_nonzero()) == 4, "traced: biases go with their filters"
    for wrong in (x.numpy(), {"input": x}, None):
        with pytest.raises(PruneError, match=r"expected a tensor, or a tuple.*found"):
            plan_of(Filters(4), example_inputs=wrong)


@pytest.mark.parametrize(("saved", "own", "message"), [
    (Filters(4), Filters(12), r"0\.weight: Filters\(n_keep=12\); found Filters\(n_keep=4\)"),
    (Filters(4), Irregular(4), r"Irregular\(n_keep=4\); found Filters\(n_keep=4\)"),
    (Columns(2, 4), Columns(2, 8), r"group_size=8.*found.*group_size=4"),
    (Quantized(BINARY), Quantized(Levels((1.0, 2.0), False, 4)), r"2\.0\].*found.*\[1\.0\]"),
    (
        Quantized(BINARY, torch.ones(16, 6).bool()), Quantized(BINARY, torch.eye(16, 6).bool()),
        r"mask=bool\[16, 6\]:\w+.*found.*mask=bool\[16, 6\]:\w+",
    ),
])  # fmt: skip
@pytest.mark.parametrize("step", ["start", "harden"])
def test_a_state_of_other_constraints_is_refused(saved, own, message, step):
    plan, other = plan_of(saved), plan_of(own)
    getattr(plan, step)()
    with pytest.raises(PruneError, match=r"State does not fit this plan.*" + message):
        other.load_state_dict(plan.state_dict())
    assert not other.masks, "nothing is taken of it"
    plan_of(saved).load_state_dict(plan.state_dict())


def test_settings_in_a_state_are_optional_but_not_damaged(caplog):
    plan = plan_of(Filters(4))
    state = plan.state_dict()
    with pytest.raises(PruneError, match="State is damaged"):
        plan.load_state_dict({**state, "plan": state["plan"][:5]})
    del state["plan"]
    plan.load_state_dict(state)
    assert "no plan settings" in caplog.text
