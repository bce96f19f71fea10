import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pneumonia.api.kernel_library import write_kernels
from pneumonia.exporting.onnx_file import write_onnx
from pneumonia.network import blocks
from pneumonia.network.module import Network, initialise
from pneumonia.network.to_torch import to_torch
from pneumonia.network.zoo import ZOO, build
from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.model.layers import BN_EPS, Conv, Detect, MaxPool, Shortcut, Upsample
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec, tensor_shapes
from tests.network.random_networks import networks, random_tensors


def one_layer(layer, channels=1, side=2):
    return NetworkSpec("one", InputSpec(channels, side, side), (layer,), (layer.name,), ("a",))


def run(spec, x, tensors=None):
    with torch.no_grad():
        return Network(spec, tensors or {}).eval()(x)[spec.outputs[0]]


def test_convolution_norm_and_slope_by_hand():
    # 1 x 1 kernel 2, norm (y - 1) / sqrt(4 + eps) * 3 + 0.5, then slope 0.1 below zero
    spec = one_layer(Conv("c", ("input",), 1, 1, 1, bias=False, batch_norm=True,
                          activation="leaky_relu"))  # fmt: skip
    tensors = {
        "c.weight": torch.full((1, 1, 1, 1), 2.0),
        "c.bn_weight": torch.tensor([3.0]),
        "c.bn_bias": torch.tensor([0.5]),
        "c.bn_mean": torch.tensor([1.0]),
        "c.bn_var": torch.tensor([4.0]),
    }
    found = run(spec, torch.tensor([[[[1.0, -1.0], [0.5, 0.0]]]]), tensors)
    gain = 3.0 / math.sqrt(4.0 + BN_EPS)
    before = [(2 * x - 1) * gain + 0.5 for x in (1.0, -1.0, 0.5, 0.0)]
    expected = [y if y > 0 else 0.1 * y for y in before]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))


def test_uneven_pool_is_darknets_stride_one_pool():
    # size 2, stride 1: each pixel becomes the maximum of itself, right, below; edges see no zero
    spec = one_layer(MaxPool("p", ("input",), 2, 1, 0, 1))
    found = run(spec, torch.tensor([[[[-4.0, -3.0], [-2.0, -5.0]]]]))
    assert found.tolist() == [[[[-2.0, -3.0], [-2.0, -5.0]]]]


