"""int8 post-training quantization of a float ONNX file: quantize/dequantize pairs (QDQ).

Weights per output channel, activations per tensor from a few hundred calibration images. The
convolutions that make the outputs stay float: they are a small share of the work, and their error
goes straight into scores and boxes. ONNX Runtime runs the file, or any engine that reads QDQ.

Weights take 7 of their 8 bits unless `full_range` is asked for: x86 processors without VNNI add
pairs of 8-bit products in 16 bits, which saturates with full-range weights (`reduce_range` of
ONNX Runtime; a detector lost a quarter of its RSNA score there).
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from pneumonia.exporting.onnx_graph import OPSET
from pneumonia.runtime.errors import ExportError

Batch = npt.NDArray[np.float32]
Calibration = Literal["minmax", "entropy", "percentile"]
INTEGERS = 127  # a weight is one of -127..127 times its filter's scale


class Int8Onnx(NamedTuple):
    """An int8 ONNX file.

    Attributes:
        data: Its bytes.
        n_images: Calibration images used.
        weight_scales: Layer -> float32 (O,): scale of each filter's integers; quantized layers.
        relative_error: RMS difference from the float file over RMS of its outputs, on the first
            calibration batch.
    """

    data: bytes
    n_images: int
    weight_scales: dict[str, npt.NDArray[np.float32]]
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


def on_integers(weight: Batch, scales: npt.NDArray[np.float32]) -> Batch:
    """The values of a float weight (O, ...) after int8 quantization with these scales (O,)."""
    by_filter = scales.reshape(-1, *[1] * (weight.ndim - 1))
    integers = np.clip(np.rint(weight / by_filter), -INTEGERS, INTEGERS)
    return np.asarray((integers * by_filter).astype(np.float32))


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
    gap = np.square(answers[0].astype(np.float64) - answers[1]).mean()
    scale = np.square(answers[0], dtype=np.float64).mean()
    return float(np.sqrt(gap)) / max(float(np.sqrt(scale)), 1e-12)
