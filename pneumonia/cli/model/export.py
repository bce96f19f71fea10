"""`pneumonia export`: a run as a model bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import PATH, PRESENT_FILE, collected
from pneumonia.cli.terminal import progress_bar, show_next, show_table
from pneumonia.runs.names import CHECKPOINTS

if TYPE_CHECKING:
    from pneumonia.exporting.bundle import ExportOptions


@click.command()
@click.argument("run", metavar="RUN", type=PATH)
@click.option(
    "--out",
    required=True,
    metavar="BUNDLE",
    type=PATH,
    help="Folder of the bundle; an existing bundle is replaced.",
)
@click.option(
    "--checkpoint",
    type=click.Choice(CHECKPOINTS),
    help="Checkpoint to export; the best one if there is one, else the last.",
)
@click.option(
    "--batch",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Images per run of model.onnx (TensorRT 8.2 needs it fixed).",
)
@click.option(
    "--about",
    type=PRESENT_FILE,
    help="Markdown for the head of the model card: intended use, data and its terms, limits.",
)
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Format of weights.safetensors; with fp16 all engines use the same rounded weights.",
)
@click.option(
    "--onnx/--no-onnx",
    default=True,
    help="Keep model.onnx in the bundle; without it the generated kernels or NumPy run it.",
)
@click.option(
    "--qdq",
    is_flag=True,
    help="model.onnx of a quantized run holds 8-bit codes and dequantizes them: smaller, the same "
    "function; TensorRT on a TX2 does not read it.",
)
@collected("pneumonia.exporting.bundle:ExportOptions")
def command(run: Path, out: Path, options: "ExportOptions") -> None:
    """Write a run as a model bundle: spec, weights, ONNX (opset 13), thresholds, model card."""
    from pneumonia.exporting.bundle import export

    with progress_bar("export") as progress:
        result = export(run, out, options, progress)
    totals = result.totals
    show_table(
        f"{result.spec.name} from {result.facts.checkpoint}, model {result.model_hash[:12]}",
        ("file", "bytes"),
        [(name, f"{n_bytes:,}") for name, n_bytes in result.sizes.items()],
    )
    click.echo(
        f"stored weights {totals.kept_weights:,} (of {totals.weights:,} places in its layers),"
        f" MACs {totals.kept_macs:,} (of {totals.macs:,})"
    )
    click.echo(
        f"ONNX opset {result.onnx.opset}, differs from torch by {result.onnx.relative_error:.1e}"
    )
    if result.gathered:
        click.echo(f"{len(result.gathered)} convolutions read only the channels they keep")
    if not result.facts.calibrated:
        click.echo(
            "warning: thresholds are not calibrated for these weights (0.5 is a placeholder)"
        )
    if result.spec.detect_layers():
        show_next("pneumonia score INPUT OUTPUT --bundle {}", out)
    else:
        show_next("pneumonia inspect {}", out)
