import hashlib
import json

import numpy as np
import pytest

from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.storage.bundle import load_bundle, model_hash
from pneumonia.runtime.storage.tensorfile import write_tensors
from tests.runtime.bundles import (
    brightness_detector,
    varied_detector,
    write_bundle,
    write_json,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    return write_bundle(tmp_path / "bundle", *brightness_detector())


def edit(path, **changes):
    document = json.loads(path.read_text())
    document.update(changes)
    write_json(path, document)


def test_model_hash_is_what_sha256sum_says(folder):
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("spec.json", "weights.safetensors")
    ]
    expected = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert model_hash(folder / "spec.json", folder / "weights.safetensors") == expected
    assert load_bundle(folder).model_hash == expected


def test_weights_come_back_dense(tmp_path):
    spec, tensors = varied_detector()
    bundle = load_bundle(write_bundle(tmp_path / "b", spec, tensors))
    assert bundle.spec == spec
    weights = bundle.weights()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(weights[name], tensor)


def test_thresholds_by_name(folder):
    bundle = load_bundle(folder)
    assert bundle.threshold("sensitive") == 0.25
    with pytest.raises(ConfigError, match=r"balanced, sensitive.*'best'"):
        bundle.threshold("best")


@pytest.mark.parametrize(
    "name", ["spec.json", "weights.safetensors", "model.onnx", "model_card.md"]
)
def test_one_changed_byte_in_any_file_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match=name):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors", "model_card.md"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtefactError, match=name):
        load_bundle(folder)


def rewrite_points(folder, **changes):
    """Edit operating_points.json and make the checksums agree again."""
    edit(folder / "operating_points.json", **changes)
    spec, _ = brightness_detector()
    write_manifest(folder, spec, json.loads((folder / "manifest.json").read_text())["model_hash"])


def test_thresholds_of_another_model_are_refused(folder):
    rewrite_points(folder, model_hash="0" * 64)
    with pytest.raises(ArtefactError, match="Thresholds belong to another model"):
        load_bundle(folder)


@pytest.mark.parametrize("value", [None, "0.5", True, -0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(folder, value):
    rewrite_points(folder, points={"balanced": {"threshold": value}})
    with pytest.raises(ArtefactError, match="balanced"):
        load_bundle(folder)


def test_manifest_of_another_model_is_refused(folder):
    edit(folder / "manifest.json", model_hash="0" * 64)
    with pytest.raises(ArtefactError, match="another model"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "pneumonia.bundle/2"},
        {"files": []},
        {"model_name": None},
        {"preprocess": {"mean": 0.5}},
        {"preprocess": []},
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder, changes):
    edit(folder / "manifest.json", **changes)
    with pytest.raises(ArtefactError):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", "..", "a/b"])
def test_file_names_cannot_leave_the_bundle(folder, name):
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][name] = {"sha256": "", "bytes": 0}
    write_json(folder / "manifest.json", document)
    with pytest.raises(ArtefactError, match="File entry is malformed"):
        load_bundle(folder)


def test_weights_with_nan_are_refused(tmp_path):
    spec, tensors = brightness_detector()
    tensors["head.bias"][1] = np.nan
    bundle = load_bundle(write_bundle(tmp_path / "b", spec, tensors, onnx=False))
    with pytest.raises(ArtefactError, match=r"head\.bias"):
        bundle.weights()


def test_weights_of_another_network_are_refused_even_unverified(folder):
    write_tensors(folder / "weights.safetensors", {"other": np.zeros(3, np.float32)})
    with pytest.raises(ArtefactError):
        load_bundle(folder, verify=False).weights()


def test_not_a_bundle(tmp_path):
    with pytest.raises(ArtefactError, match="pneumonia export"):
        load_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ArtefactError, match=r"manifest\.json"):
        load_bundle(tmp_path)
