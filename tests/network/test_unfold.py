import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.network.batch_norm import fold_batch_norm, folded_layers, unfold_batch_norm
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv
from tests.network.random_networks import networks, outputs_of, random_tensors


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
