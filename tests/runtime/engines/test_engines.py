"""Torch, ONNX Runtime and the NumPy reference derive the same network from one description.

Spans: pneumonia.runtime.engines, pneumonia.runtime.detection.detector.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from pneumonia.network.module import Network
from pneumonia.runtime.detection.detector import DEFAULT_BUNDLE, Detection, Detector
from pneumonia.runtime.detection.heads import DecodeSettings
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import (
    ArtefactError,
    ConfigError,
    DataError,
    InferenceError,
    SpecError,
)
from pneumonia.runtime.model.layers import Conv, Flatten, GlobalAvgPool, Linear
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.runtime.storage.bundle import load_bundle
from tests.runtime.bundles import brightness_detector, varied_detector, write_bundle


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("varied")
    return load_bundle(write_bundle(folder, *varied_detector()))


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bright")
    return load_bundle(write_bundle(folder, *brightness_detector()))


def batch_of(spec, count=3, seed=1):
    size = (count, spec.input.channels, spec.input.height, spec.input.width)
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_reference_equals_torch(batch_norm):
    spec, tensors = varied_detector(batch_norm=batch_norm)
    network = Network(spec)
    network.load_tensors({name: torch.from_numpy(value) for name, value in tensors.items()})
    network.eval()
    batch = batch_of(spec)
    with torch.no_grad():
        expected = network(torch.from_numpy(batch))
    found = ReferenceEngine(spec, tensors).run(batch)
    assert list(found) == list(spec.outputs)
    for name in spec.outputs:
        assert found[name].shape == tuple(expected[name].shape)
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=2e-5)


def test_flat_network_equals_torch():
    spec = NetworkSpec(
        "flat",
        InputSpec(1, 8, 8),
        (
            Conv("c", ("input",), 1, 4, 3, activation="relu"),
            Flatten("f", ("c",)),
            Linear("l", ("f",), 144, 5, activation="relu"),
            Linear("m", ("l",), 5, 3, bias=False),
            GlobalAvgPool("g", ("c",)),
        ),
        ("m", "g"),
        ("a", "b", "c"),
    )
    generator = np.random.default_rng(0)
    network = Network(spec)
    tensors = {
        name: generator.normal(size=tuple(value.shape)).astype(np.float32)
        for name, value in network.tensors().items()
    }
    network.load_tensors({name: torch.from_numpy(value) for name, value in tensors.items()})
    batch = batch_of(spec, 2)
    expected = network.eval()(torch.from_numpy(batch))
    found = ReferenceEngine(spec, tensors).run(batch)
    for name in spec.outputs:
        assert found[name].shape == tuple(expected[name].shape)
        np.testing.assert_allclose(found[name], expected[name].detach().numpy(), atol=1e-4)


def test_reference_equals_onnxruntime_for_any_batch(varied):
    ours = open_engine(varied, "reference")
    theirs = open_engine(varied, "onnxruntime", threads=1)
    for count in (1, 2, 5):
        batch = batch_of(varied.spec, count, seed=count)
        expected = theirs.run(batch)
        found = ours.run(batch)
        for name in varied.spec.outputs:
            assert expected[name].shape == found[name].shape
            np.testing.assert_allclose(found[name], expected[name], atol=2e-5)


def test_auto_takes_onnxruntime_and_falls_back_without_a_model(varied, tmp_path):
    assert open_engine(varied).name == "onnxruntime"
    bundle = load_bundle(write_bundle(tmp_path, *brightness_detector(), onnx=False))
    assert open_engine(bundle).name == "reference"
    with pytest.raises(ArtefactError, match=r"model\.onnx"):
        open_engine(bundle, "onnxruntime")


def test_unknown_engine_names_the_known_ones(varied):
    with pytest.raises(ConfigError, match="onnxruntime, reference"):
        open_engine(varied, "cuda")


@pytest.mark.parametrize("name", ["auto", "kernels", "onnxruntime", "reference"])
@pytest.mark.parametrize("threads", [0, -1, 65, 1.5, "2"])
def test_impossible_numbers_of_threads_are_refused_whatever_the_engine(bright, name, threads):
    with pytest.raises(ConfigError, match="threads is out of range; expected 1 to 64"):
        Detector.load(bright.path, name, threads)


@pytest.mark.parametrize("name", ["onnxruntime", "reference"])
def test_wrong_batches_are_refused(varied, name):
    engine = open_engine(varied, name)
    good = batch_of(varied.spec)
    for bad in (good[0], good.astype(np.float64), good[:, :1], good[..., :-1]):
        with pytest.raises(DataError, match="3, 64, 96"):
            engine.run(bad)


def test_onnx_of_another_network_is_refused(tmp_path):
    spec, tensors = brightness_detector(64)
    small = write_bundle(tmp_path / "a", spec, tensors)
    other = write_bundle(tmp_path / "b", *varied_detector())
    (small / "model.onnx").write_bytes((other / "model.onnx").read_bytes())
    with pytest.raises(ArtefactError, match="another input"):
        open_engine(load_bundle(small, verify=False), "onnxruntime")
    (small / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(ArtefactError, match="cannot be loaded"):
        open_engine(load_bundle(small, verify=False), "onnxruntime")


@pytest.mark.parametrize("engine", ["onnxruntime", "reference"])
def test_detector_finds_the_bright_cell_in_original_pixels(bright, engine):
    # 128 x 64 image on a 64 x 64 canvas: scale 0.5, rows 16..48. Network cell (row 1, column 2)
    # covers x 32..48, y 16..32, that is original x 64..96, y 0..32.
    pixels = np.zeros((64, 128), np.uint8)
    pixels[0:32, 64:96] = 255
    detector = Detector(bright, open_engine(bright, engine))
    found = detector.predict(pixels, "x")
    assert (found.image_id, found.width, found.height) == ("x", 128, 64)
    np.testing.assert_allclose(found.boxes, [[64, 0, 96, 32]], atol=1e-3)
    # resampling dims the rim of the square a little: 40 * mean - 20 is still above 13
    assert found.scores[0] > 1 - 3e-6


def test_batches_of_mixed_sizes_equal_single_images(bright):
    detector = Detector(bright, open_engine(bright), DecodeSettings(0.001, 0.4, 20))
    generator = np.random.default_rng(5)
    images = [generator.integers(0, 256, size, dtype=np.uint8) for size in [(64, 64), (30, 90)]]
    together = detector.predict_batch(images, ["a", "b"])
    for index, image in enumerate(images):
        alone = detector.predict(image, "ab"[index])
        np.testing.assert_allclose(together[index].boxes, alone.boxes, atol=1e-5)
        np.testing.assert_allclose(together[index].scores, alone.scores, atol=1e-6)
    assert detector.predict_batch([], []) == []


class BrokenEngine(Engine):
    name = "broken"

    def __init__(self, spec, value):
        super().__init__(spec)
        self.value = value

    def _run(self, batch):
        return {"boxes": np.full((len(batch), 6, 4, 4), self.value, np.float32)}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_never_become_boxes(bright, value):
    with pytest.raises(InferenceError, match="not finite"):
        Detector(bright, BrokenEngine(bright.spec, value)).predict(np.zeros((9, 9), np.uint8), "x")


def test_a_classifier_is_no_detector(bright):
    spec = bright.spec._replace(layers=bright.spec.layers[:1], outputs=("head",))
    bundle = bright._replace(spec=spec)
    with pytest.raises(SpecError, match="not a detector"):
        Detector(bundle, BrokenEngine(spec, 0))


def test_the_shipped_model_detects_in_a_file_and_in_its_pixels(tmp_path):
    detector = Detector.load("default", "reference", compile_missing=False)
    assert detector.bundle.path == str(DEFAULT_BUNDLE)
    pixels = np.random.default_rng(0).integers(0, 255, (96, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    from_file, from_pixels = detector.detect(tmp_path / "x.png"), detector.detect(pixels)
    every = detector.predict(pixels, "x")
    threshold = detector.bundle.threshold("high_sensitivity")
    sensitive = detector.detect(pixels, "high_sensitivity")
    assert sensitive.boxes.shape == ((every.scores >= np.float32(threshold)).sum(), 4)
    assert sensitive.flag == ("positive" if len(sensitive.boxes) else "negative")
    assert (sensitive.boxes.dtype, sensitive.scores.dtype) == (np.float32, np.float32)
    for name in Detection._fields:
        np.testing.assert_array_equal(getattr(from_file, name), getattr(from_pixels, name))
    with pytest.raises(DataError, match="uint8"):
        detector.detect(pixels / 255.0)
    with pytest.raises(ConfigError, match="operating point"):
        detector.detect(pixels, "none")
