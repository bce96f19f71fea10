"""Export a run folder as a complete model bundle (docs/architecture.md), or write nothing."""

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.exporting.model_card import model_card
from pneumonia.exporting.onnx_file import OnnxReport, check_batch, check_onnx
from pneumonia.exporting.onnx_graph import CODED_OPS, emit_onnx
from pneumonia.exporting.onnx_nodes import GatheredInput
from pneumonia.exporting.run_facts import RunFacts, read_run_facts
from pneumonia.network.accounting import NetworkTotals, account
from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.files import load_model, quantized_layers, save_model
from pneumonia.network.image_head import remove_class_outputs
from pneumonia.runs.checksums import check_files
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.atomic import new_folder, write_bytes, write_json, write_text
from pneumonia.runtime.errors import (
    DISCLAIMER,
    ArtefactError,
    ConfigError,
    ExportError,
)
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.output_folders import require_own_or_empty
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.runtime.storage.bundle import (
    INT8,
    MANIFEST,
    MODEL_CARD,
    ONNX,
    OPERATING_POINTS,
    SCHEMA,
    SPEC,
    WEIGHTS,
    file_record,
    load_bundle,
    model_hash,
)

PACKAGES = ("numpy", "onnx", "onnxruntime", "pneumonia", "torch")
STEPS = ("read", "fold", "emit", "check", "verify", "done")
HASH_DIGITS = 8  # of the model hash that the model's name shows


class ExportResult(NamedTuple):
    """A written bundle.

    Attributes:
        out: Its folder.
        spec: The network as bundled, batch norm folded.
        model_hash: Its identity.
        totals: Its cost.
        sizes: File -> bytes.
        onnx: Result of the checks of the ONNX file.
        gathered: Convolutions that read only part of their channels in ONNX.
        facts: Facts recorded in the run folder.
    """

    out: Path
    spec: NetworkSpec
    model_hash: str
    totals: NetworkTotals
    sizes: dict[str, int]
    onnx: OnnxReport
    gathered: tuple[GatheredInput, ...]
    facts: RunFacts


@dataclass(frozen=True)
class ExportOptions:
    """How a run becomes a bundle.

    Attributes:
        checkpoint: `best` or `last`; None takes the best one, else the last.
        batch: Fixed batch of the ONNX graph.
        about: Markdown for the head of the model card: intended use, data and its terms, limits.
        weights: `fp32`, or `fp16`: every number rounded to half precision, so that all engines
            compute with the same rounded weights (in float32) and the file is half as large.
        onnx: Whether model.onnx stays in the bundle; it is made and checked in any case.
        qdq: Whether model.onnx holds the weights of quantized layers as 8-bit codes that it
            dequantizes: smaller, the same function, not for TensorRT 8.2 on a TX2.
    """

    checkpoint: str | None = None
    batch: int = 1
    about: str | Path | None = None
    weights: Literal["fp32", "fp16"] = "fp32"
    onnx: bool = True
    qdq: bool = False


