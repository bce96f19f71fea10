"""Residual branches: which there are, and that a network without zero branches is the same one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pneumonia.compression.compact.branches import Branch, residual_branches
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.network_pruning import NetworkPruning
from pneumonia.compression.prune.depth_method import DepthMethod
from pneumonia.exporting.onnx_file import write_onnx
from pneumonia.network.accounting import account
from pneumonia.network.module import Network
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import from_torch
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import PruneError
from pneumonia.runtime.model.layers import Conv, Reuse, Shortcut
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec
from tests.compression.graphs import random_tensors, run
from tests.network.torch_import.torch_cases import Forward, outputs
from tests.network.torch_import.torch_networks import network

YOLO = build("yolov3", width=0.125, size=64)


def conv(name: str, source: str, activation: str = "relu", channels: int = 4) -> Conv:
    return Conv(name, (source,), channels, 4, 3, 1, 1, False, True, activation)


def spec_of(*layers, outputs: tuple[str, ...] = ("head",)) -> NetworkSpec:
    stem = conv("stem", INPUT, channels=1)
    return NetworkSpec("hand", InputSpec(1, 8, 8), (stem, *layers), outputs, ("a",))


def branches(spec: NetworkSpec) -> list[Branch]:
    return residual_branches(ChannelGraph(spec))


def without(spec: NetworkSpec, *layers: str) -> NetworkSpec:
    """Compacted with the weights of these layers at zero; the outputs are compared."""
    tensors = random_tensors(spec, 0)
    masks = {name: torch.zeros_like(tensors[f"{name}.weight"], dtype=torch.bool) for name in layers}
    small, kept = compact(spec, tensors, masks)
    for name in layers:
        for part in ("weight", "bias", "bn_weight", "bn_bias"):
            if f"{name}.{part}" in tensors:
                tensors[f"{name}.{part}"] = torch.zeros_like(tensors[f"{name}.{part}"])
    expected, found = run(spec, tensors), run(small, kept)
    assert all(torch.equal(found[name], expected[name]) for name in spec.outputs)
    return small


def test_yolov3_has_one_branch_per_residual_block():
    found = branches(YOLO)
    assert len(found) == 23
    assert found[0] == Branch("shortcut_004", "conv_003", ("conv_002", "conv_003"))


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 8), ("resnet50", 16), ("mobilenetv2", 5), ("yolo", 4),
                        ("vit", 4), ("unet", 0), ("densenet", 0)],
)  # fmt: skip
def test_branches_of_known_networks(name, count):
    module, x = network(name)
    assert len(branches(from_torch(module, x).spec)) == count


@pytest.mark.parametrize(
    "name",
    ["resnet50", "yolo", "vit"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "mobilenetv2")],
)
def test_a_shallower_network_is_the_masked_one_everywhere(name, tmp_path):
    module, x = network(name)
    found = from_torch(module, x)
    plan = NetworkPruning(found, 1.3, DepthMethod())
    plan.harden()
    small = plan.compacted().eval()
    assert account(small.spec, small.tensors()).totals.kept_weights == sum(plan.plan.kept.values())
    assert len(small.spec.weighted()) < len(found.spec.weighted())
    expected = outputs(found.eval(), x)
    for other in (small, to_torch(small)):
        for value, wanted in zip(outputs(other, x), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)
    assert write_onnx(small, tmp_path / "small.onnx").relative_error < 1e-4


def test_yolov3_without_blocks_is_exactly_the_masked_one():
    gone = [name for branch in branches(YOLO)[3:9] for name in branch.layers]
    small = without(YOLO, *gone)
    names = {layer.name for layer in small.layers}
    assert not names & {*gone, *(branch.shortcut for branch in branches(YOLO)[3:9])}
    assert len(small.layers) == len(YOLO.layers) - 18


def test_the_activation_of_a_sum_stays_where_it_does_something():
    spec = spec_of(
        conv("a", "stem", "linear"), Shortcut("sum", ("a", "stem"), "relu"),
        conv("b", "sum", "linear"), Shortcut("last", ("b", "sum"), "leaky_relu"),
        conv("head", "last"),
    )  # fmt: skip
    small = without(spec, "a", "b")
    # relu of what is a relu's result already; leaky_relu of it is something else by its slope
    assert [layer.name for layer in small.layers] == ["stem", "last", "head"]
    assert small.layer("last") == Shortcut("last", ("stem",), "leaky_relu")


def test_a_projection_is_the_skip_and_never_goes():
    spec = spec_of(
        conv("a", "stem"), conv("b", "a", "linear"),
        Conv("project", ("stem",), 4, 4, 1, 1, 0, False, True, "linear"),
        Shortcut("sum", ("b", "project"), "relu"), conv("head", "sum"),
    )  # fmt: skip
    assert branches(spec) == [Branch("sum", "b", ("a", "b"))]
    assert {layer.name for layer in without(spec, "a", "b").layers} == {
        "stem", "project", "sum", "head"}  # fmt: skip


def test_a_sum_that_is_an_output_keeps_its_branch():
    spec = spec_of(conv("a", "stem", "linear"), Shortcut("head", ("a", "stem")))
    assert branches(spec) == []


def test_merged_streams_are_no_residual_branch():
    spec = spec_of(
        conv("a", "stem"), conv("b", "a"), conv("c", "stem"), Shortcut("sum", ("b", "c")),
        conv("head", "sum"), conv("other", "a"), outputs=("head", "other"),
    )  # fmt: skip
    assert branches(spec) == []


def test_weights_that_are_used_again_elsewhere_stay():
    spec = spec_of(conv("a", "stem", "linear"), Shortcut("sum", ("a", "stem")),
                   Reuse("again", ("sum",), "a"), conv("head", "again"))  # fmt: skip
    assert branches(spec) == []


def test_of_nested_branches_the_inner_ones_count():
    spec = spec_of(
        conv("a", "stem"), conv("b", "a", "linear"), Shortcut("inner", ("b", "a")),
        conv("c", "inner", "linear"), Shortcut("outer", ("c", "stem")), conv("head", "outer"),
    )  # fmt: skip
    assert branches(spec) == [Branch("inner", "b", ("b",))]


def test_a_branch_whose_end_is_not_zero_at_zero_does_not_count():
    spec = spec_of(conv("a", "stem", "sigmoid"), Shortcut("sum", ("a", "stem")),
                   conv("head", "sum"))  # fmt: skip
    assert branches(spec) == []


def test_a_selection_protects_a_block():
    module, x = network("resnet18")
    found = from_torch(module, x)
    chosen = ("layer1.*", "layer2.*")
    plan = NetworkPruning(found, 1.02, DepthMethod(), layers=chosen)
    plan.harden()
    gone = {layer.name for layer in found.spec.weighted()} - {
        layer.name for layer in plan.compacted().spec.weighted()
    }
    assert gone
    assert all(name.startswith(("layer1.", "layer2.")) for name in gone)


def test_a_network_without_blocks_is_refused():
    module = Forward(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 4, 3))
    with pytest.raises(PruneError, match="No residual branch"):
        NetworkPruning(from_torch(module, torch.randn(1, 3, 8, 8)), 1.5, DepthMethod())


def test_filters_go_after_blocks():
    module, x = network("resnet18")
    first = NetworkPruning(from_torch(module, x), 1.3, DepthMethod())
    first.harden()
    shallow = first.compacted()
    second = NetworkPruning(shallow, 2.0)
    second.harden()
    small = second.compacted().eval()
    assert isinstance(small, Network)
    torch.testing.assert_close(small(x), shallow.eval()(x), rtol=1e-5, atol=1e-5)
