"""Progressive snap: what is frozen stays, the published fractions, everything on levels at last."""

import pytest
import torch
from torch import nn

from pneumonia.compression.quantize.snap import ProgressiveSnap, SnapHook, partial_shares
from pneumonia.compression.sets.levels import BINARY, TERNARY, Quantized, k_bit
from pneumonia.network.batch_norm import reestimate_batch_norm


def weights(n: int = 2000) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {"a": nn.Parameter(torch.randn(n // 100, 100, generator=generator))}


def test_published_fractions():
    snapping = ProgressiveSnap(weights(), {"a": Quantized(k_bit(3))})
    found = [snapping.advance() for _ in range(5)]
    assert found == pytest.approx([0.30, 0.51, 0.66, 0.76, 0.83], abs=0.01)


def test_closest_of_every_level_go_first():
    own = {"a": nn.Parameter(torch.tensor([0.9, 1.2, 1.4, -1.0, -0.7, -1.45, 0.6]))}
    snapping = ProgressiveSnap(own, {"a": Quantized(BINARY, scale=1.0)})
    assert snapping.fixed["a"].tolist() == [False, False, False, True, False, False, False]
    snapping.advance(0.25)  # of 4 positive ones one, of the 2 free negative ones one
    assert snapping.fixed["a"].tolist() == [True, False, False, True, True, False, False]
    assert own["a"].tolist() == pytest.approx([1.0, 1.2, 1.4, -1.0, -1.0, -1.45, 0.6])


def test_a_layer_that_admm_put_on_its_levels_is_fixed_at_once():
    own = {"a": nn.Parameter(torch.tensor([1.0, -1.0, 1.0])), "b": nn.Parameter(torch.rand(8))}
    sets = {name: Quantized(BINARY, scale=1.0) for name in own}
    snapping = ProgressiveSnap(own, sets)
    assert bool(snapping.fixed["a"].all())
    snapping.advance(0.5)
    assert int(snapping.fixed["b"].sum()) == 4
    assert own["a"].tolist() == [1.0, -1.0, 1.0]


def test_frozen_weights_survive_momentum_and_decay():
    own = weights()
    mask = own["a"].detach().abs() > 0.5
    snapping = ProgressiveSnap(own, {"a": Quantized(TERNARY, mask)})
    optimiser = torch.optim.SGD(own.values(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for share in (0.5, 0.5, 1.0):
        snapping.advance(share)
        before = own["a"].detach().clone()
        for _ in range(30):
            optimiser.zero_grad()
            (own["a"] - 0.3).square().sum().backward()
            optimiser.step()
            snapping.hold()
        fixed = snapping.fixed["a"]
        assert torch.equal(own["a"][fixed], before[fixed])
        assert (own["a"][~mask] == 0).all()
    assert snapping.fixed_share() == 1.0
    scale = snapping.scales["a"]
    allowed = torch.tensor([-1.0, 0.0, 1.0]) * scale
    assert torch.isin(own["a"], allowed).all(), "100 % on levels"


def test_partial_ladder():
    snapping = ProgressiveSnap(weights(), {"a": Quantized(k_bit(4))})
    found = [snapping.advance(share) for share in partial_shares((0.5, 0.75, 0.875, 1.0))]
    assert found == pytest.approx([0.5, 0.75, 0.875, 1.0], abs=0.01)
    assert found[-1] == 1.0


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3, bias=False)

    def weights(self) -> dict[str, nn.Parameter]:
        return {"fc": self.fc.weight}


def test_hook_resumes_where_it_was():
    torch.manual_seed(0)
    network, average = Tiny(), Tiny()
    average.load_state_dict(network.state_dict())
    sets = {"fc": Quantized(k_bit(3), scale=0.2)}
    hook = SnapHook(sets, (0.5, 1.0))
    hook.before_fit(network, average)
    tensors, values = hook.state()
    middle = {name: tensor.clone() for name, tensor in tensors.items()}
    again = SnapHook(sets, (0.5, 1.0))
    again.load_state(middle, values)
    copy, copied_average = Tiny(), Tiny()
    copy.load_state_dict(network.state_dict())
    copied_average.load_state_dict(average.state_dict())
    again.before_fit(copy, copied_average)
    assert torch.equal(copy.fc.weight, network.fc.weight)
    for own, ema, one in ((network, average, hook), (copy, copied_average, again)):
        assert one.after_epoch(own, 1) == {"snap_fixed": 1.0}
        one.after_step(own, ema)
    assert torch.equal(copy.fc.weight, network.fc.weight)
    assert torch.equal(average.fc.weight, network.fc.weight), "the average is on the levels, too"


def test_batch_norm_is_the_plain_average_of_batches():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    network[1].register_buffer("num_batches_tracked", None)
    batches = [torch.randn(8, 1, 4, 4) * (i + 1) + i for i in range(3)]
    network.eval()
    weight = network[0].weight.detach().clone()
    used = reestimate_batch_norm(network, batches, limit=2)
    outputs = [network[0](batch).detach() for batch in batches[:2]]
    assert used == 2
    means = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variances = torch.stack([o.transpose(0, 1).flatten(1).var(1) for o in outputs]).mean(0)
    assert torch.allclose(network[1].running_mean, means, atol=1e-5)
    assert torch.allclose(network[1].running_var, variances, rtol=1e-4)
    assert network[1].momentum == 0.1
    assert not network.training
    assert torch.equal(network[0].weight, weight)
    assert reestimate_batch_norm(nn.Linear(2, 2), batches) == 0