def export(
    run: str | Path,
    out: str | Path,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write a run as a model bundle: network, weights, ONNX (opset 13), thresholds, model card.

    The same run gives the same bytes.

    Args:
        run: Run folder, one of its checkpoints, or a float bundle to write in another form.
        out: Folder of the bundle; a bundle that is there is replaced once the new one is whole.
        options: Checkpoint, batch, precision of the weights, text of the model card.
        progress: Called with (done, total, note).

    Raises:
        ArtefactError: No checkpoint, a damaged one, or an int8 bundle.
        ConfigError: An unknown checkpoint or precision.
        ExportError: Weights that are not finite or too large for half precision, a layer without
            ONNX form, numbers that differ.
        OutputError: `out` is something else than a bundle, or cannot be written.
    """
    run, out = Path(run), Path(out)

    def step(number: int) -> None:
        report_progress(progress, number, len(STEPS) - 1, STEPS[number])

    options = options or ExportOptions()
    batch = options.batch
    check_batch(batch)
    _check_words(options)
    check_replaceable(out)
    step(0)
    folder = RunFolder(run).checkpoint(options.checkpoint)
    _check_source(folder)
    spec, tensors = remove_class_outputs(*load_model(folder))
    check_finite(tensors)
    facts = read_run_facts(folder)._replace(about=read_about(options.about))
    step(1)
    folded_spec, folded = fold_batch_norm(spec, tensors)
    # Folding gives every filter a scale of its own: another format is smallest then.
    folded_spec = smallest_storage(folded_spec, folded, quantized_layers(spec))
    half = options.weights == "fp16"
    if half:
        spec, tensors = folded_spec, rounded_to_half(folded, quantized_layers(folded_spec))
        folded = tensors
    with new_folder(str(out)) as part_name:
        part = Path(part_name)
        folded_spec = save_model(part, folded_spec, folded, half)
        identity = model_hash(str(part / SPEC), str(part / WEIGHTS))
        step(2)
        coded = coded_layers(folded_spec) if options.qdq else set()
        graph = emit_onnx(folded_spec, {k: v.numpy() for k, v in folded.items()}, batch, coded)
        write_bytes(str(part / ONNX), graph.model.SerializeToString())
        step(3)
        report = check_onnx(part / ONNX, spec, tensors, batch, CODED_OPS if coded else ())
        totals = account(folded_spec, folded).totals
        if not options.onnx:
            (part / ONNX).unlink()
        names = [name for name in (SPEC, WEIGHTS, ONNX) if (part / name).is_file()]
        write_json(
            str(part / OPERATING_POINTS),
            {**facts.chosen, "model_hash": identity, "points": facts.points},
        )
        sizes = {name: (part / name).stat().st_size for name in names}
        card = model_card(folded_spec, identity, facts, totals, sizes, report, graph.gathered)
        write_text(str(part / MODEL_CARD), card)
        write_json(
            str(part / MANIFEST), _manifest(part, folded_spec, identity, facts, report, batch)
        )
        step(4)
        load_bundle(part_name)
        sizes = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
    step(5)
    return ExportResult(out, folded_spec, identity, totals, sizes, report, graph.gathered, facts)


def coded_layers(spec: NetworkSpec) -> set[str]:
    """Layers that are stored as codes; raises ExportError when there is none."""
    found = quantized_layers(spec)
    if not found:
        raise ExportError(
            "No weights are quantized",
            expected="layers stored as codes of a few bits",
            where=f"network {spec.name!r}",
            fix="Leave out qdq, or quantize the run (`pneumonia quantize`)",
        )
    return found


def rounded_to_half(tensors: Mapping[str, Tensor], exact: Collection[str]) -> dict[str, Tensor]:
    """Numbers rounded to the nearest float16, as float32, but for the layers in `exact`.

    Raises:
        ExportError: A number is larger than 65,504.
    """
    rounded = {
        name: tensor if name.rpartition(".")[0] in exact else tensor.half().float()
        for name, tensor in tensors.items()
    }
    for name, tensor in rounded.items():
        if not bool(tensor.isfinite().all()):
            raise ExportError(
                "Weights do not fit half precision",
                expected="at most 65,504 in size",
                found=f"{float(tensors[name].abs().max()):.4g}",
                where=f"tensor {name!r}",
                fix="Export with weights fp32",
            )
    return rounded


def _check_words(options: ExportOptions) -> None:
    for name, known in (("checkpoint", (None, "best", "last")), ("weights", ("fp32", "fp16"))):
        if getattr(options, name) not in known:
            raise ConfigError(
                f"Option {name!r} of export is not known",
                expected=" or ".join(str(word) for word in known),
                found=repr(getattr(options, name)),
            )


def read_about(path: str | Path | None) -> str:
    """The text of `export`'s `about`.

    Raises:
        ArtefactError: It cannot be read as text.
    """
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(
            "Text for the model card cannot be read",
            expected="a Markdown file in UTF-8",
            found=type(error).__name__,
            where=str(path),
        ) from None


def _check_source(folder: Path) -> None:
    """Compare every file of a checkpoint or bundle with its checksum; refuse an int8 bundle."""
    check_files(folder)  # thresholds and metrics as well
    if (folder / MANIFEST).is_file() and load_bundle(str(folder)).arithmetic == INT8:
        raise ArtefactError(
            "Bundle is int8; its float weights cannot be written again",
            expected="a run, a checkpoint or a float bundle",
            where=str(folder),
            fix="Export the run that it was made from",
        )


def check_replaceable(out: Path) -> None:
    """Refuse to replace anything but a bundle or an empty folder; raises OutputError."""
    require_own_or_empty(str(out), "a bundle", MANIFEST)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Every number of a network; raises ExportError naming the first bad tensor."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            layer, _, part = name.rpartition(".")
            raise ExportError(
                "Weights are not finite",
                expected="numbers",
                found="NaN or infinity",
                where=f"layer {layer!r}, {part}",
                fix="Export an earlier checkpoint or train again",
            )


def _manifest(
    part: Path,
    spec: NetworkSpec,
    identity: str,
    facts: RunFacts,
    report: OnnxReport,
    batch: int,
) -> dict[str, Any]:
    files = {
        name: file_record(str(part / name))
        for name in (SPEC, WEIGHTS, ONNX, OPERATING_POINTS, MODEL_CARD)
        if (part / name).is_file()
    }
    return {
        "schema": SCHEMA,
        "model_name": f"{spec.name}-{identity[:HASH_DIGITS]}",
        "model_hash": identity,
        "files": files,
        "preprocess": spec.input._asdict(),
        "onnx": {
            "opset": report.opset,
            "ir_version": report.ir_version,
            "batch": batch,
            "relative_error": report.relative_error,
        },
        "run": {
            "kind": facts.kind,
            "checkpoint": facts.checkpoint,
            "epoch": facts.epoch,
            "seed": facts.seed,
            "dataset_fingerprint": facts.dataset_fingerprint,
            "trained_weights": facts.trained_weights,
            "training": facts.training,
        },
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in PACKAGES},
        },
        "disclaimer": DISCLAIMER,
    }
