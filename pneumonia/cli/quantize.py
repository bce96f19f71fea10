"""`pneumonia quantize`: few-bit weights by training, or int8 after training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pneumonia.cli.terminal import log_to_stderr, progress_bar, show_next, show_table
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.plurals import counted

CALIBRATION_IMAGES = 200  # ranges settle long before


@click.command("quantize")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--recipe", help="Name of a shipped recipe, or a YAML file: train onto few levels.")
@click.option("--int8", is_flag=True, help="No training: RUN is a bundle, write int8 ONNX (QDQ).")
@click.option("--out", required=True, type=click.Path(path_type=Path),
              help="Run folder to write; with --int8 an .onnx file.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder, if not the run's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the recipe.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted quantization.")
def command(
    run: Path,
    recipe: str | None,
    int8: bool,
    out: Path,
    data: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
) -> None:
    """Quantize a trained or pruned RUN (with --recipe), or a bundle (with --int8)."""
    if int8 == (recipe is not None):
        raise ConfigError("One way to quantize is needed", expected="--recipe NAME or --int8")
    if int8:
        _int8(run, out, data)
    else:
        assert recipe is not None
        quantize_by_recipe(run, recipe, out, data, overrides, resume)


def quantize_by_recipe(
    run: Path, recipe: str, out: Path, data: Path | None, overrides: tuple[str, ...], resume: bool
) -> None:
    """Train a run's weights to few levels, and show the result."""
    from pneumonia.api.runs import RunOptions, quantize
    from pneumonia.training.distributed import started_as_first

    first = started_as_first()
    log_to_stderr(quiet=not first)
    with progress_bar("quantize") as progress:
        options = RunOptions(overrides, resume, progress if first else None)
        result = quantize(run, recipe, out, data, options)
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
    show_next(f"pneumonia export {out} --out {out}-bundle")


def _int8(bundle: Path, out: Path, data: Path | None) -> None:
    from data_prep.dataset.reader import open_dataset
    from pneumonia.exporting.int8 import quantize_onnx
    from pneumonia.runtime.model.bundle import load_bundle

    if data is None:
        raise ConfigError("Calibration needs images", expected="--data DATASET with --int8")
    opened = load_bundle(str(bundle))
    dataset = open_dataset(data)
    items = dataset.select("train")[:CALIBRATION_IMAGES]
    report = quantize_onnx(Path(opened.onnx_path), _batches(dataset, items, opened.spec), out)
    show_table(
        f"int8 after training, {counted(report.n_images, 'calibration image')}",
        ("", "float", "int8"),
        [
            ("ONNX file, bytes", f"{report.bytes_before:,}", f"{report.bytes_after:,}"),
            ("relative output error", "0", f"{report.relative_error:.4f}"),
            ("largest output error", "0", f"{report.max_error:.4f}"),
        ],
    )
    click.echo(f"model: {out}")


def _batches(dataset: Any, items: list[int], spec: Any) -> Iterator[Any]:
    from pneumonia.runtime.image.preprocess import network_input

    for item in items:
        values, _ = network_input(dataset.pixels(item), spec.input)
        yield values[None]
