"""`pneumonia evaluate`: measure a predictions file against labels."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.evaluation.options import (
    draw_options,
    label_options,
    mix_option,
    parse_box_scale,
    parse_named_files,
    threshold_options,
)
from pneumonia.cli.options import PATH, PRESENT_FILE, PRESENT_FOLDER, collected
from pneumonia.cli.terminal import progress_bar, show_next, show_table
from pneumonia.runtime.text import counted

if TYPE_CHECKING:
    from evaluation.analysis.evidence import StudyEvidence
    from pneumonia.api.evaluation import EvaluateOptions

SHOWN = ("coco.ap50", "coco.ap_40_75", "image.auroc", "image.auprc")


@click.command()
@click.argument("predictions", type=PRESENT_FILE)
@click.argument("labels", type=PRESENT_FILE)
@click.option("--out", required=True, type=PATH, help="Report folder.")
@label_options
@threshold_options(
    "Frozen thresholds: operating_points.json, or a bundle.", "One threshold given by hand instead."
)
@click.option(
    "--bundle", type=PRESENT_FOLDER, help="The model: its name, hash and frozen thresholds."
)
@click.option(
    "--freeze-into",
    type=PRESENT_FOLDER,
    metavar="BUNDLE",
    help="Choose thresholds and calibration on these images and put them into this bundle.",
)
@click.option(
    "--thresholds-at-mix",
    is_flag=True,
    help="Choose thresholds that are best at --mix instead of for the images as they come.",
)
@click.option(
    "--box-scale",
    callback=parse_box_scale,
    metavar="FACTOR|tune",
    help="Resize boxes about their centres first; `tune` on validation images. Off by default.",
)
@click.option("--image-folder", type=PRESENT_FOLDER, help="Radiographs, to show the worst cases.")
@click.option(
    "--perturbed",
    multiple=True,
    callback=parse_named_files,
    metavar="NAME=FILE",
    help="Predictions on perturbed images, for the robustness table; repeatable.",
)
@click.option(
    "--write-perturbed",
    type=PATH,
    help="Only write perturbed copies of --image-folder here, one folder each.",
)
@mix_option
@draw_options
@collected("pneumonia.api.evaluation:EvaluateOptions")
def command(
    predictions: Path,
    labels: Path,
    out: Path,
    write_perturbed: Path | None,
    options: "EvaluateOptions",
) -> None:
    """Measure PREDICTIONS (predictions.csv or a Kaggle submission) against LABELS (RSNA csv).

    Writes report.html, metrics.json, tables, operating_points.json, claim.json and model_card.md.
    Without frozen thresholds they are chosen on these images, which is only valid
    on validation images.
    """
    from evaluation.analysis.evidence import SAME_IMAGES
    from pneumonia.api.evaluation import evaluate

    if write_perturbed is not None:
        _write_perturbed(labels, write_perturbed, options)
        return
    with progress_bar("evaluating") as progress:
        evidence, choice = evaluate(predictions, labels, out, options, progress)
    if choice is not None:
        click.echo(
            f"box scale {choice.scale:g}: RSNA score {choice.rsna_score:.3f} on these images, "
            f"{choice.unscaled:.3f} without"
        )
    _show(evidence, out)
    if options.freeze_into is not None:
        bundle = options.freeze_into
        click.echo(f"frozen into {bundle}: {', '.join(evidence.thresholds.points)}")
        show_next("pneumonia score INPUT OUTPUT --bundle {}", bundle)
    elif evidence.thresholds.origin != SAME_IMAGES:
        show_next("open {}", out / "report.html")
    else:
        file = out / "operating_points.json"
        show_next(
            "pneumonia evaluate TEST_PREDICTIONS LABELS --operating-points {} --out DIR", file
        )


def _show(evidence: "StudyEvidence", out: Path) -> None:
    from evaluation.report import wording
    from evaluation.report.first_page import nothing_found

    point = evidence.thresholds.primary
    coverage = evidence.study.cases.coverage
    metrics = [f"rsna.{point}", *SHOWN]
    metrics += [f"{point}.{name}" for name in ("sensitivity", "specificity", "ppv")]
    columns = [evidence.estimates]
    header = ["metric", "value", "95 % interval"]
    if evidence.at_mix is not None:
        columns.append(evidence.at_mix.estimates)
        header += [f"at the mix of {evidence.at_mix.mix.name}", "95 % interval"]
    rows = []
    for metric in metrics:
        share = wording.is_share(metric)
        row = [wording.name_of(metric)]
        for estimates in columns:
            item = estimates[metric]
            row += [wording.value_text(item, share), wording.interval_text(item, share)]
        rows.append(row)
    show_table(counted(coverage.n_evaluated, "image"), header, rows)
    if evidence.at_mix is None:
        click.echo(f"holds for this set alone: {evidence.why_no_mix}")
    if coverage.n_missing or coverage.n_unlabelled:
        click.echo(
            f"left out: {counted(coverage.n_missing, 'labelled image')} without a score, "
            f"{counted(coverage.n_unlabelled, 'scored image')} without a label"
        )
    click.echo(f"thresholds: {evidence.thresholds.origin}")
    warning = nothing_found(evidence)
    if warning is not None:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"report: {out / 'report.html'}")


def _write_perturbed(labels: Path, out: Path, options: "EvaluateOptions") -> None:
    """Write perturbed copies of the labelled images, to be scored and given to --perturbed."""
    from evaluation.analysis.robustness import write_perturbed
    from evaluation.study.labels import read_labels
    from evaluation.study.perturb import standard_sweep
    from pneumonia.api.evaluation_inputs import read_subset
    from pneumonia.runtime.errors import ConfigError

    if options.image_folder is None:
        raise ConfigError("Option --write-perturbed needs --image-folder")
    ids = read_subset(options.subset) if options.subset else list(read_labels(labels).ids)
    names = standard_sweep()
    with progress_bar("perturbing") as progress:
        count = write_perturbed(ids, options.image_folder, out, names, progress)
    click.echo(
        f"{counted(count, 'image')} in each of {counted(len(names), 'folder')} "
        f"under {out}: {', '.join(names)}"
    )
    show_next("pneumonia score {} {}-scores --bundle BUNDLE", out / names[0], out / names[0])
