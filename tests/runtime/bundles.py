"""Small model bundles for tests: one with known answers, one with every kind of layer."""

import hashlib
import json

import numpy as np

from pneumonia.exporting.onnx_graph import emit_onnx
from pneumonia.runtime.model.layers import (
    Conv,
    Detect,
    MaxPool,
    Route,
    Shortcut,
    StorageSpec,
    Upsample,
)
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec, tensor_shapes
from pneumonia.runtime.model.spec_json import spec_text
from pneumonia.runtime.storage.bundle import model_hash
from pneumonia.runtime.storage.packing import measured_spec, packed_tensors
from pneumonia.runtime.storage.tensorfile import write_tensors

CELL = 16


def brightness_detector(size=64):
    """Finds bright cells: score of a cell = sigmoid(40 * mean - 20) (times 1), box = the cell.

    The answer for any image is known by hand, so a whole pipeline can be checked against it.
    """
    spec = NetworkSpec(
        "brightness",
        InputSpec(1, size, size),
        (
            Conv("head", ("input",), 1, 6, CELL, CELL),
            Detect("boxes", ("head",), ((16.0, 16.0),), 1, CELL, "scaled"),
        ),
        ("boxes",),
        ("Lung Opacity",),
    )
    weight = np.zeros((6, 1, CELL, CELL), np.float32)
    weight[4] = 40 / CELL**2
    bias = np.array([0, 0, 0, 0, -20, 20], np.float32)
    return spec, {"head.weight": weight, "head.bias": bias}


def varied_detector(seed=0, batch_norm=False):
    """Random weights through convolution, shortcut, pools, upsampling, route; two heads."""

    def conv(name, source, inputs, outputs, kernel=3, stride=1, **more):
        return Conv(name, (source,), inputs, outputs, kernel, stride, kernel // 2,
                    bias=not batch_norm, batch_norm=batch_norm, **more)  # fmt: skip

    anchors = ((6.0, 9.0), (14.0, 12.0))
    spec = NetworkSpec(
        "varied",
        InputSpec(3, 64, 96, mean=0.4, std=0.3, pad_value=90),
        (
            conv("c0", "input", 3, 8, 3, 2, activation="leaky_relu"),
            conv("c1", "c0", 8, 8, 1, activation="relu", storage=StorageSpec("columns", 4)),
            Shortcut("s2", ("c1", "c0"), "leaky_relu"),
            MaxPool("p3", ("s2",), 2, 2),
            conv("c4", "p3", 8, 12, activation="leaky_relu", storage=StorageSpec("columns", 0)),
            MaxPool("p5", ("c4",), 2, 1, 0, 1),
            conv("c6", "p5", 12, 14, 1),
            Detect("d7", ("c6",), anchors, 2, 4, "darknet"),
            Upsample("u8", ("c4",), 2),
            Route("r9", ("u8", "c1")),
            conv("c10", "r9", 20, 14, 5),
            Detect("d11", ("c10",), anchors, 2, 2, "scaled"),
        ),
        ("d7", "d11"),
        ("one", "two"),
    )
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        scale = 1 / np.sqrt(np.prod(shape[1:])) if name.endswith(".weight") else 0.3
        tensors[name] = generator.normal(0, scale, shape).astype(np.float32)
        if name.endswith("bn_var"):
            tensors[name] = np.abs(tensors[name]) + np.float32(0.5)
    for name in ("c1.weight", "c4.weight"):
        # about a third of the columns go, channel 0 among them
        tensors[name][:, generator.random(shape_of(tensors[name])) < 0.3] = 0
        tensors[name][:, 0] = 0
    return measured_spec(spec, tensors), tensors


def shape_of(weight):
    return weight.shape[1:]


def write_bundle(folder, spec, tensors, threshold=0.5, onnx=True):
    """Write a whole bundle and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec_text(spec))
    write_tensors(folder / "weights.safetensors", packed_tensors(spec, tensors))
    identity = model_hash(folder / "spec.json", folder / "weights.safetensors")
    points = {"balanced": {"threshold": threshold}, "sensitive": {"threshold": threshold / 2}}
    write_json(folder / "operating_points.json", {"model_hash": identity, "points": points})
    (folder / "model_card.md").write_text(f"# {spec.name}\n\nmodel {identity}\n")
    if onnx:
        (folder / "model.onnx").write_bytes(emit_onnx(spec, tensors).model.SerializeToString())
    write_manifest(folder, spec, identity)
    return folder


def write_manifest(folder, spec, identity):
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    files = {
        name: {
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            "bytes": (folder / name).stat().st_size,
        }
        for name in names
    }
    document = {
        "schema": "pneumonia.bundle/1",
        "model_name": spec.name,
        "model_hash": identity,
        "files": files,
        "preprocess": dict(spec.input._asdict()),
        "versions": {},
        "disclaimer": "Research use only. Not a medical device.",
    }
    write_json(folder / "manifest.json", document)


def write_json(path, value):
    path.write_text(json.dumps(value))
