"""Torch networks as descriptions: the same outputs in every engine, before and after pruning."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.exporting.onnx_graph import ALLOWED_OPS, emit_onnx
from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.module import Network
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import ArtefactError, DeviceError, SpecError
from pneumonia.runtime.model.layers import Attention, Conv, Norm, Opaque, Reuse
from pneumonia.runtime.model.spec_json import parse_spec, spec_text
from tests.network.torch_import.torch_cases import (
    CASES,
    Forward,
    Sorted,
    doubled,
    ends,
    imported,
    in_place,
    in_place_alone,
    odd,
    outputs,
    pruned,
)
from tests.network.torch_import.torch_networks import NETWORKS


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_import_is_the_module(name):
    module, x, found = imported(name)
    for expected, value in zip(outputs(module, x), outputs(found, x), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    count = sum(p.numel() for p in module.parameters())
    assert sum(p.numel() for p in found.parameters()) == count
    three = torch.randn(3, *x.shape[1:])  # another batch than the example's
    for expected, value in zip(outputs(module, three), outputs(found, three), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    assert parse_spec(spec_text(found.spec)) == found.spec


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_masked_network_is_the_compacted_one(name):
    _, x, found = imported(name)
    masked, small = pruned(found, 4.0)
    dense = doubled(found, found.spec, masked)
    before = sum(t.numel() for t in found.parameters())
    assert sum(t.numel() for t in small.parameters()) < 0.75 * before
    for expected, value in zip(outputs(dense, x.double()), outputs(small, x.double()), strict=True):
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_onnx_and_the_reference_engine_give_the_same(name):
    _, x, found = imported(name)
    _, small = pruned(found, 4.0)
    tensors = {n: t.float() for n, t in small.tensors().items()}
    expected = small.resized(small.spec, tensors).eval()
    plain, values = fold_batch_norm(small.spec, tensors)
    arrays = {n: t.numpy() for n, t in values.items()}
    model = emit_onnx(plain, arrays, len(x)).model
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= ALLOWED_OPS
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    by_onnx = session.run(list(plain.outputs), {"input": x.numpy()})
    by_numpy = ReferenceEngine(plain, arrays).run(x.numpy())
    with torch.no_grad():
        wanted = Network(expected.spec, tensors).eval()(x)
    for output, value in zip(plain.outputs, by_onnx, strict=True):
        truth = wanted[output].numpy()
        limit = 1e-5 * max(1.0, float(np.abs(truth).max()))
        assert np.abs(value - truth).max() <= limit
        assert np.abs(by_numpy[output] - truth).max() <= limit


# --- coupled filters, by hand -------------------------------------------------------------------


def tied(found: ImportedNetwork) -> list[tuple[str, ...]]:
    return [part.layers for part in ChannelGraph(found.spec).components() if len(part.layers) > 1]


def test_groups_of_resnet18_are_its_stages():
    assert tied(imported("resnet18")[2]) == [
        ("conv1", "layer1.0.conv2", "layer1.1.conv2"),
        ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"),
        ("layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2"),
        ("layer4.0.conv2", "layer4.0.downsample.0", "layer4.1.conv2"),
    ]


def test_depthwise_filters_go_with_their_channel():
    found = imported("mobilenetv2")[2]
    groups = tied(found)
    assert ("features.0.0", "features.1.conv.0") in groups
    assert ("features.2.conv.0", "features.2.conv.3") in groups
    _, small = pruned(found, 4.0)
    for layer in small.spec.weighted():
        if isinstance(layer, Conv) and layer.groups > 1:
            assert layer.groups == layer.in_channels == layer.out_channels
            assert layer.out_channels < found.spec.layer(layer.name).out_channels


def test_whole_heads_go_and_the_residual_stream_stays():
    found = imported("vit")[2]
    _, small = pruned(found, 4.0)
    heads = [layer.heads for layer in small.spec.layers if isinstance(layer, Attention)]
    assert heads == [2, 2]  # of 4
    assert {layer.channels for layer in small.spec.layers if isinstance(layer, Norm)} == {16}
    assert small.spec.layer("block1.mlp.0").out_channels == 32  # of 64
    assert small.spec.layer("block1.qkv").out_channels == 24  # of 48
    assert small.spec.layer("block2.linear1").out_channels == 32


# --- ops ----------------------------------------------------------------------------------------


def test_the_epsilon_of_an_rms_norm_without_one_is_that_of_float32():
    """Near 1e-4 it counts; compared in float64, torch itself would take a far smaller one."""
    torch.manual_seed(1)
    module = copy.deepcopy(CASES["rms norm"]).eval()
    with torch.no_grad():
        module.a.weight.mul_(1e-4)
        module.a.bias.mul_(1e-4)
    x = torch.randn(2, 3, 8, 8)
    found = from_torch(module, x).eval()
    torch.testing.assert_close(found(x), module(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", list(CASES))
def test_ops_that_people_use(case):
    torch.manual_seed(1)
    module = copy.deepcopy(CASES[case]).eval()
    x = torch.randn(2, 3, 8, 8)
    found = from_torch(module, x).eval()
    torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-5)
    masked, small = pruned(found, 4.0)
    dense = doubled(found, found.spec, masked)
    (expected,), (value,) = outputs(dense, x.double()), outputs(small, x.double())
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    numpy = ReferenceEngine(found.spec, {n: t.numpy() for n, t in found.tensors().items()})
    by_numpy = next(iter(numpy.run(x.numpy()).values()))
    assert np.abs(by_numpy.ravel() - module(x).detach().numpy().ravel()).max() < 1e-5


def test_an_input_may_be_flat_or_a_series():
    for module, x in (
        (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6)),
        (nn.Sequential(nn.Conv1d(2, 4, 3, padding="same"), nn.BatchNorm1d(4), nn.ReLU(),
                       nn.MaxPool1d(2), nn.Conv1d(4, 3, 3, 2, 1)), torch.randn(1, 2, 12)),
    ):  # fmt: skip
        found = from_torch(module.eval(), x).eval()
        torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-6)


def test_shared_weights_stay_shared():
    shared = nn.Conv2d(8, 8, 3, padding=1)
    module = Forward(lambda m, x: m.b(m.s(F.relu(m.s(m.a(x))))), **ends(), s=shared).eval()
    x = torch.randn(2, 3, 8, 8)
    found = from_torch(module, x).eval()
    assert sum(isinstance(layer, Reuse) for layer in found.spec.layers) == 1
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in module.parameters())
    masked, small = pruned(found, 4.0)
    dense = doubled(found, found.spec, masked)
    torch.testing.assert_close(small(x.double()), dense(x.double()), rtol=1e-6, atol=1e-9)
    assert small.spec.layer("s").in_channels == small.spec.layer("s").out_channels == 4


def test_in_place_ops_reach_every_later_reader():
    module = Forward(in_place, **ends()).eval()
    with pytest.raises(SpecError, match="a statistic over something else"):
        from_torch(module, torch.randn(2, 3, 8, 8))
    module.function = in_place_alone
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(from_torch(module, x).eval()(x), module(x), rtol=1e-5, atol=1e-6)


# --- what is not understood ---------------------------------------------------------------------


def test_an_unknown_op_is_named_with_its_module():
    with pytest.raises(
        SpecError, match=r"op sort: .*module '0\.odd' \(Sorted\).*opaque=\('0\.odd'"
    ):
        from_torch(odd(), torch.randn(1, 3, 8, 8))


def test_an_opaque_module_stays_whole_and_its_borders_are_protected():
    module, x = odd(), torch.randn(2, 3, 8, 8)
    found = from_torch(module, x, opaque=("*.odd",)).eval()
    torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-6)
    assert [layer.name for layer in found.spec.layers if isinstance(layer, Opaque)] == ["0.odd"]
    assert isinstance(module[0].odd, Sorted), "the module itself is as it was"
    masked, small = pruned(found, 4.0)
    assert small.spec.layer("0.first").out_channels == 8
    assert small.spec.layer("1").out_channels == 3
    dense = doubled(found, found.spec, masked)
    torch.testing.assert_close(small(x.double()), dense(x.double()), rtol=1e-6, atol=1e-9)
    with pytest.raises(DeviceError, match=r"0\.odd"):
        ReferenceEngine(found.spec, {n: t.numpy() for n, t in found.tensors().items()}).run(
            x.numpy()
        )
    with pytest.raises(ArtefactError, match=r"0\.odd"):
        Network(found.spec, found.tensors())


class Sequence(nn.Module):
    """A recurrent layer between convolution and linear layer."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.a, self.lin = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.first = nn.Conv2d(8, 8, 1)
        self.rnn = nn.LSTM(8, 4, batch_first=batch_first, bidirectional=True)
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        series = self.first(F.relu(self.a(x))).mean(2).transpose(1, 2)
        series = series if self.batch_first else series.transpose(0, 1)
        return self.lin(self.rnn(series)[0])


