import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.network.averaging import average_weights
from pneumonia.network.zoo import build
from tests.network.random_networks import networks, outputs_of, random_tensors


@given(spec=networks(), seed=st.integers(0, 99))
def test_the_average_of_a_network_with_itself_is_itself(spec, seed):
    tensors = random_tensors(spec, seed)
    averaged = average_weights(spec, tensors, tensors, 0.5)
    assert averaged.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(averaged[name], tensor, atol=1e-6), name


def test_shares_by_hand_and_filters_at_the_norm_of_the_second():
    spec = build("vgg16", width=0.25)
    first, second = random_tensors(spec, 1), random_tensors(spec, 2)
    name = next(layer.name for layer in spec.weighted())
    first[name + ".weight"][0], second[name + ".weight"][0] = 6.0, -2.0
    first[name + ".weight"][1], second[name + ".weight"][1] = 0.0, 0.0
    first[name + ".bn_bias"][0], second[name + ".bn_bias"][0] = 4.0, 8.0
    averaged = average_weights(spec, first, second, 0.25)
    # 0.25 * 2 - 0.75 * 2: the first filter's weights of 6 are brought to 2
    assert torch.allclose(averaged[name + ".weight"][0], torch.tensor(-1.0), atol=1e-6)
    assert not averaged[name + ".weight"][1].any()
    assert float(averaged[name + ".bn_bias"][0]) == 7.0


def test_scale_of_the_first_before_batch_norm_does_not_matter():
    spec = build("yolov3-tiny", width=0.25, size=64)
    first, second = random_tensors(spec, 1), random_tensors(spec, 2)
    scaled = dict(first)
    for layer in spec.weighted():
        if f"{layer.name}.bn_var" in first:
            scaled[f"{layer.name}.weight"] = 7 * first[f"{layer.name}.weight"]
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = outputs_of(spec, average_weights(spec, first, second, 0.5), x)
    for name, value in outputs_of(spec, average_weights(spec, scaled, second, 0.5), x).items():
        assert torch.allclose(value, expected[name], atol=1e-4), name
