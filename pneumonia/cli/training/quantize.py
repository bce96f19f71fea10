"""`pneumonia quantize`: few-bit weights by training, or int8 after training."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.options import PATH, Number, collected
from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next, show_table
from pneumonia.cli.training.run_options import accept_seen, recipes_of, run_options
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.text import counted

if TYPE_CHECKING:
    from pneumonia.api.int8 import Int8Options
    from pneumonia.api.runs import RunOptions


@click.command("quantize", cls=recipes_of("quantize"))
@click.argument("run", type=PATH)
@click.option("--recipe", help="Name of a shipped recipe, or a YAML file: train onto few levels.")
@click.option("--int8", is_flag=True, help="No training: RUN is a bundle, write it in int8 (QDQ).")
@click.option("--out", required=True, type=PATH,
              help="Run folder to write; with --int8 a bundle or one .onnx file.")  # fmt: skip
@click.option("--data", type=PATH, help="Dataset folder, if not the run's.")
@accept_seen
@run_options
@click.option("--calibration", type=click.Choice(["minmax", "entropy", "percentile"]),
              default="minmax", show_default=True,
              help="With --int8: how ranges of activations are found.")  # fmt: skip
@click.option("--full-range", is_flag=True,
              help="With --int8: 8 bits a weight instead of 7; only for processors with VNNI, ARM"
              " and GPUs.")  # fmt: skip
@click.option("--tolerance", type=Number(0, 1), default=0.02, show_default=True,
              help="With --int8: largest loss of RSNA score or AP50 in validation.")  # fmt: skip
@click.option(
    "--accept-loss",
    is_flag=True,
    help="With --int8: write the model even if it lost more than --tolerance.",
)
@collected("pneumonia.api.runs:RunOptions")
@collected("pneumonia.api.int8:Int8Options", "int8_options")
def command(
    run: Path,
    recipe: str | None,
    int8: bool,
    out: Path,
    data: Path | None,
    options: "RunOptions",
    int8_options: "Int8Options",
) -> None:
    """Quantize a trained or pruned RUN (with --recipe), or a bundle (with --int8)."""
    if int8 == (recipe is not None):
        raise ConfigError("One way to quantize is needed", expected="--recipe NAME or --int8")
    if recipe is not None:
        quantize_by_recipe(run, recipe, out, data, options)
    else:
        _int8(run, out, data, replace(int8_options, threads=options.threads))


def quantize_by_recipe(
    run: Path, recipe: str, out: Path, data: Path | None, options: "RunOptions"
) -> None:
    """Train a run's weights to few levels, and show the result."""
    from pneumonia.api.runs import quantize
    from pneumonia.training.distributed import started_as_first

    first = started_as_first()
    log_to_stderr(quiet=not first)
    with progress_bar("quantize") as progress:
        result = quantize(run, recipe, out, data, options, progress if first else None)
    if not first:
        return
    bits = sorted(set(result.bits.values()))
    shared = [
        name
        for name in result.metrics_after
        if name in result.metrics_before and name != "selection_metric"
    ]
    show_table(
        f"validation, weights of {'/'.join(map(str, bits))} bits",
        ("", "before", "after"),
        [
            ("weights file, bytes", f"{result.bytes_before:,}", f"{result.bytes_after:,}"),
            *(
                (name, f"{result.metrics_before[name]:.4f}", f"{result.metrics_after[name]:.4f}")
                for name in shared
            ),
        ],
    )
    click.echo(f"run: {out}")
    show_next("pneumonia export {} --out {}-bundle", out, out)


def _int8(bundle: Path, out: Path, data: Path | None, options: "Int8Options") -> None:
    """Quantize a bundle without training, and show what it cost."""
    from pneumonia.api.int8 import fallen_metrics, quantize_int8

    if data is None:
        raise ConfigError(
            "Calibration and validation need images", expected="--data DATASET with --int8"
        )
    log_to_stderr()
    with progress_bar("int8") as progress:
        result = quantize_int8(bundle, data, out, options, progress)
    sizes, times = result.onnx_bytes, result.latency_ms
    show_table(
        f"int8 after training, {counted(result.n_images, 'calibration image')},"
        f" {counted(result.n_validated, 'validation image')}, ONNX Runtime",
        ("", "float32", "int8"),
        [
            *((name, f"{a:.4f}", f"{b:.4f}") for name, (a, b) in result.metrics.items()),
            ("ONNX file, bytes", f"{sizes[0]:,}", f"{sizes[1]:,}"),
            ("network on this machine, ms", f"{times[0]:.2f}", f"{times[1]:.2f}"),
            ("relative output error", "0", f"{result.relative_error:.4f}"),
        ],
    )
    fallen = fallen_metrics(result.metrics, options.tolerance)
    if fallen:
        click.echo(f"warning: {' and '.join(fallen)} fell by more than {options.tolerance:g}")
    if out.suffix == ".onnx":
        click.echo(f"model: {out}")
    else:
        click.echo(f"bundle: {out}")
        show_next("pneumonia score INPUT OUTPUT --bundle {}", out)