class TurnedSequence(Sequence):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).transpose(0, 1)


def test_a_recurrent_layer_stays_whole_between_layers_that_shrink():
    torch.manual_seed(0)
    module, x = Sequence().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(SpecError, match=r"op lstm: .*opaque=\('rnn',\)"):
        from_torch(module, x)
    found = from_torch(module, x, opaque=("rnn",)).eval()
    torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-6)
    masked, small = pruned(found, 4.0)
    assert small.spec.layer("a").out_channels == 4
    assert small.spec.layer("first").out_channels == 8
    dense = doubled(found, found.spec, masked)
    torch.testing.assert_close(small(x.double()), dense(x.double()), rtol=1e-6, atol=1e-9)
    plain = to_torch(small).double()
    torch.testing.assert_close(plain(x.double()), small(x.double()), rtol=1e-6, atol=1e-9)
    with pytest.raises(SpecError, match=r"batch of 2 as first dimension.*batch_first=True"):
        from_torch(Sequence(batch_first=False).eval(), x, opaque=("rnn",))


def test_what_is_not_understood_stays_whole_on_request(caplog):
    module, x = odd(), torch.randn(2, 3, 8, 8)
    found = from_torch(module, x, keep_unknown=True).eval()
    assert set(found.opaque_modules) == {"0.odd"}
    torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-6)
    assert "op sort" in caplog.text
    assert "'0.odd'" in caplog.text
    torch.manual_seed(0)  # a layer that cannot stay alone keeps the module around it
    module = nn.Sequential(nn.Conv2d(3, 3, 1), TurnedSequence(batch_first=False)).eval()
    found = from_torch(module, x, keep_unknown=True).eval()
    assert set(found.opaque_modules) == {"1"}
    torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(SpecError, match="the module's own forward"):
        from_torch(Forward(lambda m, x: m.b(m.a(x).sort(1)[0]), **ends()), x, keep_unknown=True)


