"""A bundle whose model.onnx computes in 8-bit integers, made from a float32 bundle.

Its weights.safetensors holds the integers times their scales, its manifest `"arithmetic": "int8"`,
and its identity covers model.onnx, which alone has the ranges of the activations.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.exporting.bundle import HASH_DIGITS, check_replaceable
from pneumonia.exporting.int8 import Int8Onnx, on_integers
from pneumonia.exporting.model_card import points_section, replace_points
from pneumonia.exporting.onnx_graph import emit_onnx
from pneumonia.network.files import save_model
from pneumonia.runtime.atomic import new_folder, write_bytes, write_json, write_text
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.model.bundle import (
    INT8,
    MANIFEST,
    MODEL_CARD,
    ONNX,
    OPERATING_POINTS,
    SPEC,
    WEIGHTS,
    Bundle,
    file_record,
    load_bundle,
    model_hash,
)


def refuse_int8(bundle: Bundle) -> None:
    """Raise ConfigError for a bundle that is int8 already."""
    if bundle.arithmetic == INT8:
        raise ConfigError("Bundle is int8 already", expected="a float32 bundle", where=bundle.path)


def float_onnx(bundle: Bundle, folder: Path) -> Path:
    """The bundle's model.onnx; made in `folder` for a bundle that was exported without."""
    if ONNX in bundle.manifest["files"]:
        return Path(bundle.onnx_path)
    path = folder / ONNX
    write_bytes(str(path), emit_onnx(bundle.spec, bundle.weights()).model.SerializeToString())
    return path


def write_int8_bundle(
    bundle: Bundle,
    made: Int8Onnx,
    out: Path,
    chosen: Mapping[str, Any] | None = None,
    evidence: Mapping[str, tuple[float, float]] | None = None,
) -> Bundle:
    """Write an int8 bundle.

    Args:
        bundle: The float32 bundle.
        made: Its ONNX file in int8.
        out: Folder; a bundle that stands there is replaced once the new one is whole.
        chosen: Content of operating_points.json; None = no operating points.
        evidence: Validation metric -> (float32, int8), for the model card.

    Raises:
        OutputError: `out` is something else than a bundle, or cannot be written.
    """
    check_replaceable(out)
    tensors = {
        name: torch.from_numpy(
            on_integers(array, made.weight_scales[layer])
            if part == "weight" and layer in made.weight_scales
            else array
        )
        for name, array in bundle.weights().items()
        for layer, _, part in [name.rpartition(".")]
    }
    spec = smallest_storage(bundle.spec, tensors, made.weight_scales)
    with new_folder(str(out)) as part_name:
        part = Path(part_name)
        spec = save_model(part, spec, tensors)
        write_bytes(str(part / ONNX), made.data)
        identity = model_hash(*(str(part / name) for name in (SPEC, WEIGHTS, ONNX)))
        document = {**(chosen or {"points": {}}), "model_hash": identity}
        write_json(str(part / OPERATING_POINTS), document)
        card = Path(bundle.file(MODEL_CARD)).read_text(encoding="utf-8")
        card = card.replace(bundle.model_hash, identity)
        card = replace_points(card, points_section(document["points"], document))
        section = _section(bundle, made, evidence or {})
        write_text(str(part / MODEL_CARD), f"{card.rstrip()}\n\n{section}")
        files = (SPEC, WEIGHTS, ONNX, OPERATING_POINTS, MODEL_CARD)
        manifest: dict[str, Any] = {
            **bundle.manifest,
            "model_name": f"{spec.name}-int8-{identity[:HASH_DIGITS]}",
            "model_hash": identity,
            "arithmetic": INT8,
            "float_model_hash": bundle.model_hash,
            "files": {name: file_record(str(part / name)) for name in files},
        }
        write_json(str(part / MANIFEST), manifest)
        load_bundle(part_name)
    return load_bundle(str(out))


def _section(bundle: Bundle, made: Int8Onnx, evidence: Mapping[str, tuple[float, float]]) -> str:
    rows = "\n".join(
        f"| {name} | {before:.4f} | {after:.4f} |" for name, (before, after) in evidence.items()
    )
    return (
        "## int8\n\nmodel.onnx computes in 8-bit integers; the convolutions that make the outputs"
        f" stay float. Made from model `{bundle.model_hash}` with {made.n_images} calibration"
        " images. Costs and the ONNX section above are those of that model. Validation images,"
        f" ONNX Runtime:\n\n| metric | float32 | int8 |\n| --- | --- | --- |\n{rows}\n"
    )
