"""Parameters, multiply-accumulates and file size of a stored model."""

import math
from dataclasses import dataclass
from pathlib import Path

from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.json_files import find_json_object
from pneumonia.runtime.model.spec import STATISTICS, NetworkSpec, positions, tensor_shapes
from pneumonia.runtime.model.spec_json import parse_spec


@dataclass(frozen=True)
class Footprint:
    """Cost of a model; None = not available."""

    parameters: int | None = None  # stored parameters (kept weights, biases, batch-norm scales)
    macs: int | None = None  # multiply-accumulates for one image, of kept weights only
    file_bytes: int | None = None  # size of the weights file
    latency_ms: float | None = None  # measured time for one image
    energy_mj: float | None = None  # measured energy for one image
    model_hash: str | None = None  # identity of the model
    note: str = ""  # where latency and energy were measured


def kept_weights(spec: NetworkSpec) -> dict[str, int]:
    """Weights stored per layer: all of a dense layer, `n_kept` of any other."""
    shapes = tensor_shapes(spec)
    kept = {}
    for layer in spec.weighted():
        size = math.prod(shapes[layer.name + ".weight"])
        kept[layer.name] = size if layer.storage.format == "dense" else layer.storage.n_kept
    return kept


def count(spec: NetworkSpec) -> tuple[int, int]:
    """(stored parameters, multiply-accumulates for one image) of a network."""
    kept = kept_weights(spec)
    sizes = spec.shapes()
    macs = 0
    for layer in spec.weighted():
        macs += kept[layer.name] * positions(layer, sizes)
    parameters = sum(kept.values())
    for name, shape in tensor_shapes(spec).items():
        if not name.endswith((".weight", *STATISTICS)):
            parameters += math.prod(shape)
    return parameters, macs


def open_weights(folder: str | Path) -> tuple[NetworkSpec, Path]:
    """Network description and weights file of a bundle or of a run folder (its best checkpoint).

    Raises:
        ArtefactError: Neither a bundle nor a run folder.
    """
    path = Path(folder)
    place = path if (path / "spec.json").is_file() else path / "best"
    weights = place / "weights.safetensors"
    try:
        spec = parse_spec((place / "spec.json").read_text(encoding="utf-8"))
        weights.stat()
    except (OSError, UnicodeDecodeError):
        raise ArtefactError(
            "Neither a bundle nor a run",
            expected="spec.json and weights.safetensors, or best/ with them",
            where=str(path),
        ) from None
    return spec, weights


def read_footprint(folder: str | Path) -> Footprint:
    """The cost of a bundle or of a run folder (its best checkpoint).

    Latency and energy come from the `measured` entry of a bundle's manifest
    ({"latency_ms", "energy_mj", "note"}), when there is one.

    Raises:
        ArtefactError: Neither a bundle nor a run.
    """
    spec, weights = open_weights(folder)
    parameters, macs = count(spec)
    manifest = find_json_object(str(Path(folder) / "manifest.json"))
    measured = manifest.get("measured")
    measured = measured if isinstance(measured, dict) else {}
    return Footprint(
        parameters=parameters,
        macs=macs,
        file_bytes=weights.stat().st_size,
        latency_ms=measured.get("latency_ms"),
        energy_mj=measured.get("energy_mj"),
        model_hash=manifest.get("model_hash"),
        note=str(measured.get("note", "")),
    )
