"""int8 post-training quantization: a float ONNX file with quantize/dequantize pairs, as a bundle.

Weights per output channel, activations per tensor from a few hundred calibration images. The
convolutions that make the outputs stay float: they are a small share of the work, and their error
goes straight into scores and boxes. ONNX Runtime runs the file, or any engine that reads QDQ.

Weights take 7 of their 8 bits unless `full_range` is asked for: x86 processors without VNNI add
pairs of 8-bit products in 16 bits, which saturates with full-range weights (`reduce_range` of
ONNX Runtime; a detector lost a quarter of its RSNA score there).

An int8 bundle's weights.safetensors holds the integers times their scales, its manifest
`"arithmetic": "int8"`, and its identity covers model.onnx, which alone has the ranges of the
activations.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.exporting.bundle import HASH_DIGITS, check_replaceable
from pneumonia.exporting.model_card import points_section, replace_points
from pneumonia.exporting.onnx_graph import OPSET, emit_onnx
from pneumonia.network.files import save_model
from pneumonia.runtime.atomic import new_folder, write_bytes, write_json, write_text
from pneumonia.runtime.engines.comparison import relative_rms
from pneumonia.runtime.errors import ConfigError, ExportError
from pneumonia.runtime.storage.bundle import (
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

Batch = npt.NDArray[np.float32]
Calibration = Literal["minmax", "entropy", "percentile"]
INTEGERS = 127  # a weight is one of -127..127 times its filter's scale


class Int8Onnx(NamedTuple):
    """An int8 ONNX file."""

    data: bytes  # its bytes
    n_images: int  # calibration images used
    # layer -> float32 (O,): scale of each filter's integers; quantized layers
    weight_scales: dict[str, npt.NDArray[np.float32]]
    # RMS difference from the float file over RMS of its outputs, on the first calibration batch
    relative_error: float


class _Reader:
    """Calibration data reader for ONNX Runtime: batches of the size that the graph has."""

    def __init__(self, name: str, images: Iterable[Batch], batch: int) -> None:
        self.name = name
        self.images: Iterator[Batch] = iter(images)
        self.batch = batch
        self.first: Batch | None = None
        self.n_images = 0

    def get_next(self) -> dict[str, Batch] | None:
        """The next feed, None at the end."""
        found = list(islice(self.images, self.batch))
        if not found:
            return None
        self.n_images += len(found)
        found += [found[-1]] * (self.batch - len(found))  # ranges do not change by a repeated image
        images = np.stack(found)
        if self.first is None:
            self.first = images
        return {self.name: images}


def quantize_onnx(
    model: Path,
    images: Iterable[Batch],
    calibration: Calibration = "minmax",
    full_range: bool = False,
) -> Int8Onnx:
    """Make an int8 QDQ version of a float ONNX file.

    Args:
        model: Float ONNX file with one input (N, C, H, W) of fixed size.
        images: float32 network inputs (C, H, W); 100 to 500 of the training split are enough.
        calibration: How activation ranges are found.
        full_range: Use all 8 bits of a weight, for processors with VNNI, ARM and GPUs.

    Raises:
        ExportError: No calibration image, or ONNX Runtime refuses the model.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    graph = onnx.load(str(model)).graph
    entry = graph.input[0]
    reader = _Reader(entry.name, images, entry.type.tensor_type.shape.dim[0].dim_value or 1)
    with tempfile.TemporaryDirectory() as folder, _silent_root_logger():
        part = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                str(model), str(part), reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=not full_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[calibration],
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=_output_convolutions(graph),
            )  # fmt: skip
        except Exception as error:
            if reader.first is None:
                raise ExportError(
                    "No calibration image", expected="images of the training split", found="none"
                ) from None
            raise ExportError(
                "ONNX file cannot be quantized", found=f"{type(error).__name__}: {error}"[:200],
                where=str(model),
            ) from None  # fmt: skip
        made = onnx.load(str(part))
        data = part.read_bytes()
    _check_opset(made)
    assert reader.first is not None
    difference = _relative_error(model, data, {reader.name: reader.first})
    return Int8Onnx(data, reader.n_images, _weight_scales(made), difference)


class _silent_root_logger:  # noqa: N801 - a context manager
    """Silence ONNX Runtime's quantizer, which warns through the root logger about its settings."""

    def __enter__(self) -> None:
        self.level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *raised: object) -> None:
        logging.getLogger().setLevel(self.level)


def _output_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions whose value leaves the graph without another convolution."""
    makers = {output: node for node in graph.node for output in node.output}
    found, waiting = [], [output.name for output in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None:
            continue
        if node.op_type == "Conv":
            found.append(node.name)
        else:
            waiting += list(node.input)
    return found


def _weight_scales(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    constants = {item.name: item for item in model.graph.initializer}
    tail = ".weight_quantized"
    return {
        name.removesuffix(tail): numpy_helper.to_array(
            constants[name.removesuffix("_quantized") + "_scale"]
        )
        for name in constants
        if name.endswith(tail)
    }


def round_to_int8(weight: Batch, scales: npt.NDArray[np.float32]) -> Batch:
    """The values of a float weight (O, ...) after int8 quantization with these scales (O,)."""
    energy_by_filter = scales.reshape(-1, *[1] * (weight.ndim - 1))
    integers = np.clip(np.rint(weight / energy_by_filter), -INTEGERS, INTEGERS)
    return np.asarray((integers * energy_by_filter).astype(np.float32))


def _check_opset(model: Any) -> None:
    versions = {imported.domain: imported.version for imported in model.opset_import}
    if versions.get("", OPSET) > OPSET:
        raise ExportError("ONNX opset is too new", expected=f"<= {OPSET}", found=str(versions[""]))


def _relative_error(model: Path, quantized: bytes, feed: dict[str, Batch]) -> float:
    """RMS difference of all outputs over RMS of the float ones."""
    import onnxruntime

    answers = []
    for source in (str(model), quantized):
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        answers.append(np.concatenate([output.ravel() for output in session.run(None, feed)]))
    return relative_rms(answers[1], answers[0])


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
            round_to_int8(array, made.weight_scales[layer])
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