def test_upsampling_repeats_pixels():
    found = run(one_layer(Upsample("u", ("input",), 2)), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert found[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_sum_leaves_its_inputs_alone():
    layers = (
        Shortcut("s", ("input", "input", "input"), "relu"),
        Shortcut("t", ("input",), "relu"),
    )
    spec = NetworkSpec("sum", InputSpec(1, 1, 2), layers, ("s", "t", "input"), ("a",))
    x = torch.tensor([[[[-1.0, 2.0]]]])
    outputs = Network(spec)(x)
    assert outputs["s"].flatten().tolist() == [0.0, 6.0]
    assert outputs["t"].flatten().tolist() == [0.0, 2.0]
    assert x.flatten().tolist() == [-1.0, 2.0]


@given(spec=networks(), seed=st.integers(0, 99))
def test_values_have_the_shapes_the_spec_infers(spec, seed):
    network = Network(spec, random_tensors(spec, seed)).eval()
    with torch.no_grad():
        outputs = network(torch.rand(2, *spec.shapes()["input"]))
    assert list(outputs) == list(dict.fromkeys(spec.outputs))
    for name, value in outputs.items():
        shape = spec.shapes()[name]
        flat = type(spec.layer(name)).__name__ in ("Linear", "Flatten")
        assert tuple(value.shape) == ((2, shape[0]) if flat else (2, *shape))
        assert value.isfinite().all()


@pytest.mark.parametrize("name", list(ZOO))
def test_channels_last_gives_the_same_numbers(name):
    size = {"yolov3": 64, "yolov3-tiny": 64}.get(name)
    spec = build(name, width=0.25, size=size)
    network = Network(spec, random_tensors(spec, 1)).eval()
    x = torch.rand(2, *spec.shapes()["input"])
    with torch.no_grad():
        expected = network(x)
        network.to(memory_format=torch.channels_last)
        found = network(x.to(memory_format=torch.channels_last))
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-5 * value.abs().max()


def test_bf16_autocast_trains_and_outputs_are_float32():
    network = Network(build("yolov3", width=0.125, size=64))
    network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(torch.rand(2, 1, 64, 64))
    assert {value.dtype for value in outputs.values()} == {torch.float32}
    sum(value.square().mean() for value in outputs.values()).backward()
    for name, weight in network.weights().items():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_gradients_are_those_of_plain_torch():
    spec = build("lenet5")
    network = Network(spec)
    t = {k: v.clone().requires_grad_() for k, v in network.tensors().items()}
    x = torch.rand(3, 1, 28, 28)
    y = nn.functional.conv2d(x, t["conv_000.weight"], t["conv_000.bias"])
    y = nn.functional.max_pool2d(y, 2)
    y = nn.functional.conv2d(y, t["conv_002.weight"], t["conv_002.bias"])
    y = nn.functional.max_pool2d(y, 2).flatten(1)
    y = nn.functional.linear(y, t["linear_005.weight"], t["linear_005.bias"]).relu()
    y = nn.functional.linear(y, t["linear_006.weight"], t["linear_006.bias"])
    found = network(x)["linear_006"]
    torch.testing.assert_close(found, y)
    y.square().sum().backward()
    found.square().sum().backward()
    for name, weight in network.weights().items():
        torch.testing.assert_close(weight.grad, t[name + ".weight"].grad)


def test_activations_die_with_their_last_reader(monkeypatch):
    alive = []
    highest = 0
    plain = blocks.ConvBlock.forward

    def watched(self, x):
        nonlocal highest
        y = plain(self, x)
        alive.append(weakref.ref(y))
        highest = max(highest, sum(reference() is not None for reference in alive))
        return y

    monkeypatch.setattr(blocks.ConvBlock, "forward", watched)
    spec = build("yolov3", width=0.125, size=32)
    with torch.no_grad():
        Network(spec).eval()(torch.rand(1, 1, 32, 32))
    assert len(alive) == 75
    assert highest <= 5  # a convolution's in- and output, and what routes and heads still need


def test_fresh_heads_expect_hardly_any_object():
    spec = build("yolov3", width=0.25, size=64, n_classes=2)
    torch.manual_seed(0)
    network = Network(spec).train()  # fresh running statistics are not yet those of any data
    with torch.no_grad():
        outputs = network(torch.rand(4, 1, 64, 64))
    for head in spec.detect_layers():
        maps = outputs[head.name]
        maps = maps.view(4, len(head.anchors), 7, *maps.shape[2:])
        assert 0.005 < maps[:, :, 4].sigmoid().mean() < 0.02
        assert abs(maps[:, :, 5:].sigmoid().mean() - 0.5) < 0.05


def test_fresh_signal_neither_dies_nor_explodes():
    torch.manual_seed(0)
    for name in ("vgg16", "resnet18", "lenet5"):
        spec = build(name, width=0.5)
        outputs = Network(spec).train()(torch.randn(16, *spec.shapes()["input"]))
        assert 0.1 < outputs[spec.outputs[0]].std() < 10


def test_initialise_repeats_with_its_generator_and_leaves_the_global_one():
    spec = build("yolov3-tiny", width=0.25)
    network = Network(spec)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    initialise(network, torch.Generator().manual_seed(3))
    first = {k: v.clone() for k, v in network.tensors().items()}
    assert torch.equal(torch.get_rng_state(), before)
    initialise(network, torch.Generator().manual_seed(3))
    assert all(torch.equal(v, first[k]) for k, v in network.tensors().items())


def test_given_tensors_are_copied_and_leave_the_global_generator():
    spec = build("lenet5")
    tensors = random_tensors(spec, 0)
    before = torch.get_rng_state()
    network = Network(spec, tensors)
    assert torch.equal(torch.get_rng_state(), before)
    tensors["conv_000.weight"].zero_()
    assert network.weights()["conv_000"].abs().max() > 0


def test_tensors_are_named_by_the_spec_and_share_memory():
    spec = build("resnet18", width=0.25)
    network = Network(spec)
    tensors = network.tensors()
    assert {k: tuple(v.shape) for k, v in tensors.items()} == dict(tensor_shapes(spec))
    tensors["conv_000.weight"].fill_(7.0)
    assert (network.weights()["conv_000"] == 7.0).all()
    assert list(network.weights()) == [layer.name for layer in spec.weighted()]
    # nothing else moves: optimiser, EMA and resume see exactly the spec's tensors
    assert len(list(network.parameters())) + len(list(network.buffers())) == len(tensors)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("linear_006.bias"), "linear_006.bias"),
        (lambda t: t.update({"conv_009.weight": torch.zeros(1)}), "conv_009.weight"),
        (lambda t: t.update({"conv_000.weight": torch.zeros(20, 1, 5, 4)}), r"\(20, 1, 5, 5\)"),
    ],
)
def test_foreign_tensors_are_refused(change, said):
    spec = build("lenet5")
    tensors = random_tensors(spec, 0)
    change(tensors)
    network = Network(spec)
    before = {k: v.clone() for k, v in network.tensors().items()}
    with pytest.raises(ArtefactError, match=said):
        network.load_tensors(tensors)
    assert all(torch.equal(v, before[k]) for k, v in network.tensors().items())


def test_any_layer_name_of_json_works():
    # names a torch ModuleDict would refuse
    layers = (
        Conv("keys", ("input",), 1, 7, 1),
        Conv("a.b", ("keys",), 7, 7, 3, padding=1),
        Detect("forward", ("a.b",), ((1.0, 1.0),), 2, 8),
    )
    spec = NetworkSpec("odd", InputSpec(1, 8, 8), layers, ("forward",), ("a", "b"))
    assert Network(spec)(torch.rand(1, 1, 8, 8))["forward"].shape == (1, 7, 8, 8)


@pytest.mark.parametrize("write", [
    to_torch, lambda m: write_kernels(m, "unused.so"), lambda m: write_onnx(m, "unused.onnx"),
])  # fmt: skip
def test_a_plain_torch_module_is_sent_to_from_torch(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"found Conv2d\. Use pneumonia\.from_torch\(module"):
        write(nn.Conv2d(3, 4, 1))
    assert not list(tmp_path.iterdir())
