"""`pneumonia compare`: prediction files of several models on the same images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.evaluation.options import (
    draw_options,
    label_options,
    mix_option,
    threshold_options,
)
from pneumonia.cli.options import PATH, PRESENT_FILE, PRESENT_FOLDER, Number, collected
from pneumonia.cli.terminal import progress_bar, show_next, show_table

if TYPE_CHECKING:
    from evaluation.analysis.paired import ModelComparison
    from evaluation.report.comparison_page import CompareReport
    from pneumonia.api.comparison import ComparedModel, CompareOptions


def _figures(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> list[tuple[Path, str]]:
    """`PNG[=CAPTION]` of each -> (file, caption); the caption is the file's stem by default."""
    parts = [value.partition("=") for value in values]
    return [(Path(path), caption or Path(path).stem) for path, _, caption in parts]


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]PREDICTIONS[,BUNDLE] ...")
@click.option("--labels", required=True, type=PRESENT_FILE, help="RSNA csv.")
@click.option("--out", required=True, type=PATH, help="Report folder.")
@label_options
@threshold_options(
    "Frozen thresholds for models without their own bundle.", "One threshold for all models."
)
@click.option(
    "--margin",
    type=Number(0, 1, min_open=True),
    default=0.02,
    show_default=True,
    help="Non-inferiority margin of the RSNA score.",
)
@click.option(
    "--margin-auroc",
    type=Number(0, 1, min_open=True),
    default=0.02,
    show_default=True,
    help="The same for the AUROC.",
)
@click.option("--image-folder", type=PRESENT_FOLDER, help="Radiographs, to show changed cases.")
@click.option(
    "--figure",
    "figures",
    multiple=True,
    callback=_figures,
    metavar="PNG[=CAPTION]",
    help="Picture at the end of the page, for example training curves; repeatable.",
)
@click.option(
    "--latency/--no-latency",
    default=True,
    show_default=True,
    help="Time the bundles in turn on this machine (onnxruntime, one thread).",
)
@click.option("--storage", is_flag=True, help="Add what the weights take, with all indices.")
@click.option(
    "--compute",
    is_flag=True,
    help="Add measured speed-ups (generated kernels where the bundles have them) and the PPR.",
)
@mix_option
@draw_options
@collected("pneumonia.api.comparison:CompareOptions")
def command(models: Sequence[str], labels: Path, out: Path, options: "CompareOptions") -> None:
    """Compare models on the same labels; the first is the reference.

    Each model is its predictions file, with a name before `=` and its bundle or run folder after a
    comma: the bundle gives thresholds, size and cost. Writes compare.html, compare.json and csv.
    """
    from pneumonia.api.comparison import compare

    entries = parse_models(models)
    with progress_bar("comparing") as progress:
        report = compare(entries, labels, out, options, progress)
    _show(report, out)
    show_next("open {}", out / "compare.html")


def parse_models(models: Sequence[str]) -> "list[ComparedModel]":
    """Parse `[NAME=]PREDICTIONS[,BUNDLE]`; a model without a name is called after its file.

    Raises:
        ConfigError: Fewer than two, a path that does not exist, or a name used twice.
    """
    from pneumonia.api.comparison import ComparedModel, check_models
    from pneumonia.runtime.errors import ConfigError

    entries = []
    for text in models:
        name, equals, rest = text.partition("=")
        if not equals:
            name, rest = "", text
        file, _, model = rest.partition(",")
        path = Path(file)
        if not path.is_file() or (model and not Path(model).is_dir()):
            raise ConfigError(
                "Model is not readable",
                expected="[NAME=]PREDICTIONS[,BUNDLE] with existing paths",
                found=repr(text),
            )
        named = name or (path.parent.name if path.name == "predictions.csv" else path.stem)
        entries.append(ComparedModel(named or path.stem, path, Path(model) if model else None))
    check_models(entries)
    return entries


def _show(report: "CompareReport", out: Path) -> None:
    """The main differences as found and at the mix, and what limits them."""
    for item in report.comparisons:
        _show_differences(item, report.point, f"{item.model} against {item.reference}")
    mix = "" if report.mix is None else report.mix.text
    for item in report.at_mix:
        title = f"{item.model} against {item.reference}, at the mix of {mix}"
        _show_differences(item, report.point, title)
    if report.why_no_mix:
        click.echo(f"holds for this set alone: {report.why_no_mix}")
    tuned = [name for name, item in report.thresholds.items() if item.is_optimistic]
    if tuned:
        click.echo(f"optimistic: thresholds of {', '.join(tuned)} were chosen on these images")
    click.echo(f"report: {out / 'compare.html'}")


def _show_differences(item: "ModelComparison", point: str, title: str) -> None:
    from evaluation.report import wording

    rows = []
    for metric in (f"rsna.{point}", "coco.ap50", "image.auroc", f"{point}.sensitivity",
                   f"{point}.specificity"):  # fmt: skip
        row, share = item.differences[metric], wording.is_share(metric)
        rows.append(
            (
                wording.name_of(metric),
                wording.value_text(row.reference, share),
                wording.value_text(row.value, share),
                wording.value_text(row.delta, share, True),
                wording.interval_text(row.delta, share, True),
                row.verdict,
            )
        )
    header = ("metric", item.reference, item.model, "difference", "95 % interval", "verdict")
    show_table(title, header, rows)
