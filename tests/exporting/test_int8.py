"""int8 of a bundle: measured before it is written, no saturating products, a bundle like others."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from data_prep.dataset.reader import DatasetImage, open_dataset
from data_prep.dataset.writer import DatasetFacts, new_dataset, to_cache
from deploy_jetson.device.selftest import check_engine
from deploy_jetson.kernels.bundle import add_kernels
from deploy_jetson.kernels.int8_weights import read_quantization
from deploy_jetson.package.archive import make_package
from pneumonia.api.int8 import Int8Options, quantize_int8
from pneumonia.cli import group, run
from pneumonia.cli.training.quantize import command
from pneumonia.exporting.bundle import export
from pneumonia.exporting.int8 import quantize_onnx, write_int8_bundle
from pneumonia.exporting.onnx_graph import emit_onnx
from pneumonia.exporting.refreeze import freeze_points
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.errors import (
    ArtefactError,
    ConfigError,
    DeviceError,
    ExportError,
    OutputError,
)
from pneumonia.runtime.model.layers import Conv, Detect, StorageSpec
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.runtime.storage.bundle import file_sha256, load_bundle
from pneumonia.runtime.storage.packing import measured_spec
from tests.deploy_jetson.kernels.networks import random_image, random_tensors, residual_tower
from tests.deploy_jetson.kernels.programs import HERE, needs_gcc
from tests.runtime.bundles import write_bundle

SIZE, CELL = 64, 16


def brightness_detector():
    """A box wherever a cell is bright; two convolutions, the second makes the output."""
    spec = NetworkSpec(
        "brightness",
        InputSpec(1, SIZE, SIZE),
        (
            Conv("mean", ("input",), 1, 4, CELL, CELL, activation="leaky_relu"),
            Conv("head", ("mean",), 4, 6, 1),
            Detect("boxes", ("head",), ((16.0, 16.0),), 1, CELL, "scaled"),
        ),
        ("boxes",),
        ("Lung Opacity",),
    )
    mean = np.full((4, 1, CELL, CELL), 1 / CELL**2, np.float32)
    head = np.zeros((6, 4, 1, 1), np.float32)
    head[4] = 10
    bias = np.array([0, 0, 0, 0, -20, 20], np.float32)
    tensors = {"mean.weight": mean, "mean.bias": np.zeros(4, np.float32)}
    return spec, {**tensors, "head.weight": head, "head.bias": bias}


def write_cells(out, train_range=(40, 200)):
    """A bright cell in every second image; grey values of the training images as given."""
    rng = np.random.default_rng(0)
    with new_dataset(out) as writer:
        for number in range(24):
            split = "train" if number < 12 else "val"
            dark, bright = train_range if split == "train" else (40, 200)
            pixels = rng.integers(dark - 10, dark + 10, (SIZE, SIZE)).astype(np.uint8)
            boxes = np.zeros((0, 4), np.float32)
            if number % 2:
                x, y = rng.integers(0, SIZE // CELL, 2) * CELL
                pixels[y : y + CELL, x : x + CELL] = bright
                boxes = np.array([[x, y, x + CELL, y + CELL]], np.float32)
            record = DatasetImage(
                f"image-{number:03d}", "phantom", split, f"patient-{number}",
                "Lung Opacity" if number % 2 else "Normal", "", "", None, SIZE, SIZE, True,
            )  # fmt: skip
            writer.add(record, to_cache(pixels, SIZE), boxes)
        writer.finish(DatasetFacts({"type": "test"}, "0", SIZE, {}, [], {}))
    return out


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    write_bundle(folder / "float", *brightness_detector())
    write_cells(folder / "data")
    result = quantize_int8(folder / "float", folder / "data", folder / "int8")
    return folder, result


def quantized_weights(path) -> dict[str, np.ndarray]:
    model = onnx.load(str(path))
    return {
        item.name: numpy_helper.to_array(item)
        for item in model.graph.initializer
        if item.name.endswith(".weight_quantized")
    }


def test_both_models_are_measured_on_the_validation_images(cells):
    folder, result = cells
    assert result.metrics["rsna"] == pytest.approx((1, 1))
    assert result.metrics["ap50"] == pytest.approx((1, 1), abs=1e-6)
    assert (result.n_images, result.n_validated) == (12, 12)
    done = CliRunner().invoke(
        command,
        [str(folder / "float"), "--int8", "--data", str(folder / "data"), "--out",
         str(folder / "again")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for shown in ("float32", "int8", "rsna", "ap50", "1.0000", "next: pneumonia score"):
        assert shown in done.output
    same = [load_bundle(str(folder / name)).model_hash for name in ("int8", "again")]
    assert same[0] == same[1]


def test_a_model_that_loses_too_much_is_refused_unless_the_loss_is_accepted(tmp_path):
    """Ranges calibrated on dark images cut off all that is bright in the validation images."""
    write_bundle(tmp_path / "float", *brightness_detector())
    data = write_cells(tmp_path / "data", train_range=(11, 12))
    out = tmp_path / "int8"
    with pytest.raises(ExportError, match=r"expected rsna >= 0\.98.*accept the loss"):
        quantize_int8(tmp_path / "float", data, out)
    assert not out.exists()
    arguments = ["quantize", tmp_path / "float", "--int8", "--data", data, "--out", out]
    assert run(group, [str(a) for a in arguments]) == ExportError.exit_code
    done = CliRunner().invoke(command, [*map(str, arguments[1:]), "--accept-loss"])
    assert done.exit_code == 0, done.output
    assert "warning: rsna and ap50 fell by more than 0.02" in done.output
    assert out.is_dir()


def test_pairs_of_products_cannot_saturate(cells):
    """x86 without VNNI adds two products of u8 and s8 in 16 bits."""
    folder, _ = cells
    found = quantized_weights(folder / "int8" / "model.onnx")
    assert found
    largest = max(np.abs(weight.astype(int)).max() for weight in found.values())
    assert largest > 32
    assert 2 * 255 * largest <= np.iinfo(np.int16).max
    whole = folder / "whole.onnx"
    options = Int8Options(full_range=True)
    quantize_int8(folder / "float", folder / "data", whole, options)
    assert max(np.abs(w.astype(int)).max() for w in quantized_weights(whole).values()) == 127


def test_convolutions_that_make_the_outputs_stay_float(cells):
    folder, _ = cells
    assert set(quantized_weights(folder / "int8" / "model.onnx")) == {"mean.weight_quantized"}


def test_an_int8_bundle_is_scored_and_its_points_frozen_like_any(cells):
    folder, _ = cells
    bundle = load_bundle(str(folder / "int8"))
    assert bundle.arithmetic == "int8"
    assert bundle.model_hash != load_bundle(str(folder / "float")).model_hash
    assert "int8" in bundle.model_name
    assert bundle.operating_points["kaggle"]["rsna_score"] == pytest.approx(1)
    dataset = open_dataset(folder / "data")
    detector = Detector.load(folder / "int8")
    assert detector.engine.name == "onnxruntime"
    for item in dataset.select("val"):
        found = detector.detect(np.asarray(dataset.pixels(item)), "kaggle")
        assert found.boxes == pytest.approx(dataset.boxes(item), abs=0.5)
    shutil.copytree(folder / "int8", folder / "frozen")
    document = json.loads((folder / "int8" / "operating_points.json").read_text())
    document["points"] = {"mine": {"threshold": 0.25}}
    assert freeze_points(folder / "frozen", document).threshold("mine") == 0.25
    card = (folder / "int8" / "model_card.md").read_text()
    assert "## int8" in card
    assert bundle.model_hash in card


def test_weights_of_the_bundle_are_those_of_its_onnx_file(cells):
    folder, _ = cells
    bundle = load_bundle(str(folder / "int8"))
    model = onnx.load(bundle.onnx_path)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    integers = constants["mean.weight_quantized"].astype(np.float32)
    scale = constants["mean.weight_scale"].reshape(-1, 1, 1, 1)
    assert np.array_equal(bundle.weights()["mean.weight"], integers * scale)
    assert bundle.spec.layer("mean").storage.bits < 32


def test_no_float_engine_takes_an_int8_bundle(cells, tmp_path):
    folder, _ = cells
    bundle = load_bundle(str(folder / "int8"))
    with pytest.raises(ConfigError, match="reference computes in float32, the bundle in int8"):
        open_engine(bundle, "reference")
    with pytest.raises(DeviceError, match="no generated library"):
        open_engine(bundle, "kernels")
    with pytest.raises(ConfigError, match=r"no dot product of int8 values.*cortex-a57"):
        add_kernels(folder / "int8", "cortex-a57")
    with pytest.raises(ConfigError, match="No core of the board has a dot product of int8"):
        make_package(folder / "int8", tmp_path / "package.tar.gz", with_wheels=False)
    with pytest.raises(ConfigError, match="int8 already"):
        quantize_int8(folder / "int8", folder / "data", tmp_path / "twice")


def tower(pruned):
    """A network and its tensors; `pruned`: layers read half of their channels, one none."""
    spec = residual_tower((24, 56, 70) if pruned else (8, 24, 40))
    tensors = random_tensors(spec)
    if pruned:
        generator = np.random.default_rng(4)
        for index, layer in enumerate(spec.layers[1:]):
            if isinstance(layer, Conv):
                kept = layer.in_channels // 2 - index % 2 if index != 1 else 0
                dead = generator.permutation(layer.in_channels)[kept:]
                tensors[layer.name + ".weight"][:, dead] = 0
        spec = spec._replace(layers=tuple(
            layer._replace(storage=StorageSpec("columns", 0)) if isinstance(layer, Conv) else layer
            for layer in spec.layers
        ))  # fmt: skip
        spec = measured_spec(spec, tensors)
    return spec, tensors


@pytest.mark.parametrize("pruned", [False, True])
def test_integers_of_every_layer_are_its_weights(tmp_path, pruned):
    """The ONNX file has no columns for channels that a pruned layer does not read."""
    spec, tensors = tower(pruned)
    write_bundle(tmp_path / "float", spec, tensors)
    bundle = load_bundle(str(tmp_path / "float"))
    made = quantize_onnx(Path(bundle.onnx_path), [random_image(spec)])
    int8 = load_bundle(write_int8_bundle(bundle, made, tmp_path / "int8").path)
    gathers = [n for n in onnx.load(int8.onnx_path).graph.node if n.op_type == "Gather"]
    assert bool(gathers) == pruned
    found = read_quantization(Path(int8.onnx_path), int8.spec)
    assert len(found) > 5
    weights = int8.weights()
    for name, layer in found.items():
        values = layer.integers * layer.scales[:, None, None, None]
        assert np.array_equal(values, weights[name + ".weight"]), name


def test_a_file_of_another_network_is_refused(tmp_path):
    spec, tensors = tower(False)
    write_bundle(tmp_path / "float", spec, tensors)
    made = quantize_onnx(tmp_path / "float" / "model.onnx", [random_image(spec)])
    (tmp_path / "int8.onnx").write_bytes(made.data)
    for other, message in (
        (residual_tower((8, 26, 40)), r"do not fit.*\(26, 8, 3, 3\).*\(24, 8, 3, 3\)"),
        (spec._replace(layers=spec.layers[:1]), "do not fit the network.*no such layer"),
    ):
        with pytest.raises(ArtefactError, match=message):
            read_quantization(tmp_path / "int8.onnx", other)


@needs_gcc
@pytest.mark.parametrize("pruned", [False, True])
def test_kernels_of_an_int8_bundle_compute_what_onnx_runtime_does(tmp_path, pruned):
    """Weights and activations are the file's; what differs is the rounding of a few sums.

    ONNX Runtime also rounds what a convolution writes, the kernels only what it reads.
    """
    spec, tensors = tower(pruned)
    write_bundle(tmp_path / "float", spec, tensors)
    bundle = load_bundle(str(tmp_path / "float"))
    images = [random_image(spec, seed) for seed in range(8)]
    made = quantize_onnx(Path(bundle.onnx_path), images)
    int8 = write_int8_bundle(bundle, made, tmp_path / "int8")
    result = add_kernels(Path(int8.path), HERE[-1], measure=False)
    kinds = {layer["kernel"].split()[0] for layer in result.document["layers"]}
    assert kinds & {"int8", "int8x4"}
    image = images[0][None]
    int8 = load_bundle(int8.path)
    found, peer, exact = (
        next(iter(open_engine(of, name, 1).run(image).values()))
        for of, name in ((int8, "kernels"), (int8, "onnxruntime"), (bundle, "onnxruntime"))
    )
    own, others = (np.sqrt(np.square(value - exact).mean()) for value in (found, peer))
    assert 0 < own <= others
    checked = check_engine(int8, "kernels")  # the board's self-test
    assert checked["relative_error"] <= checked["limit"] == 0.2


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="needs gcc for aarch64")
def test_a_board_with_int8_arithmetic_gets_the_library_of_the_core_that_has_it(cells, tmp_path):
    folder, _ = cells
    out = tmp_path / "package.tar.gz"
    make_package(folder / "int8", out, with_wheels=False, board="jetpack6")
    with tarfile.open(out) as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert "libmodel-cortex-a78ae.so" in names
    assert "libmodel-cortex-a57.so" not in names


@pytest.mark.parametrize("changed", ["model.onnx", "weights.safetensors", "arithmetic"])
def test_a_changed_int8_bundle_is_refused(cells, tmp_path, changed):
    """Its identity covers the ONNX file, even if the manifest is made to agree with it."""
    folder, _ = cells
    copy = shutil.copytree(folder / "int8", tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    if changed == "arithmetic":
        manifest["arithmetic"] = "int4"
    else:
        manifest["files"][changed]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError):
        load_bundle(str(copy), verify=False)


@pytest.mark.parametrize("out", ["float", "data/../float", "float/model.onnx", "float/int8"])
def test_the_float_bundle_is_not_replaced(cells, out):
    folder, _ = cells
    before = load_bundle(str(folder / "float")).model_hash
    with pytest.raises(OutputError, match="lies in the bundle"):
        quantize_int8(folder / "float", folder / "data", folder / out)
    assert load_bundle(str(folder / "float")).model_hash == before


def test_an_int8_or_changed_bundle_is_not_exported_as_a_float_one(cells, tmp_path):
    folder, _ = cells
    with pytest.raises(ArtefactError, match=r"int8.*Export the run"):
        export(folder / "int8", tmp_path / "out")
    changed = shutil.copytree(folder / "float", tmp_path / "changed")
    data = bytearray((changed / "weights.safetensors").read_bytes())
    data[-1] ^= 4
    (changed / "weights.safetensors").write_bytes(data)
    with pytest.raises(ArtefactError, match="checksum"):
        export(changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_a_larger_batch_or_without_onnx_is_quantized_too(cells, tmp_path):
    folder, result = cells
    bundle = write_bundle(tmp_path / "float", *brightness_detector(), onnx=False)
    found = quantize_int8(bundle, folder / "data", tmp_path / "int8")
    assert found.metrics["rsna"] == pytest.approx((1, 1))
    assert load_bundle(str(tmp_path / "int8")).model_hash == (
        load_bundle(str(folder / "int8")).model_hash
    )
    batched = write_bundle(tmp_path / "batched", *brightness_detector())
    spec, tensors = brightness_detector()
    (batched / "model.onnx").write_bytes(emit_onnx(spec, tensors, 5).model.SerializeToString())
    manifest = json.loads((batched / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = {
        "sha256": file_sha256(str(batched / "model.onnx")),
        "bytes": (batched / "model.onnx").stat().st_size,
    }
    (batched / "manifest.json").write_text(json.dumps(manifest))
    found = quantize_int8(batched, folder / "data", tmp_path / "int8-batched")
    assert found.n_images == result.n_images
    assert found.metrics["rsna"] == pytest.approx((1, 1))
