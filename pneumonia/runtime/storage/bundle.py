"""The model bundle: a folder, refused unless all its files belong to the same model."""

import hashlib
import io
import math
import os
from typing import Any, Dict, NamedTuple, Optional, Sequence

import numpy as np

from pneumonia.runtime.errors import ArtefactError, ConfigError, os_errors_as
from pneumonia.runtime.json_files import read_json_object
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.model.spec_json import parse_spec
from pneumonia.runtime.storage.packing import dense_tensors
from pneumonia.runtime.storage.tensorfile import read_tensors

SCHEMA = "pneumonia.bundle/1"
MANIFEST = "manifest.json"
SPEC = "spec.json"
WEIGHTS = "weights.safetensors"
ONNX = "model.onnx"
OPERATING_POINTS = "operating_points.json"
MODEL_CARD = "model_card.md"
REQUIRED = (SPEC, WEIGHTS, OPERATING_POINTS, MODEL_CARD)
FLOAT32, INT8 = "float32", "int8"  # arithmetic of a bundle; manifests without it are float32
FILE_TITLE = "File of the model"
MAX_TEXT_BYTES = 32 * 1024 * 1024


def file_sha256(path: str) -> str:
    """Hex SHA-256 of a file; raises ArtefactError when it cannot be read."""
    digest = hashlib.sha256()
    with os_errors_as(ArtefactError, "File of the model cannot be read", path):
        with io.open(str(path), "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def file_record(path: str) -> Dict[str, Any]:
    """SHA-256 (hex) and size in bytes of a file, as manifests list it; raises ArtefactError."""
    return {"sha256": file_sha256(path), "bytes": os.path.getsize(str(path))}


def model_hash(spec_path: str, weights_path: str, int8_onnx_path: Optional[str] = None) -> str:
    """The model's identity: SHA-256 of the files' hex digests, one after the other.

    Args:
        spec_path: spec.json.
        weights_path: weights.safetensors.
        int8_onnx_path: model.onnx of an int8 bundle, which holds the ranges of its activations;
            None for float32, where the ONNX file follows from the other two.
    """
    paths = [spec_path, weights_path] + ([int8_onnx_path] if int8_onnx_path else [])
    return _combine([file_sha256(path) for path in paths])


def _combine(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


def _identity(manifest: Dict[str, Any]) -> str:
    files = manifest["files"]
    names = (SPEC, WEIGHTS, ONNX) if manifest.get("arithmetic") == INT8 else (SPEC, WEIGHTS)
    return _combine([str(files[name]["sha256"]) for name in names])


class Bundle(NamedTuple):
    """A checked model bundle."""

    path: str  # the folder
    manifest: Dict[str, Any]  # manifest.json
    spec: NetworkSpec  # the network
    operating_points: Dict[str, Dict[str, Any]]  # name -> record with at least `threshold`
    model_hash: str  # hex identity of spec and weights (and of model.onnx where that is int8)

    def file(self, name: str) -> str:
        """Path of a file the manifest lists; raises ArtefactError for any other."""
        if name not in self.manifest["files"]:
            raise ArtefactError("Bundle has no such file", found=repr(name), where=self.path)
        return os.path.join(self.path, name)

    def document(self, name: str) -> Dict[str, Any]:
        """A JSON object among its files; raises ArtefactError for anything else."""
        return read_json_object(self.file(name), FILE_TITLE, max_bytes=MAX_TEXT_BYTES)

    @property
    def onnx_path(self) -> str:
        """Path of model.onnx; raises ArtefactError when the bundle has none."""
        return self.file(ONNX)

    @property
    def arithmetic(self) -> str:
        """`float32`, or `int8`: model.onnx computes in 8-bit integers and no other engine can."""
        return str(self.manifest.get("arithmetic", FLOAT32))

    @property
    def model_name(self) -> str:
        """The name on overlays and in reports."""
        return str(self.manifest["model_name"])

    def weights(self) -> Dict[str, np.ndarray]:
        """Dense tensors, named and shaped as `spec.tensor_shapes`.

        Raises:
            ArtefactError: They do not fit the network, or hold NaN or infinity.
        """
        tensors = dense_tensors(self.spec, read_tensors(self.file(WEIGHTS)))
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise ArtefactError(
                    "Weights are not finite", where="{}, tensor {!r}".format(self.path, name)
                )
        return tensors

    def threshold(self, name: str) -> float:
        """Score threshold of an operating point.

        Raises:
            ConfigError: No operating point of that name.
        """
        if name not in self.operating_points:
            raise ConfigError(
                "Unknown operating point",
                expected="one of " + (", ".join(self.operating_points) or "(the bundle has none)"),
                found=repr(name),
                where=self.path,
            )
        return float(self.operating_points[name]["threshold"])


def _read_text(path: str) -> str:
    try:
        if os.path.getsize(path) > MAX_TEXT_BYTES:
            raise ArtefactError("File of the model is too large", where=path)
        with io.open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(
            "File of the model cannot be read",
            found=getattr(error, "strerror", None) or "not UTF-8",
            where=path,
        ) from None


def _read_manifest(path: str) -> Dict[str, Any]:
    where = os.path.join(path, MANIFEST)
    if not os.path.isfile(where):
        raise ArtefactError(
            "Not a model bundle",
            expected="a folder with " + MANIFEST,
            where=path,
            fix="`pneumonia export RUN --out BUNDLE` writes one",
        )
    manifest = read_json_object(where, FILE_TITLE, max_bytes=MAX_TEXT_BYTES)
    if manifest.get("schema") != SCHEMA:
        raise ArtefactError(
            "Bundle has another schema",
            expected=repr(SCHEMA),
            found=repr(manifest.get("schema"))[:80],
            where=where,
        )
    files = manifest.get("files")
    if not isinstance(manifest.get("model_name"), str) or not isinstance(files, dict):
        raise ArtefactError("Manifest is incomplete", expected="model_name, files", where=where)
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise ArtefactError("Manifest does not list a file", expected=missing[0], where=where)
    arithmetic = manifest.get("arithmetic", FLOAT32)
    if arithmetic not in (FLOAT32, INT8) or (arithmetic == INT8 and ONNX not in files):
        raise ArtefactError(
            "Arithmetic of the bundle is unknown",
            expected="{}, or {} with {}".format(FLOAT32, INT8, ONNX),
            found=repr(arithmetic)[:40],
            where=where,
        )
    for name, record in files.items():
        plain = name not in ("", ".", "..") and os.path.basename(name) == name
        if not plain or not isinstance(record, dict) or set(record) < {"sha256", "bytes"}:
            raise ArtefactError(
                "File entry is malformed", expected="a plain name, sha256 and bytes",
                found=repr(name)[:80], where=where,
            )  # fmt: skip
    return manifest


def _check_files(path: str, files: Dict[str, Any], replaced: Sequence[str]) -> None:
    for name, record in files.items():
        if name in replaced:
            continue
        where = os.path.join(path, name)
        digest = file_sha256(where)
        size = os.path.getsize(where)
        if size != record["bytes"] or digest != record["sha256"]:
            raise ArtefactError(
                "File differs from the size or checksum in the bundle's manifest",
                expected="{} bytes, sha256 {}...".format(
                    record["bytes"], str(record["sha256"])[:12]
                ),
                found="{} bytes, sha256 {}...".format(size, digest[:12]),
                where=where,
                fix="Export the bundle again, or a kernel library with `pneumonia kernels`; "
                "do not edit its files",
            )


def _check_preprocess(path: str, manifest: Dict[str, Any], spec: NetworkSpec) -> None:
    promised = manifest.get("preprocess", {})
    for key, value in spec.input._asdict().items():
        if isinstance(promised, dict) and promised.get(key, value) == value:
            continue
        raise ArtefactError(
            "Manifest and network description disagree on preprocessing",
            expected="{} {!r}".format(key, value),
            found=repr(promised)[:80],
            where=os.path.join(path, MANIFEST),
        )


def _is_probability(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and 0 <= value <= 1


def _read_operating_points(path: str, expected_hash: str) -> Dict[str, Dict[str, Any]]:
    where = os.path.join(path, OPERATING_POINTS)
    document = read_json_object(where, FILE_TITLE, max_bytes=MAX_TEXT_BYTES)
    if document.get("model_hash") != expected_hash:
        raise ArtefactError(
            "Thresholds belong to another model",
            expected="model_hash {}...".format(expected_hash[:12]),
            found=repr(document.get("model_hash"))[:16],
            where=where,
            fix="Thresholds are valid for one model only: export the bundle again",
        )
    points = document.get("points")
    if not isinstance(points, dict):
        raise ArtefactError("No operating points", expected="'points'", where=where)
    for name, point in points.items():
        value = point.get("threshold") if isinstance(point, dict) else None
        if not _is_probability(value):
            raise ArtefactError(
                "Threshold is not valid",
                expected="a number 0..1",
                found=repr(value)[:40],
                where="{}, point {!r}".format(where, name),
            )
    return points


def load_bundle(path: str, verify: bool = True, replaced: Sequence[str] = ()) -> Bundle:
    """Load a bundle; refuse it if its files do not belong together.

    Args:
        verify: Also compare every file with its checksum (reads the whole bundle once).
        replaced: Names of files that the caller writes anew; they may be missing or damaged.

    Raises:
        ArtefactError: Not a bundle, another schema, a file missing or changed, thresholds or a
            manifest of another model, preprocessing that contradicts the network.
    """
    path = os.path.abspath(str(path))
    manifest = _read_manifest(path)
    files = manifest["files"]
    if verify:
        _check_files(path, files, replaced)
    identity = _identity(manifest)
    if manifest.get("model_hash") != identity:
        raise ArtefactError(
            "Manifest names another model",
            expected="model_hash {}...".format(identity[:12]),
            found=repr(manifest.get("model_hash"))[:16],
            where=os.path.join(path, MANIFEST),
        )
    spec = parse_spec(_read_text(os.path.join(path, SPEC)))
    _check_preprocess(path, manifest, spec)
    return Bundle(path, manifest, spec, _read_operating_points(path, identity), identity)
