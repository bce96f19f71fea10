import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.network.files import (
    load_model,
    read_spec,
    same_architecture,
    save_model,
)
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ArtefactError, SpecError
from pneumonia.runtime.model.layers import StorageSpec
from tests.network.random_networks import networks, random_tensors


@given(spec=networks(), seed=st.integers(0, 99))
def test_any_network_comes_back_bit_for_bit(tmp_path_factory, spec, seed):
    folder = tmp_path_factory.mktemp("model")
    tensors = random_tensors(spec, seed)
    written = save_model(folder, spec, tensors)
    loaded, back = load_model(folder)
    assert loaded == written == read_spec(folder)
    assert same_architecture(loaded, spec)
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor), name


def test_dense_weights_open_in_the_safetensors_library(tmp_path):
    spec = build("lenet5")
    tensors = random_tensors(spec, 0)
    save_model(tmp_path, spec, tensors)
    peer = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert set(peer) == set(tensors)
    assert all(torch.equal(peer[name], tensor) for name, tensor in tensors.items())


def test_columns_make_the_file_smaller_and_the_spec_says_how_many(tmp_path):
    spec = build("lenet5")
    layer = spec.layer("linear_005")
    spec = spec.replace_layers(
        {"linear_005": layer._replace(storage=StorageSpec("columns", 0, 0, 32))}
    )
    tensors = random_tensors(spec, 0)
    tensors["linear_005.weight"].zero_()[:, [3, 77]] = 1.0
    written = save_model(tmp_path, spec, tensors)
    assert written.layer("linear_005").storage == StorageSpec("columns", 0, 2 * 500, 32)
    others = 431_080 - 400_000
    size = (tmp_path / "weights.safetensors").stat().st_size
    assert 4 * (others + 1_000) < size < 4 * (others + 1_000) + 2_000


def test_views_and_other_types_are_stored_as_float32(tmp_path):
    spec = build("lenet5")
    tensors = random_tensors(spec, 0)
    odd = {name: tensor.double() for name, tensor in tensors.items()}
    odd["conv_002.weight"] = tensors["conv_002.weight"].to(memory_format=torch.channels_last)
    save_model(tmp_path, spec, odd)
    back = load_model(tmp_path)[1]
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_architecture_is_compared_without_storage():
    spec = build("lenet5")
    layer = spec.layer("conv_002")
    packed = spec.replace_layers({"conv_002": layer._replace(storage=StorageSpec("columns", 8, 5))})
    wider = spec.replace_layers({"conv_002": layer._replace(activation="relu")})
    assert same_architecture(spec, packed)
    assert not same_architecture(spec, wider)


def saved(folder, **options):
    spec = build("lenet5", **options)
    save_model(folder, spec, random_tensors(spec, 0))


def test_half_a_weights_file_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtefactError, match=r"weights\.safetensors"):
        load_model(tmp_path)


def test_weights_of_another_width_are_refused(tmp_path):
    saved(tmp_path)
    saved(tmp_path / "narrow", width=0.5)
    (tmp_path / "narrow/weights.safetensors").replace(tmp_path / "weights.safetensors")
    with pytest.raises(ArtefactError, match=r"\(20, 1, 5, 5\).*\(8, 1, 5, 5\).*weights\.safe"):
        load_model(tmp_path)


def test_missing_and_broken_descriptions_are_refused(tmp_path):
    with pytest.raises(ArtefactError, match=r"spec\.json"):
        load_model(tmp_path)
    saved(tmp_path)
    document = json.loads((tmp_path / "spec.json").read_text())
    document["layers"][0]["op"] = "deformable"
    (tmp_path / "spec.json").write_text(json.dumps(document))
    with pytest.raises(SpecError, match="deformable"):
        load_model(tmp_path)
    (tmp_path / "spec.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtefactError, match="not text"):
        load_model(tmp_path)


def test_saving_what_does_not_fit_writes_nothing(tmp_path):
    spec = build("lenet5")
    tensors = random_tensors(spec, 0)
    del tensors["linear_006.bias"]
    with pytest.raises(ArtefactError, match=r"linear_006\.bias"):
        save_model(tmp_path, spec, tensors)
    assert list(tmp_path.iterdir()) == []
