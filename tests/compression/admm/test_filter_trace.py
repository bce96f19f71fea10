"""Filters of modules that have no NetworkSpec: coupled ones go together, with bias and norms."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pneumonia.compression.admm.any_module import ModuleCompression
from pneumonia.compression.admm.filter_trace import trace_filters
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.sets.units import Filters, Irregular
from pneumonia.network.torch_import.imported import from_torch
from pneumonia.runtime.errors import PruneError
from tests.network.torch_import.torch_networks import network


class TwoInputs(nn.Module):
    """Not understood by `from_torch`: two inputs and code that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.norm, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.up_norm = nn.BatchNorm2d(6)
        self.joined_norm = nn.BatchNorm2d(9)
        self.head = nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        merged = F.silu(self.norm(self.left(x)) + self.norm2(self.right(y)))
        if float(merged.detach().mean()) > 1e9:
            return merged
        up = F.relu(self.up_norm(self.up(self.depthwise(merged))))
        wide = F.interpolate(x, scale_factor=2)
        return self.head(self.joined_norm(torch.cat([wide, up], 1)))


def trained(module: nn.Module) -> nn.Module:
    """Biases, gains and statistics that are not at their start."""
    for part in module.modules():
        for name in ("weight", "bias", "running_mean"):
            tensor = getattr(part, name, None)
            if isinstance(part, nn.BatchNorm2d) or (name == "bias" and tensor is not None):
                tensor.data.normal_(0, 1)
    return module


def channels_of(module: nn.Module, path: str, *inputs: Tensor) -> Tensor:
    """Whether each channel of a submodule's output is anything but 0: bool (C,)."""
    seen: list[Tensor] = []
    hook = module.get_submodule(path).register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        module.eval()(*inputs)
    hook.remove()
    return seen[0].abs().amax((0, 2, 3)) > 0


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 6, 6, generator=generator), torch.randn(
        2, 1, 6, 6, generator=generator
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenetv2", "densenet", "unet"])
def test_coupled_filters_are_those_of_the_network_description(name: str) -> None:
    module, x = network(name)
    traced = trace_filters(module, (x,))
    found = {frozenset(n.removesuffix(".weight") for n in group) for group in traced.groups}
    described = ChannelGraph(from_torch(module, x).spec).components()
    assert found == {frozenset(group.layers) for group in described}
    assert not traced.loose


def test_filters_are_removed_with_their_partners_biases_and_norms() -> None:
    torch.manual_seed(0)
    module = trained(TwoInputs())
    plan = ModuleCompression(
        module,
        {"right.weight": Filters(3), "up.weight": Filters(2)},
        example_inputs=inputs(),
    )
    assert set(plan.weights) == {"left.weight", "right.weight", "depthwise.weight", "up.weight"}
    energy = sum(
        w.detach().square().sum((1, 2, 3)) for n, w in plan.weights.items() if n != "up.weight"
    )
    plan.harden()
    kept = torch.zeros(8, dtype=torch.bool)
    kept[energy.topk(3).indices] = True
    for path in ("left", "right", "norm", "norm2", "depthwise"):
        assert (channels_of(module, path, *inputs()) == kept).all(), path
    ups = channels_of(module, "up", *inputs())
    assert int(ups.sum()) == 2
    assert (channels_of(module, "up_norm", *inputs()) == ups).all()
    joined = channels_of(module, "joined_norm", *inputs())
    assert (joined == torch.cat([torch.ones(3, dtype=torch.bool), ups])).all()


def test_removed_filters_stay_removed_in_training_and_after_a_resume() -> None:
    torch.manual_seed(0)
    module = trained(TwoInputs())
    constraints = {"left.weight": Filters(3), "head.weight": Irregular(10)}
    plan = ModuleCompression(module, constraints, 0.1, inputs())
    plan.start()
    plan.update()
    plan.harden()
    before = channels_of(module, "norm", *inputs())
    with pytest.raises(PruneError, match=r"State does not fit.*up.weight"):
        ModuleCompression(module, {"up.weight": Filters(2)}).load_state_dict(plan.state_dict())
    with pytest.raises(PruneError, match="no rho"):
        plan.load_state_dict({})
    saved, weights = plan.state_dict(), {n: t.clone() for n, t in module.state_dict().items()}
    other = TwoInputs()
    resumed = ModuleCompression(other, constraints, 0.1, inputs())
    resumed.load_state_dict(saved)
    other.load_state_dict(weights)
    for one, run in ((module, plan), (other, resumed)):
        optimiser = torch.optim.Adam(one.parameters(), lr=0.01)
        for _ in range(3):
            optimiser.zero_grad()
            one.train()(*inputs()).square().mean().backward()
            optimiser.step()
            run.hold()
        assert (channels_of(one, "norm", *inputs()) == before).all()
        assert (channels_of(one, "depthwise", *inputs()) == before).all()
        assert int(one.head.weight.count_nonzero()) <= 10
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, module.state_dict()[name], rtol=0, atol=0)


def test_an_emptied_filter_of_other_sets_goes_whole_too() -> None:
    module = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    module[0].weight.data[2] = 1e-6
    plan = ModuleCompression(
        module, {"0.weight": Irregular(8)}, example_inputs=(torch.randn(2, 3, 4, 4),)
    )
    plan.harden()
    assert module[1].weight[2] == module[1].bias[2] == module[0].bias[2] == 0
    assert int(module[1].weight.count_nonzero()) == 3


@pytest.mark.parametrize("function", [
    lambda m, x: m.a(x) + m.b(x).chunk(1, 1)[0],
    lambda m, x: m.a(x) + m.b(x).permute(0, 1, 3, 2),
])  # fmt: skip
def test_sums_with_unknown_channels_are_named(
    function: Callable[[nn.Module, Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return function(self, x)

    x = torch.randn(1, 3, 4, 4)
    plan = ModuleCompression(Sum(), {"a.weight": Filters(2)}, example_inputs=(x,))
    assert "Filters of a.weight are added to channels of unknown origin" in caplog.text
    assert set(plan.weights) == {"a.weight"}


def test_what_cannot_be_coupled_is_an_error() -> None:
    module = TwoInputs()
    with pytest.raises(PruneError, match=r"left.weight: 2, right.weight: 3"):
        ModuleCompression(
            module, {"left.weight": Filters(2), "right.weight": Filters(3)},
            example_inputs=inputs(),
        )  # fmt: skip
    with pytest.raises(PruneError, match=r"for right.weight; found Irregular"):
        ModuleCompression(
            module, {"left.weight": Filters(2), "right.weight": Irregular(3)},
            example_inputs=inputs(),
        )  # fmt: skip
    with pytest.raises(PruneError, match=r"does not run on the example inputs; found TypeError"):
        ModuleCompression(module, {"left.weight": Filters(2)}, example_inputs=inputs()[:1])
    assert module.training
