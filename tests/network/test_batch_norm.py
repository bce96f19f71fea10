import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.network.batch_norm import (
    fold_batch_norm,
    folded_layers,
    reestimate_batch_norm,
    unfold_batch_norm,
)
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv
from tests.network.random_networks import networks, outputs_of, random_tensors


@given(spec=networks(), seed=st.integers(0, 99))
def test_folding_keeps_the_function(spec, seed):
    tensors = random_tensors(spec, seed)
    x = torch.rand(2, *spec.shapes()["input"], generator=torch.Generator().manual_seed(seed))
    folded, folded_tensors = fold_batch_norm(spec, tensors)
    assert not any(layer.batch_norm for layer in folded.weighted() if isinstance(layer, Conv))
    expected = outputs_of(spec, tensors, x)
    for name, value in outputs_of(folded, folded_tensors, x).items():
        scale = max(1.0, float(expected[name].abs().max()))
        assert float((value - expected[name]).abs().max()) <= 1e-5 * scale, name


def test_deep_network_folds_within_1e_5():
    spec = build("yolov3", width=0.125, size=64)
    tensors = random_tensors(spec, 7)
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = outputs_of(spec, tensors, x)
    for name, value in outputs_of(*fold_batch_norm(spec, tensors), x).items():
        assert float((value - expected[name]).abs().max() / expected[name].abs().max()) <= 1e-5


def test_folding_twice_changes_nothing_and_zeros_stay_zero():
    spec = build("resnet18", width=0.25)
    tensors = random_tensors(spec, 1)
    tensors["conv_001.weight"][:, 3] = 0.0
    folded, first = fold_batch_norm(spec, tensors)
    assert (first["conv_001.weight"][:, 3] == 0).all()
    again, second = fold_batch_norm(folded, first)
    assert again == folded
    assert all(torch.equal(second[name], value) for name, value in first.items())


def test_the_inputs_are_left_alone():
    spec = build("vgg16", width=0.25)
    tensors = random_tensors(spec, 1)
    before = {name: value.clone() for name, value in tensors.items()}
    fold_batch_norm(spec, tensors)
    assert all(torch.equal(tensors[name], value) for name, value in before.items())


def test_negative_variance_names_the_layer():
    spec = build("vgg16", width=0.25)
    tensors = random_tensors(spec, 1)
    tensors["conv_003.bn_var"][2] = -0.5
    with pytest.raises(ArtefactError, match=r"found -0\.5.*conv_003"):
        fold_batch_norm(spec, tensors)


def test_statistics_are_measured_on_the_device_of_the_network():
    network = Network(build("vgg16", width=0.25)).to("meta")
    batches = [torch.rand(2, *network.spec.shapes()["input"]) for _ in range(3)]
    assert reestimate_batch_norm(network, batches, limit=2) == 2


def images(spec, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *spec.shapes()["input"], generator=generator) for _ in range(n)]


def folded_vgg():
    spec = build("vgg16", width=0.25)
    return fold_batch_norm(spec, random_tensors(spec, 1))


@given(spec=networks(), seed=st.integers(0, 99))
def test_unfolding_keeps_the_function(spec, seed):
    folded = fold_batch_norm(spec, random_tensors(spec, seed))
    batches = images(spec)
    again = unfold_batch_norm(*folded, folded_layers(folded[0]), batches)
    x = batches[0]
    expected = outputs_of(*folded, x)
    for name, value in outputs_of(*again, x).items():
        scale = max(1.0, float(expected[name].abs().max()))
        assert float((value - expected[name]).abs().max()) <= 1e-4 * scale, name


def test_running_statistics_are_those_of_the_images():
    """In training mode the network computes what it computes in evaluation, on these images."""
    spec = build("yolov3-tiny", width=0.25, size=64)
    folded = fold_batch_norm(spec, random_tensors(spec, 3))
    x = torch.cat(images(spec))
    layers = folded_layers(folded[0])
    assert layers == [c.name for c in spec.layers if isinstance(c, Conv) and c.batch_norm]
    network = Network(*unfold_batch_norm(*folded, layers, [x]))
    with torch.no_grad():
        evaluated, trained = network.eval()(x), network.train()(x)
    for name, value in trained.items():
        assert torch.allclose(value, evaluated[name], atol=1e-3, rtol=1e-3), name


def test_zeros_stay_zero_and_the_inputs_are_left_alone():
    spec, tensors = folded_vgg()
    name = folded_layers(spec)[1]
    tensors[name + ".weight"][:, 3] = 0.0
    before = {key: value.clone() for key, value in tensors.items()}
    _, unfolded = unfold_batch_norm(spec, tensors, [name], images(spec, 1))
    assert (unfolded[name + ".weight"][:, 3] == 0).all()
    assert name + ".bias" not in unfolded
    assert all(torch.equal(tensors[key], value) for key, value in before.items())


def test_without_images_the_layer_is_named():
    spec, tensors = folded_vgg()
    layers = folded_layers(spec)
    with pytest.raises(ArtefactError, match=f"at least one batch.*layer '{layers[0]}'"):
        unfold_batch_norm(spec, tensors, layers, [])