class ResponseNorm(nn.Module):
    """Of ConvNeXt V2, over the last dimension: not understood."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = torch.norm(x, dim=(1, 2), keepdim=True)
        return x * energy / (energy.mean(-1, keepdim=True) + 1e-6)


class ChannelsLast(nn.Module):
    """Linear layers over channels that are the last dimension, with a module between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.last, self.head = ResponseNorm(), nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).permute(0, 2, 3, 1)
        y = y + self.two(self.norm(F.gelu(self.one(y))))
        return self.head(F.gelu(self.last(y))).mean((1, 2))


class TokenMixing(nn.Module):
    """MLP-Mixer: a linear layer over the positions; those over the channels are understood."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).flatten(2)
        y = (y + self.mix(y)).transpose(1, 2)
        return self.two(F.relu(self.one(y))).mean(1)


@pytest.mark.parametrize(
    ("module", "opaque", "smaller"),
    [(ChannelsLast(), {"norm"}, {"last"}), (TokenMixing(), {"mix.0", "mix.1"}, {"one"})],
)
def test_only_what_is_not_understood_stays_whole(module, opaque, smaller):
    module, x = module.eval(), torch.randn(2, 3, 8, 8)
    found = from_torch(module, x, keep_unknown=True).eval()
    assert set(found.opaque_modules) == opaque
    torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-6)
    masked, small = pruned(found, 4.0)
    for name in smaller:
        assert small.spec.layer(name).out_channels < found.spec.layer(name).out_channels
    dense = doubled(found, found.spec, masked)
    torch.testing.assert_close(small(x.double()), dense(x.double()), rtol=1e-6, atol=1e-9)
    plain = to_torch(small).double()
    torch.testing.assert_close(plain(x.double()), small(x.double()), rtol=1e-6, atol=1e-9)


class BiasedAttention(nn.Module):
    """With a bias of the positions, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.bias = nn.Linear(8, 24), nn.Parameter(torch.randn(64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        scores = q @ k.transpose(1, 2) + self.bias
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


class Branching(nn.Module):
    """Code that depends on values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if float(x.detach().mean()) > 0 else x


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (BiasedAttention(), r"op add: attention weights with a mask or bias .*'1' \(Biased"),
        (Branching(), r"cannot trace .*'1' \(Branching\), test_imported.py line \d+"),
        (nn.LogSigmoid(), r"op log_sigmoid: an op without a rule \(in module '1'"),
    ],
)
def test_a_module_that_cannot_be_traced_or_translated_is_named_and_kept(part, reason):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), part, nn.Conv2d(8, 4, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(SpecError, match=reason + r".*opaque=\('1',\)"):
        from_torch(module, x)
    found = from_torch(module, x, keep_unknown=True).eval()
    assert set(found.opaque_modules) == {"1"}
    torch.testing.assert_close(found(x), module(x), rtol=1e-5, atol=1e-6)


def test_a_fault_of_a_rule_names_the_module(monkeypatch):
    from pneumonia.network.torch_import import graph

    monkeypatch.setitem(graph.RULES, "relu", lambda builder, arguments: {}["no such key"])
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with pytest.raises(SpecError, match=r"op relu: KeyError.*module '1' \(ReLU\)"):
        from_torch(module, torch.randn(2, 3, 8, 8))


def test_blocks_of_autocast_and_no_grad_are_computed_in_float32():
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = m.a(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            y = F.relu(m.c(y))
        with torch.autocast("cpu", torch.bfloat16):
            z = m.c(y)
        return m.b(y + z.float())

    module = Forward(forward, **ends(), c=nn.Conv2d(8, 8, 3, padding=1)).eval()
    x = torch.randn(2, 3, 8, 8)
    found = from_torch(module, x).eval()
    torch.testing.assert_close(found(x), module(x), rtol=0.02, atol=0.02)
    torch.testing.assert_close(found.double()(x.double()), module.double()(x.double()))


def test_a_module_of_several_inputs_is_refused():
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return scale * x + y

    with pytest.raises(SpecError, match=r"several inputs.*found x, y.*ModuleCompression"):
        from_torch(Two(), torch.randn(2, 3, 8, 8))
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
    with pytest.raises(SpecError, match=r"cannot trace"):
        from_torch(scripted, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("function", [
    lambda m, x: m.b(m.a(x) - m.a(x)[:, :3].mean(1, keepdim=True)),  # of other channels
    lambda m, x: m.b(m.a(x) * torch.rsqrt(m.a(x).pow(2).mean(1, keepdim=True) + 1e-6)),
    lambda m, x: m.b(m.a(x) - m.a(x).std(1, keepdim=True)),
])  # fmt: skip
def test_other_statistics_of_channels_are_no_layer_norm(function):
    with pytest.raises(SpecError, match=r"statistic|variance|mean"):
        from_torch(Forward(function, **ends()), torch.randn(2, 3, 8, 8))


def test_a_wrong_translation_is_found_and_named(monkeypatch):
    from pneumonia.network.torch_import import graph

    wrong = graph.RULES["relu6"]
    monkeypatch.setitem(graph.RULES, "relu", wrong)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with pytest.raises(SpecError, match=r"other outputs.*first in module '1'"):
        from_torch(module, 50 * torch.randn(2, 3, 8, 8))


def test_other_inputs_than_maps_are_refused():
    with pytest.raises(SpecError, match="Example input"):
        from_torch(nn.Conv3d(1, 1, 1), torch.randn(1, 1, 4, 4, 4))
    with pytest.raises(SpecError, match="Example input"):
        from_torch(nn.Embedding(4, 4), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(SpecError, match=r"not a tensor; expected one tensor.*found tuple"):
        from_torch(nn.Conv2d(3, 4, 1), (torch.randn(1, 3, 4, 4),))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
@pytest.mark.parametrize(
    ("path", "part"), [("1.weight", "weight"), ("2.running_var", "running_var")]
)
def test_values_that_are_not_finite_are_named_with_their_module(value, path, part):
    layers = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    module = nn.Sequential(*layers).eval().double()
    module.state_dict()[path].flatten()[1] = value
    for keep_unknown in (False, True):
        with pytest.raises(SpecError, match=rf"Module '{path[0]}' has values.*1 of \d+.*'{part}'"):
            from_torch(module, torch.randn(2, 3, 4, 4), keep_unknown=keep_unknown)


def test_outputs_and_examples_that_are_not_finite_are_errors():
    module, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval(), torch.randn(2, 3, 4, 4)
    with pytest.raises(SpecError, match="Example input has values that are not finite"):
        from_torch(module, x * float("nan"))
    module[1].running_var.fill_(-1)
    with pytest.raises(SpecError, match=r"Outputs of the module.*not finite.*variances"):
        from_torch(module, x)
    alone = nn.Conv2d(3, 4, 1)
    nn.init.constant_(alone.weight, float("nan"))
    with pytest.raises(SpecError, match=r"The module has values.*12 of 12 values of 'weight'"):
        from_torch(alone, x)


def test_a_string_is_one_glob_of_opaque_modules():
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    found = from_torch(module, torch.randn(2, 3, 4, 4), opaque="[1]")
    assert list(found.opaque_modules) == ["1"]
