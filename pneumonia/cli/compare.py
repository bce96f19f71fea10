"""`pneumonia compare`: prediction files of several models on the same images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pneumonia.cli.evaluation_inputs import (
    FILE,
    FOLDER,
    Frozen,
    check_scored_by,
    draw_options,
    label_options,
    mix_option,
    read_cases,
    read_frozen,
)
from pneumonia.cli.terminal import progress_bar, show_next, show_table

if TYPE_CHECKING:
    from evaluation.analysis.catalogue import MatchedStudy
    from evaluation.analysis.evidence import Thresholds
    from evaluation.analysis.paired import ModelComparison
    from evaluation.hardware.footprint import Footprint
    from evaluation.metrics.bootstrap import Resampler
    from evaluation.report.comparison_page import CompareReport
    from evaluation.report.page import ExtraSection
    from evaluation.study.cases import EvaluationCases

LATENCY_ROUNDS = 15


class Entry(NamedTuple):
    """One model: `[NAME=]PREDICTIONS[,BUNDLE]`.

    Attributes:
        name: On the page.
        predictions: Its predictions file.
        model: Its bundle or run folder, None when not given.
    """

    name: str
    predictions: Path
    model: Path | None


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]PREDICTIONS[,BUNDLE] ...")
@click.option("--labels", required=True, type=FILE, help="RSNA csv.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Report folder.")
@label_options
@click.option(
    "--operating-points",
    "points",
    type=click.Path(path_type=Path, exists=True),
    help="Frozen thresholds for models without their own bundle.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="One threshold for all models.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.02,
    show_default=True,
    help="Non-inferiority margin of the RSNA score.",
)
@click.option(
    "--margin-auroc",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.02,
    show_default=True,
    help="The same for the AUROC.",
)
@click.option("--image-folder", type=FOLDER, help="Radiographs, to show changed cases.")
@click.option(
    "--figure",
    "figures",
    multiple=True,
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
def command(models: Sequence[str], **options: Any) -> None:
    """Compare models on the same labels; the first is the reference.

    Each model is its predictions file, with a name before `=` and its bundle or run folder after a
    comma: the bundle gives thresholds, size and cost. Writes compare.html, compare.json and csv.
    """
    from evaluation.analysis.evidence import make_resampler
    from evaluation.report.comparison_page import CompareReport, write_compare_report
    from evaluation.study.class_mix import why_no_mix

    entries = parse_entries(models)
    studies, thresholds = _studies(options, entries)
    first = next(iter(studies.values())).cases
    point = _common_point(thresholds)
    resampler = make_resampler(first, options["design"], options["draws"], options["seed"])
    footprints = _footprints(entries, options["latency"])
    obstacle = why_no_mix(first, options["mix"])
    comparisons, at_mix = _compare(studies, thresholds, point, resampler, options, not obstacle)
    report = CompareReport(
        studies,
        comparisons,
        footprints,
        thresholds,
        point,
        options["draws"],
        options["seed"],
        at_mix=at_mix,
        mix=options["mix"],
        why_no_mix=obstacle,
        extra=_hardware(entries, comparisons, point, options) + _extra(options["figures"]),
        image_folder=options["image_folder"],
    )
    out: Path = options["out"]
    write_compare_report(out / "compare.html", report)
    _write_tables(report, options)
    _show(report, out)
    show_next(f"open {out / 'compare.html'}")


def _hardware(
    entries: Sequence[Entry],
    comparisons: "Sequence[ModelComparison]",
    point: str,
    options: Mapping[str, Any],
) -> "list[ExtraSection]":
    """Sections of --storage and --compute."""
    from pneumonia.cli.compare_hardware import Wanted, hardware_sections

    wanted = Wanted(options["storage"], options["compute"])
    folders = {entry.name: entry.model for entry in entries}
    return hardware_sections(folders, comparisons, f"rsna.{point}", wanted)


def _extra(figures: Sequence[str]) -> "list[ExtraSection]":
    """The pictures from outside as one section; raises ConfigError for what is not a PNG."""
    from evaluation.report.page import ExtraFigure, ExtraSection
    from pneumonia.runtime.errors import ConfigError

    found = []
    for text in figures:
        path, _, caption = text.partition("=")
        try:
            data = Path(path).read_bytes()
        except OSError:
            data = b""
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ConfigError("Figure is not a PNG file", found=repr(path), where="--figure")
        found.append(ExtraFigure(data, caption or Path(path).stem))
    return [ExtraSection("Curves and overlays", found)] if found else []


def parse_entries(models: Sequence[str]) -> list[Entry]:
    """Parse `[NAME=]PREDICTIONS[,BUNDLE]`; a model without a name is called after its file.

    Raises:
        ConfigError: Fewer than two, a path that does not exist, or a name used twice.
    """
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
        entries.append(Entry(named or path.stem, path, Path(model) if model else None))
    names = [entry.name for entry in entries]
    if len(entries) < 2 or len(set(names)) != len(names):
        raise ConfigError(
            "Models cannot be told apart",
            expected="two or more, each with its own NAME=",
            found=", ".join(names),
        )
    return entries


def _studies(
    options: Mapping[str, Any], entries: Sequence[Entry]
) -> "tuple[dict[str, MatchedStudy], dict[str, Thresholds]]":
    from evaluation.analysis.catalogue import open_study
    from evaluation.analysis.paired import check_same_images

    facts = [path for path in (options["classes"], options["images"]) if path is not None]
    cases = {
        entry.name: read_cases(
            entry.predictions,
            options["labels"],
            options["frame"],
            facts,
            options["subset"],
            options["only_scored"],
        )
        for entry in entries
    }
    check_same_images(list(cases.values()))
    judged = {entry.name: _judged(options, entry, cases[entry.name]) for entry in entries}
    thresholds = {name: item for name, (_, item) in judged.items()}
    studies = {}
    for name, (item, _) in judged.items():
        levels = {key: point.threshold for key, point in thresholds[name].points.items()}
        studies[name] = open_study(item, levels)
    return studies, thresholds


def _judged(
    options: Mapping[str, Any], entry: Entry, cases: "EvaluationCases"
) -> "tuple[EvaluationCases, Thresholds]":
    """Thresholds by hand, the model's own, given for all, or chosen here; boxes scaled as frozen.

    Raises:
        ArtefactError: The model's bundle did not make these predictions.
    """
    from dataclasses import replace

    from evaluation.analysis.evidence import settle_thresholds
    from evaluation.study.box_scale import scale_boxes
    from evaluation.study.operating_points import points_file
    from pneumonia.runtime.bundle import load_bundle

    if entry.model is not None and (entry.model / "manifest.json").is_file():
        check_scored_by(entry.predictions, load_bundle(str(entry.model)).model_hash)
    own = None if entry.model is None else points_file(entry.model)
    source = None if options["threshold"] is not None else own or options["points"]
    frozen = Frozen() if source is None else read_frozen(source)
    cases = scale_boxes(cases, frozen.box_scale)
    thresholds = settle_thresholds(cases, frozen.points, options["threshold"])
    return cases, replace(thresholds, box_scale=frozen.box_scale)


def _common_point(thresholds: "Mapping[str, Thresholds]") -> str:
    """The operating point the page is about: the reference's, when every model has it.

    Raises:
        ConfigError: The models have no point in common.
    """
    from pneumonia.runtime.errors import ConfigError

    first, *others = thresholds.values()
    common = [name for name in first.points if all(name in other.points for other in others)]
    if not common:
        raise ConfigError(
            "Models have no operating point in common",
            found="; ".join(f"{n}: {', '.join(t.points)}" for n, t in thresholds.items()),
            fix="Give --threshold, or bundles with the same operating points",
        )
    return first.primary if first.primary in common else common[0]


def _compare(
    studies: "Mapping[str, MatchedStudy]",
    thresholds: "Mapping[str, Thresholds]",
    point: str,
    resampler: "Resampler",
    options: Mapping[str, Any],
    with_mix: bool,
) -> "tuple[list[ModelComparison], list[ModelComparison]]":
    """Every model against the first: as found, with groups, and at the mix of classes."""
    from dataclasses import replace

    from evaluation.analysis.evidence import SAME_IMAGES
    from evaluation.analysis.mix import compare_at_mix
    from evaluation.analysis.paired import compare_groups, compare_studies
    from evaluation.analysis.subgroups import find_groups

    margins = {"rsna": options["margin"], "image.auroc": options["margin_auroc"]}
    tuned = {name: item.origin == SAME_IMAGES for name, item in thresholds.items()}
    groups, _ = find_groups(next(iter(studies.values())).cases)
    at_mix: list[ModelComparison] = []
    with progress_bar("comparing") as progress:
        comparisons = compare_studies(studies, resampler, margins, progress, tuned)
        if with_mix:
            at_mix = compare_at_mix(studies, options["mix"], resampler, margins, progress, tuned)
        deltas = compare_groups(studies, point, groups, resampler, progress) if groups else {}
    found = [replace(item, groups=tuple(deltas.get(item.model, ()))) for item in comparisons]
    return found, at_mix


def _footprints(entries: Sequence[Entry], latency: bool) -> "dict[str, Footprint]":
    """Cost of every model that was given, with the latency of the bundles measured in turn."""
    from dataclasses import replace

    from evaluation.hardware.footprint import read_footprint

    given = {entry.name: entry.model for entry in entries if entry.model is not None}
    known = {name: read_footprint(model) for name, model in given.items()}
    bundles = {name: model for name, model in given.items() if (model / "model.onnx").is_file()}
    if latency and bundles:
        note = (
            "Latency: median of onnxruntime on one thread of this machine, models timed in turn;"
            " speed on the target device has to be measured there."
        )
        for name, value in _latency(bundles).items():
            known[name] = replace(known[name], latency_ms=value, note=note)
    return known


def _latency(folders: Mapping[str, Path]) -> dict[str, float]:
    """Median milliseconds of one image."""
    import numpy as np

    from pneumonia.runtime.bundle import load_bundle
    from pneumonia.runtime.engines import open_engine
    from pneumonia.runtime.latency import interleaved_latency

    bundles = {name: load_bundle(str(folder)) for name, folder in folders.items()}
    engines = {name: open_engine(item, "onnxruntime", threads=1) for name, item in bundles.items()}
    batches = {}
    for name, item in bundles.items():
        entry = item.spec.input
        batches[name] = np.full((1, entry.channels, entry.height, entry.width), 0.5, np.float32)
    found = interleaved_latency(engines, batches, LATENCY_ROUNDS)
    return {name: latency.median_ms for name, latency in found.items()}


def _write_tables(report: "CompareReport", options: Mapping[str, Any]) -> None:
    from dataclasses import asdict

    from evaluation.report.tables import compare_document, write_csv
    from pneumonia.runtime.atomic import write_json

    facts = {
        "draws": options["draws"],
        "design": options["design"],
        "mix": None if report.why_no_mix else options["mix"].text,
        "margins": {"rsna": options["margin"], "image.auroc": options["margin_auroc"]},
        "point": report.point,
        "thresholds": {
            name: {
                "origin": item.origin,
                "points": {key: point.threshold for key, point in item.points.items()},
            }
            for name, item in report.thresholds.items()
        },
        "cost": {name: asdict(item) for name, item in report.footprints.items()},
    }
    out: Path = options["out"]
    write_json(
        str(out / "compare.json"),
        compare_document(report.comparisons, facts, report.seed, report.at_mix),
    )
    rows = [
        (
            item.model,
            item.reference,
            metric,
            row.reference.value,
            row.value.value,
            row.delta.value,
            row.delta.ci_low,
            row.delta.ci_high,
            row.margin,
            row.verdict,
        )
        for item in report.comparisons
        for metric, row in item.differences.items()
    ]
    header = ("model", "reference", "metric", "reference_value", "value", "delta", "ci_low")
    write_csv(out / "compare.csv", (*header, "ci_high", "margin", "verdict"), rows)


def _show(report: "CompareReport", out: Path) -> None:
    """The main differences as found and at the mix, and what limits them."""
    from evaluation.analysis.evidence import SAME_IMAGES

    for item in report.comparisons:
        _show_differences(item, report.point, f"{item.model} against {item.reference}")
    mix = "" if report.mix is None else report.mix.text
    for item in report.at_mix:
        title = f"{item.model} against {item.reference}, at the mix of {mix}"
        _show_differences(item, report.point, title)
    if report.why_no_mix:
        click.echo(f"holds for this set alone: {report.why_no_mix}")
    tuned = [name for name, item in report.thresholds.items() if item.origin == SAME_IMAGES]
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
