"""int8 post-training quantization: a bundle's ONNX file with quantize/dequantize pairs (QDQ).

Weights per output channel, activations per tensor from a few hundred calibration images. What runs
it is onnxruntime (or any engine that reads QDQ); speed has to be measured there, never here.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.errors import ExportError

Batch = npt.NDArray[np.float32]
Calibration = Literal["minmax", "entropy", "percentile"]
OPSET = 13  # the first with per-channel DequantizeLinear, the last TensorRT 8.2 reads well


class Int8Report(NamedTuple):
    """Result of the quantization.

    Attributes:
        n_images: Calibration images used.
        bytes_before: Of the float file.
        bytes_after: Of the int8 file.
        max_error: Largest |difference| of any output on the first calibration batch.
        relative_error: RMS difference over RMS of the float outputs, on the same batch.
    """

    n_images: int
    bytes_before: int
    bytes_after: int
    max_error: float
    relative_error: float


class _Reader:
    """Calibration data reader for onnxruntime."""

    def __init__(self, name: str, batches: Iterable[Batch]) -> None:
        self.name = name
        self.batches: Iterator[Batch] = iter(batches)
        self.first: Batch | None = None
        self.n_images = 0

    def get_next(self) -> dict[str, Batch] | None:
        """The next feed, None at the end."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        if self.first is None:
            self.first = batch
        self.n_images += len(batch)
        return {self.name: batch}


def quantize_onnx(
    model: Path, batches: Iterable[Batch], out: Path, calibration: Calibration = "minmax"
) -> Int8Report:
    """Write an int8 QDQ version of a float ONNX file.

    Args:
        model: Float ONNX file with one input (N, C, H, W).
        batches: float32 network inputs; 100 to 500 images of the training split are enough.
        out: File to write.
        calibration: How activation ranges are found.

    Raises:
        ExportError: No calibration image, or onnxruntime refuses the model.
        OutputError: `out` cannot be written.
    """
    import onnx
    import onnxruntime
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
    reader = _Reader(graph.input[0].name, batches)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                str(model), str(part), reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[calibration],
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
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
        _check_opset(onnx.load(str(part)))
        data = part.read_bytes()
    assert reader.first is not None
    write_bytes(str(out), data)
    worst, relative = _difference(onnxruntime, model, out, {reader.name: reader.first})
    return Int8Report(reader.n_images, model.stat().st_size, len(data), worst, relative)


def _check_opset(model: Any) -> None:
    versions = {imported.domain: imported.version for imported in model.opset_import}
    if versions.get("", OPSET) > OPSET:
        raise ExportError("ONNX opset is too new", expected=f"<= {OPSET}", found=str(versions[""]))


def _difference(
    onnxruntime: Any, model: Path, quantized: Path, feed: dict[str, Batch]
) -> tuple[float, float]:
    """Largest and relative RMS difference of all outputs."""
    answers = []
    for path in (model, quantized):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers.append(np.concatenate([output.ravel() for output in session.run(None, feed)]))
    gap = (answers[0] - answers[1]).astype(np.float64)
    scale = float(np.sqrt(np.mean(np.square(answers[0], dtype=np.float64))))
    return float(np.abs(gap).max()), float(np.sqrt(np.mean(np.square(gap)))) / max(scale, 1e-12)
