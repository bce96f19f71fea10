"""int8 of a bundle without training, measured on the user's own data before it is written."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset.reader import Dataset, open_dataset
from pneumonia.exporting.bundle import check_replaceable
from pneumonia.exporting.int8 import (
    Calibration,
    float_onnx,
    quantize_onnx,
    refuse_int8,
    write_int8_bundle,
)
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.engines.comparison import interleaved_latency
from pneumonia.runtime.errors import ConfigError, ExportError, OutputError
from pneumonia.runtime.image.preprocess import network_input
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.runtime.storage.bundle import ONNX, Bundle, load_bundle
from pneumonia.training.config import DataConfig, ValidationConfig
from pneumonia.training.detector.task import labelled_items
from pneumonia.training.detector.validation import DetectionValidation, predict_with

__all__ = ["Int8Options", "Int8Result", "quantize_int8"]

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 200  # ranges settle long before
GUARDED = ("rsna", "ap50")  # metrics that must not fall
TIMED_RUNS = 15  # of each model, alternating


@dataclass(frozen=True)
class Int8Options:
    """How a bundle is quantized to int8.

    Attributes:
        calibration: How ranges of activations are found: `minmax`, `entropy` or `percentile`.
        full_range: Use all 8 bits of a weight: safe on processors with VNNI, on ARM and GPUs;
            x86 processors without VNNI saturate then.
        tolerance: Largest loss of RSNA score or AP50 on the validation images.
        accept_loss: Write the model whatever it lost.
        threads: Threads of ONNX Runtime while latency is measured; None = its default.
    """

    calibration: Calibration = "minmax"
    full_range: bool = False
    tolerance: float = 0.02
    accept_loss: bool = False
    threads: int | None = None


class Int8Result(NamedTuple):
    """What quantization to int8 brought and cost.

    Attributes:
        out: Bundle folder or .onnx file.
        n_images: Calibration images.
        n_validated: Validation images.
        onnx_bytes: Of model.onnx, (float32, int8).
        metrics: Validation metric -> (float32, int8), by ONNX Runtime.
        relative_error: RMS difference of the outputs over their RMS, on a calibration image.
        latency_ms: Median of one run of the network here, (float32, int8), runs alternating.
    """

    out: Path
    n_images: int
    n_validated: int
    onnx_bytes: tuple[int, int]
    metrics: dict[str, tuple[float, float]]
    relative_error: float
    latency_ms: tuple[float, float]


def quantize_int8(
    bundle: str | Path,
    data: str | Path,
    out: str | Path,
    options: Int8Options | None = None,
    progress: Progress | None = None,
) -> Int8Result:
    """Quantize a bundle to int8 without training, and measure what it costs on a dataset.

    Ranges come from images of the training split, metrics and new operating points from the
    labelled images of the validation split.

    Args:
        bundle: Float32 bundle.
        data: Dataset folder.
        out: Bundle folder to write, or a file ending in `.onnx` for model.onnx alone.
        options: Calibration, tolerance.
        progress: Called with (done, total, note).

    Raises:
        ConfigError, ArtefactError, DataError, TrainingError: Inputs do not fit.
        ExportError: No calibration image, or a metric fell by more than the tolerance; then
            nothing is written.
        OutputError: `out` lies in the bundle or cannot be written.
    """
    options = options or Int8Options()
    if not 0 <= options.tolerance <= 1:
        raise ConfigError("Tolerance is a share", "0 to 1", f"{options.tolerance:g}", "tolerance")
    source, target = load_bundle(str(bundle)), Path(out)
    refuse_int8(source)
    alone = target.suffix == ".onnx"
    if not alone:
        check_replaceable(target)
    if target.resolve().is_relative_to(Path(source.path).resolve()):
        raise OutputError(
            "Output lies in the bundle that is quantized",
            expected="another folder: its float weights are needed to quantize again",
            where=str(target),
        )
    dataset = open_dataset(Path(data))
    _warn_of_another_dataset(source, dataset)
    items = labelled_items(dataset, "val", DataConfig())
    validation = DetectionValidation(dataset, items, ValidationConfig())
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        model = float_onnx(source, scratch)
        inputs = _calibration_inputs(dataset, source.spec, progress)
        made = quantize_onnx(model, inputs, options.calibration, options.full_range)
        trial = write_int8_bundle(source, made, scratch / "bundle")
        engines = {
            "float32": _engine(source, model, scratch, options.threads),
            "int8": open_engine(trial, "onnxruntime", options.threads),
        }
        first, second = (_validate_engine(validation, e, progress) for e in engines.values())
        metrics = {name: (first[name], second[name]) for name in ("rsna", "ap50", "auroc")}
        before_ms, after_ms = interleaved_latency(engines, TIMED_RUNS).values()
        for engine in engines.values():
            engine.close()
        sizes = model.stat().st_size, len(made.data)
    if not options.accept_loss:
        _refuse_loss(metrics, options.tolerance, source)
    if alone:
        write_bytes(str(target), made.data)
    else:
        write_int8_bundle(source, made, target, validation.points(), metrics)
    return Int8Result(
        target, made.n_images, len(items), sizes, metrics, made.relative_error,
        (before_ms, after_ms),
    )  # fmt: skip


def fallen_metrics(metrics: Mapping[str, tuple[float, float]], tolerance: float) -> list[str]:
    """Names of the guarded metrics that fell by more than the tolerance."""
    return [name for name in GUARDED if metrics[name][0] - metrics[name][1] > tolerance]


def _refuse_loss(
    metrics: Mapping[str, tuple[float, float]], tolerance: float, bundle: Bundle
) -> None:
    for name in fallen_metrics(metrics, tolerance):
        before, after = metrics[name]
        raise ExportError(
            "int8 loses too much on the validation images; nothing was written",
            expected=f"{name} >= {before - tolerance:.4f} ({before:.4f} less {tolerance:g})",
            found=f"{after:.4f}",
            where=bundle.path,
            fix="Calibrate with percentile, quantize with training (recipe quant-8), "
            "or accept the loss",
        )


def _warn_of_another_dataset(bundle: Bundle, dataset: Dataset) -> None:
    run = bundle.manifest.get("run")
    fingerprint = run.get("dataset_fingerprint") if isinstance(run, dict) else None
    if fingerprint != dataset.fingerprint:
        log.warning(
            "%s is not the dataset that the bundle was trained on: its validation images may have "
            "been training images, and the metrics then too good",
            dataset.folder,
        )


def _calibration_inputs(
    dataset: Dataset, spec: NetworkSpec, progress: Progress | None
) -> Iterator[NDArray[np.float32]]:
    items = dataset.select("train")
    step = max(1, len(items) // CALIBRATION_IMAGES)  # evenly over the split, not its first images
    chosen = items[::step][:CALIBRATION_IMAGES]
    for number, item in enumerate(chosen, 1):
        report_progress(progress, number, len(chosen), "calibrate")
        yield network_input(dataset.pixels(item), spec.input)[0]


def _engine(bundle: Bundle, model: Path, scratch: Path, threads: int | None) -> Engine:
    """ONNX Runtime on the float32 file, which the bundle need not have."""
    if ONNX in bundle.manifest["files"]:
        return open_engine(bundle, "onnxruntime", threads)
    files = {**bundle.manifest["files"], ONNX: {}}
    manifest = {**bundle.manifest, "files": files}
    return open_engine(
        bundle._replace(path=str(scratch), manifest=manifest), "onnxruntime", threads
    )


def _validate_engine(
    validation: DetectionValidation, engine: Engine, progress: Progress | None
) -> dict[str, float]:
    done = 0

    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        nonlocal done
        done += len(batch)
        report_progress(progress, done, len(validation.items), "validate")
        return engine.run(batch)

    found = predict_with(
        run, engine.spec, validation.dataset, validation.items, validation.config.batch_size
    )
    return validation.judge(found)
