"""Kept units chosen for the whole network: by hand on a residual block, and against all choices."""

import itertools
import math

import torch
from torch import Tensor

from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.runtime.model.layers import Conv, GlobalAvgPool, Linear, Shortcut
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec, tensor_shapes

# x -> stem -> (+) -> pool -> head, with the branch first, second around the sum
RESIDUAL = NetworkSpec(
    "residual",
    InputSpec(1, 4, 4),
    (
        Conv("stem", (INPUT,), 1, 2, 1, 1, 0, False, False, "linear"),
        Conv("first", ("stem",), 2, 2, 1, 1, 0, False, False, "relu"),
        Conv("second", ("first",), 2, 2, 1, 1, 0, False, False, "linear"),
        Shortcut("sum", ("stem", "second")),
        GlobalAvgPool("pool", ("sum",)),
        Linear("head", ("pool",), 2, 1),
    ),
    ("head",),
    ("a",),
)
ENERGIES = {
    "stem": [[1.0], [4.0]],
    "first": [[9.0, 0.0], [0.0, 1.0]],
    "second": [[1.0, 0.0], [0.0, 1.0]],
    "head": [[9.0, 0.0]],
}


def weights_of(energies: dict[str, list[list[float]]]) -> dict[str, Tensor]:
    found = {name: torch.tensor(rows).sqrt() for name, rows in energies.items()}
    return {n: w if n == "head" else w[:, :, None, None] for n, w in found.items()}


def kept(spec: NetworkSpec, weights: dict[str, Tensor], importance: str) -> dict[str, Tensor]:
    """The projection's weights where every group keeps half of its units."""
    method = StructuredMethod(filter_share=1, round_to=1, importance=importance)  # type: ignore[arg-type]
    sets = method.sets(ChannelGraph(spec), dict.fromkeys(weights, 4.0))
    return {name: p.z for name, p in sets.hard.project(weights).items()}


def energy(weights: dict[str, Tensor]) -> float:
    return sum(float(w.double().square().sum()) for w in weights.values())


def test_a_residual_block_by_hand() -> None:
    weights = weights_of(ENERGIES)
    # The stream's own filters: 1 + 1 for channel 0, 4 + 1 for channel 1, which nothing much reads.
    alone = kept(RESIDUAL, weights, "filters")
    assert alone["stem"].flatten().tolist() == [0.0, 2.0]
    assert math.isclose(energy(alone), 4.0, rel_tol=1e-6)
    # With the readers: 1 + 1 + 9 + 9 for channel 0, 4 + 1 + 1 + 0 for channel 1.
    whole = kept(RESIDUAL, weights, "network")
    assert whole["stem"].flatten().tolist() == [1.0, 0.0]
    assert whole["first"].flatten().tolist() == [3.0, 0.0, 0.0, 0.0]
    assert whole["second"].flatten().tolist() == [1.0, 0.0, 0.0, 0.0]
    assert whole["head"].flatten().tolist() == [3.0, 0.0]
    assert math.isclose(energy(whole), 20.0, rel_tol=1e-6)


def test_gains_of_norms_count_as_weights_do() -> None:
    weights = weights_of(ENERGIES)
    tensors = {f"{name}.weight": w for name, w in weights.items()}
    # Without gains filter 0 of `first` counts 9 + 1, filter 1 nothing in the channel that stays.
    for gain, filter_kept in ((3.0, 0), (3.3, 1)):
        tensors["first.bn_weight"] = torch.tensor([0.0, gain])
        method = StructuredMethod(filter_share=1, round_to=1).fitted(tensors)
        sets = method.sets(ChannelGraph(RESIDUAL), dict.fromkeys(weights, 4.0))
        rows = sets.hard.project(weights)["first"].mask.flatten(1).any(1)
        assert rows.tolist() == [filter_kept == 0, filter_kept == 1]
    assert "gains" not in str(method.model_dump())
    assert method.stages([2.0])[0].method == method


def test_a_group_sees_what_the_others_kept() -> None:
    """Filter 1 of `first` is the larger one, but reads the channel that goes, and feeds it."""
    energies = {**ENERGIES, "first": [[4.0, 0.0], [0.0, 5.0]], "head": [[20.0, 0.0]]}
    whole = kept(RESIDUAL, weights_of(energies), "network")
    assert whole["first"].flatten().tolist() == [2.0, 0.0, 0.0, 0.0]
    assert math.isclose(energy(whole), 1 + 4 + 1 + 20, rel_tol=1e-6)


def test_what_is_kept_is_what_compaction_stores() -> None:
    weights = weights_of(ENERGIES)
    tensors = {name: torch.zeros(shape) for name, shape in tensor_shapes(RESIDUAL).items()}
    tensors.update({f"{name}.weight": w for name, w in weights.items()})
    whole = kept(RESIDUAL, weights, "network")
    masks = {name: z != 0 for name, z in whole.items()}
    _, small = compact(RESIDUAL, tensors, masks)
    stored = {n.removesuffix(".weight"): t for n, t in small.items() if n.endswith(".weight")}
    assert math.isclose(energy(stored), energy(whole), rel_tol=1e-6)


def test_against_all_choices() -> None:
    """Three hidden layers of 4 units, 2 of each kept: never below 97 % of the best of 216."""
    widths = (3, 4, 4, 4, 2)
    names = ("a", "b", "c", "d")
    layers = [
        Linear(name, (source,), i, o)
        for name, source, i, o in zip(
            names, ("flat", "a", "b", "c"), widths[:-1], widths[1:], strict=True
        )
    ]
    spec = NetworkSpec(
        "mlp", InputSpec(3, 2, 2), (GlobalAvgPool("flat", (INPUT,)), *layers), ("d",), ("a",)
    )
    pairs = [list(pair) for pair in itertools.combinations(range(4), 2)]
    shares = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        weights = {n: torch.randn(o, i, generator=generator).exp() for n, i, o in
                   zip(names, widths[:-1], widths[1:], strict=True)}  # fmt: skip
        best = 0.0
        for chosen in itertools.product(pairs, repeat=3):
            kept_units = [[0, 1, 2], *chosen, [0, 1]]
            best = max(best, sum(
                float(weights[n].double().square()[out][:, into].sum())
                for n, into, out in zip(names, kept_units, kept_units[1:], strict=False)
            ))  # fmt: skip
        shares.append(energy(kept(spec, weights, "network")) / best)
        assert shares[-1] <= 1 + 1e-6
    assert min(shares) > 0.97
    assert sum(share > 1 - 1e-6 for share in shares) >= 15
