"""`pneumonia evaluate`: measure a predictions file against labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.evaluation_inputs import (
    FILE,
    FOLDER,
    TUNE,
    Frozen,
    check_scored_by,
    draw_options,
    label_options,
    mix_option,
    parse_box_scale,
    read_cases,
    read_frozen,
    read_subset,
    split_named,
)
from pneumonia.cli.terminal import progress_bar, show_next, show_table
from pneumonia.runtime.plurals import counted

if TYPE_CHECKING:
    from evaluation.analysis.evidence import Evidence, Provenance
    from evaluation.study.cases import EvaluationCases
    from evaluation.study.class_mix import ClassMix

SHOWN = ("coco.ap50", "coco.ap_40_75", "image.auroc", "image.auprc")


@click.command()
@click.argument("predictions", type=FILE)
@click.argument("labels", type=FILE)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Report folder.")
@label_options
@click.option(
    "--operating-points",
    "points",
    type=click.Path(path_type=Path, exists=True),
    help="Frozen thresholds: operating_points.json, or a bundle.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="One threshold by hand instead.")
@click.option("--bundle", type=FOLDER, help="The model: its name, hash and frozen thresholds.")
@click.option(
    "--freeze-into",
    type=FOLDER,
    metavar="BUNDLE",
    help="Choose thresholds and calibration on these images and put them into this bundle.",
)
@click.option(
    "--box-scale",
    callback=parse_box_scale,
    metavar="FACTOR|tune",
    help="Resize boxes about their centres first; `tune` on validation images. Off by default.",
)
@click.option("--image-folder", type=FOLDER, help="Radiographs, to show the worst cases.")
@click.option(
    "--perturbed",
    multiple=True,
    metavar="NAME=FILE",
    help="Predictions on perturbed images, for the robustness table; repeatable.",
)
@click.option(
    "--write-perturbed",
    type=click.Path(path_type=Path),
    help="Only write perturbed copies of --image-folder here, one folder each.",
)
@mix_option
@draw_options
def command(**options: Any) -> None:
    """Measure PREDICTIONS (predictions.csv or a Kaggle submission) against LABELS (RSNA csv).

    Writes report.html, metrics.json, tables, operating_points.json, claim.json and model_card.md.
    Without frozen thresholds they are chosen on these images, which suits validation images only.
    """
    if options["write_perturbed"] is not None:
        _write_perturbed(options)
        return
    from dataclasses import replace

    from evaluation.analysis.evidence import gather, make_resampler, settle_thresholds
    from evaluation.study.box_scale import scale_boxes

    frozen = _frozen(options)
    cases = _cases(options, options["predictions"])
    scale = _box_scale(options, frozen, cases)
    cases = scale_boxes(cases, scale)
    perturbed = {
        name: scale_boxes(_cases(options, file), scale)
        for name, file in map(split_named, options["perturbed"])
    }
    thresholds = settle_thresholds(cases, frozen.points, options["threshold"], frozen.platt)
    thresholds = replace(thresholds, box_scale=scale)
    resampler = make_resampler(cases, options["design"], options["draws"], options["seed"])
    with progress_bar("evaluating") as progress:
        evidence = gather(
            cases,
            thresholds,
            resampler,
            perturbed,
            _provenance(options),
            progress,
            options["mix"],
        )
        _write(options, evidence)
    _show(evidence, options["out"])
    if options["freeze_into"] is not None:
        _freeze(evidence, options["freeze_into"], options["mix"])
    elif thresholds.origin == "frozen":
        show_next(f"open {options['out'] / 'report.html'}")
    else:
        file = options["out"] / "operating_points.json"
        show_next(f"pneumonia evaluate TEST_PREDICTIONS LABELS --operating-points {file} --out DIR")


def _cases(options: dict[str, Any], predictions: Path) -> "EvaluationCases":
    return read_cases(
        predictions,
        options["labels"],
        options["frame"],
        [path for path in (options["classes"], options["images"]) if path is not None],
        options["subset"],
        options["only_scored"],
    )


def _model(options: dict[str, Any]) -> Path | None:
    """The bundle whose predictions these are, when it was given."""
    model: Path | None = options["freeze_into"] or options["bundle"]
    return model


def _frozen(options: dict[str, Any]) -> Frozen:
    """What a file or the bundle freezes; nothing when thresholds are given by hand or chosen."""
    from pneumonia.runtime.bundle import load_bundle
    from pneumonia.runtime.errors import ArtefactError, ConfigError

    given = [name for name in ("threshold", "points") if options[name] is not None]
    if len(given) > 1:
        raise ConfigError("Options --threshold and --operating-points exclude each other")
    if options["freeze_into"] is not None and (given or options["bundle"] is not None):
        raise ConfigError(
            "Option --freeze-into chooses the thresholds itself",
            expected="no --bundle, --threshold or --operating-points beside it",
        )
    model = _model(options)
    expected = None if model is None else load_bundle(str(model)).model_hash
    if expected is not None:
        check_scored_by(options["predictions"], expected)
    source = options["points"] or (None if given else options["bundle"])
    if source is None:
        return Frozen()
    frozen = read_frozen(source)
    if None not in (expected, frozen.model_hash) and frozen.model_hash != expected:
        raise ArtefactError(
            "Thresholds belong to another model",
            expected=f"model_hash {str(expected)[:12]}...",
            found=f"{str(frozen.model_hash)[:12]}...",
            where=str(source),
        )
    return frozen


def _box_scale(options: dict[str, Any], frozen: Frozen, cases: "EvaluationCases") -> float:
    """The factor given, tuned on these images, or frozen with the thresholds."""
    from evaluation.study.box_scale import tune_box_scale
    from pneumonia.runtime.errors import ConfigError

    given = options["box_scale"]
    if given != TUNE:
        return frozen.box_scale if given is None else float(given)
    if frozen.points is not None or options["threshold"] is not None:
        raise ConfigError(
            "Box scale is tuned on the images that choose the thresholds",
            expected="no frozen thresholds",
            where="--box-scale tune",
            fix="Tune on validation images, then give --operating-points on test images",
        )
    best = tune_box_scale(cases)
    click.echo(
        f"box scale {best.scale:g}: RSNA score {best.rsna_score:.3f} on these images, "
        f"{best.unscaled:.3f} without"
    )
    return best.scale


def _chosen(evidence: "Evidence", mix: "ClassMix") -> dict[str, Any]:
    """operating_points.json of thresholds chosen on these images, and which images these were."""
    from evaluation.study.operating_points import document

    origin = evidence.provenance
    cases, scale = evidence.study.cases, evidence.thresholds.box_scale
    content = document(cases, origin.model_hash, scale, mix)
    known = {name: origin.files[name] for name in ("predictions", "subset") if name in origin.files}
    content["selected_on"] |= known
    return content


def _freeze(evidence: "Evidence", bundle: Path, mix: "ClassMix") -> None:
    """Put the thresholds just chosen into the bundle."""
    from pneumonia.exporting.refreeze import freeze_points

    freeze_points(bundle, _chosen(evidence, mix))
    click.echo(f"frozen into {bundle}: {', '.join(evidence.thresholds.points)}")
    show_next(f"pneumonia score INPUT OUTPUT --bundle {bundle}")


def _provenance(options: dict[str, Any]) -> "Provenance":
    from evaluation.analysis.evidence import Provenance, fingerprint, versions

    files = {
        name: fingerprint(options[name])
        for name in ("predictions", "labels", "classes", "images", "subset")
        if options[name] is not None
    }
    model = _model(options)
    if model is None:
        return Provenance(files=files, versions=versions())
    from evaluation.hardware.footprint import read_footprint
    from evaluation.report.wording import count_text
    from pneumonia.runtime.bundle import load_bundle

    bundle = load_bundle(str(model))
    cost = read_footprint(model)
    entry = bundle.spec.input
    run = bundle.manifest.get("run", {})
    facts = {
        "network": f"{bundle.spec.name}, {len(bundle.spec.layers)} layers, "
        f"outputs {', '.join(bundle.spec.outputs)}",
        "preprocessing": f"letterboxed to {entry.width} x {entry.height} px, {entry.channels} "
        f"channel(s), (x / 255 - {entry.mean:g}) / {entry.std:g}",
        "size": f"{count_text(cost.parameters)} stored parameters, "
        f"{count_text(cost.file_bytes, 'B')} of weights",
        "cost": f"{count_text(cost.macs)} multiply-accumulates per image",
    }
    if any(run.values()):
        facts["training"] = ", ".join(f"{key} {value}" for key, value in run.items() if value)
    return Provenance(bundle.model_name, bundle.model_hash, files, versions(), facts)


def _write(options: dict[str, Any], evidence: "Evidence") -> None:
    """Everything under the output folder, each file atomically."""
    from evaluation.analysis.evidence import SAME_IMAGES
    from evaluation.report.claim import claim_document, fill_checklist
    from evaluation.report.model_card import model_card
    from evaluation.report.study_page import write_report
    from evaluation.report.tables import write_tables
    from pneumonia.runtime.atomic import write_json, write_text

    out: Path = options["out"]
    write_tables(evidence, out)
    write_json(str(out / "claim.json"), claim_document(fill_checklist(evidence)))
    write_text(str(out / "model_card.md"), model_card(evidence))
    if evidence.thresholds.origin == SAME_IMAGES:
        write_json(str(out / "operating_points.json"), _chosen(evidence, options["mix"]))
    write_report(out / "report.html", evidence, options["image_folder"])


def _show(evidence: "Evidence", out: Path) -> None:
    from evaluation.report import wording

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
    show_table(f"{coverage.n_evaluated} images", header, rows)
    if evidence.at_mix is None:
        click.echo(f"holds for this set alone: {evidence.why_no_mix}")
    if coverage.n_missing or coverage.n_unlabelled:
        click.echo(
            f"left out: {counted(coverage.n_missing, 'labelled image')} without a score, "
            f"{counted(coverage.n_unlabelled, 'scored image')} without a label"
        )
    click.echo(f"thresholds: {evidence.thresholds.origin}")
    click.echo(f"report: {out / 'report.html'}")


def _write_perturbed(options: dict[str, Any]) -> None:
    """Write perturbed copies of the labelled images, to be scored and given to --perturbed."""
    from evaluation.analysis.robustness import write_perturbed
    from evaluation.study.labels import read_labels
    from evaluation.study.perturb import standard_sweep
    from pneumonia.runtime.errors import ConfigError

    if options["image_folder"] is None:
        raise ConfigError("Option --write-perturbed needs --image-folder")
    labels = read_labels(options["labels"])
    ids = read_subset(options["subset"]) if options["subset"] else list(labels.ids)
    names = standard_sweep()
    out = options["write_perturbed"]
    with progress_bar("perturbing") as progress:
        count = write_perturbed(ids, options["image_folder"], out, names, progress)
    click.echo(
        f"{counted(count, 'image')} in each of {counted(len(names), 'folder')} "
        f"under {out}: {', '.join(names)}"
    )
    show_next(f"pneumonia score {out / names[0]} {out / names[0]}-scores --bundle BUNDLE")
