"""`pneumonia.compare`: prediction files of several models on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from evaluation.analysis.catalogue import MatchedStudy, match_study
from evaluation.analysis.evidence import (
    StudyThresholds,
    make_resampler,
    resolve_thresholds,
)
from evaluation.analysis.mix import compare_at_mix
from evaluation.analysis.paired import (
    ModelComparison,
    check_same_images,
    compare_groups,
    compare_studies,
)
from evaluation.analysis.subgroups import find_groups
from evaluation.hardware.footprint import Footprint, read_footprint
from evaluation.metrics.bootstrap import Resampler
from evaluation.report.comparison_page import CompareReport, write_compare_report
from evaluation.report.page import ExtraFigure, ExtraSection
from evaluation.report.tables import compare_document, write_csv
from evaluation.study.box_scale import scale_boxes
from evaluation.study.cases import EvaluationCases
from evaluation.study.class_mix import why_no_mix
from evaluation.study.operating_points import points_file
from pneumonia.api.compare_hardware import LATENCY_ROUNDS, HardwareSections, hardware_sections
from pneumonia.api.evaluation_inputs import (
    FrozenPoints,
    StudyOptions,
    check_scored_by,
    read_frozen,
    refuse_other_folder,
)
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.engines.comparison import interleaved_latency
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.storage.bundle import load_bundle


class ComparedModel(NamedTuple):
    """One model of a comparison.

    Attributes:
        name: Its name on the page.
        predictions: Its predictions file.
        model: Its bundle or run folder; None where there is none.
    """

    name: str
    predictions: Path
    model: Path | None = None


@dataclass(frozen=True)
class CompareOptions(StudyOptions):
    """How models are compared; the fields of `StudyOptions`, and these.

    Attributes:
        margin: Non-inferiority margin of the RSNA score.
        margin_auroc: The same for the AUROC.
        figures: PNG file -> caption, shown at the end of the page.
        latency: Time the bundles in turn on this machine (onnxruntime, one thread).
        storage: Add the storage of the weights, with all indices.
        compute: Add measured speed-ups and the PPR.
    """

    margin: float = 0.02
    margin_auroc: float = 0.02
    figures: Sequence[tuple[Path, str]] = ()
    latency: bool = True
    storage: bool = False
    compute: bool = False

    @property
    def margins(self) -> dict[str, float]:
        """Metric -> non-inferiority margin."""
        return {"rsna": self.margin, "image.auroc": self.margin_auroc}


def compare(
    models: Sequence[ComparedModel],
    labels: str | Path,
    out: str | Path,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
) -> CompareReport:
    """Compare models on the same labels; the first is the reference.

    Writes compare.html, compare.json and compare.csv.

    Args:
        models: Two or more, with different names.
        labels: Official RSNA csv.
        out: Report folder.
        options: Facts about the images, thresholds, margins, sections, bootstrap.
        progress: Called with (done, total, note).

    Raises:
        ConfigError: Fewer than two models, one name twice, or no common operating point.
        DataError: Labels or predictions cannot be read, or are of different images.
        ArtefactError: A bundle did not make its predictions.
        OutputError: `out` is a bundle, a run, a dataset or the output of `score`.
    """
    options = options or CompareOptions()
    out = Path(out)
    refuse_other_folder(out)
    check_models(models)
    studies, thresholds = _studies(options, models, Path(labels))
    first = next(iter(studies.values())).cases
    point = _common_point(thresholds)
    resampler = make_resampler(first, options.design, options.draws, options.seed)
    footprints = _footprints(models, options.latency)
    obstacle = why_no_mix(first, options.mix)
    tuned = _tuned(thresholds)
    comparisons = compare_studies(studies, resampler, options.margins, progress, tuned)
    at_mix = (
        []
        if obstacle
        else compare_at_mix(studies, options.mix, resampler, options.margins, progress, tuned)
    )
    comparisons = _with_groups(comparisons, studies, point, resampler, progress)
    folders = {entry.name: entry.model for entry in models}
    wanted = HardwareSections(options.storage, options.compute)
    hardware = hardware_sections(folders, comparisons, f"rsna.{point}", wanted)
    report = CompareReport(
        studies,
        comparisons,
        footprints,
        thresholds,
        point,
        options.draws,
        options.seed,
        at_mix=at_mix,
        mix=options.mix,
        why_no_mix=obstacle,
        extra=hardware + _pictures_section(options.figures),
        image_folder=options.image_folder,
    )
    write_compare_report(out / "compare.html", report)
    _write_tables(report, out, options)
    return report


def check_models(models: Sequence[ComparedModel]) -> None:
    """Raise ConfigError for fewer than two models, or a name that is used twice."""
    names = [entry.name for entry in models]
    if len(models) < 2 or len(set(names)) != len(names):
        raise ConfigError(
            "Comparison needs models with different names",
            expected="two or more, each with its own name",
            found=", ".join(names),
        )


def _pictures_section(figures: Sequence[tuple[Path, str]]) -> list[ExtraSection]:
    """The given pictures as one section; raises ConfigError for a file that is not a PNG."""
    found = []
    for path, caption in figures:
        try:
            data = Path(path).read_bytes()
        except OSError:
            data = b""
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ConfigError("Figure is not a PNG file", found=repr(str(path)))
        found.append(ExtraFigure(data, caption))
    return [ExtraSection("Curves and overlays", found)] if found else []


def _studies(
    options: CompareOptions, models: Sequence[ComparedModel], labels: Path
) -> tuple[dict[str, MatchedStudy], dict[str, StudyThresholds]]:
    cases = {entry.name: options.read_cases(entry.predictions, labels) for entry in models}
    check_same_images(list(cases.values()))
    judged = {
        entry.name: _cases_and_thresholds(options, entry, cases[entry.name]) for entry in models
    }
    thresholds = {name: item for name, (_, item) in judged.items()}
    studies = {}
    for name, (item, _) in judged.items():
        levels = {key: point.threshold for key, point in thresholds[name].points.items()}
        studies[name] = match_study(item, levels)
    return studies, thresholds


def _cases_and_thresholds(
    options: CompareOptions, entry: ComparedModel, cases: EvaluationCases
) -> tuple[EvaluationCases, StudyThresholds]:
    """Cases with boxes scaled as frozen, and thresholds: given, the model's own, or chosen here.

    Raises:
        ArtefactError: The model's bundle did not make these predictions.
    """
    if entry.model is not None and (entry.model / "manifest.json").is_file():
        check_scored_by(entry.predictions, load_bundle(str(entry.model)).model_hash)
    own = None if entry.model is None else points_file(entry.model)
    source = None if options.threshold is not None else own or options.points
    frozen = FrozenPoints() if source is None else read_frozen(source)
    cases = scale_boxes(cases, frozen.box_scale)
    thresholds = resolve_thresholds(
        cases, frozen.points, options.threshold, image_set=frozen.image_set
    )
    return cases, replace(thresholds, box_scale=frozen.box_scale)


def _common_point(thresholds: Mapping[str, StudyThresholds]) -> str:
    """The operating point the page is about: the reference's, when every model has it.

    Raises:
        ConfigError: The models have no point in common.
    """
    first, *others = thresholds.values()
    common = [name for name in first.points if all(name in other.points for other in others)]
    if not common:
        raise ConfigError(
            "Models have no operating point in common",
            found="; ".join(f"{n}: {', '.join(t.points)}" for n, t in thresholds.items()),
            fix="Give a threshold, or bundles with the same operating points",
        )
    return first.primary if first.primary in common else common[0]


def _tuned(thresholds: Mapping[str, StudyThresholds]) -> dict[str, bool]:
    """Model -> whether its thresholds were chosen on these images."""
    return {name: item.is_optimistic for name, item in thresholds.items()}


def _with_groups(
    comparisons: Sequence[ModelComparison],
    studies: Mapping[str, MatchedStudy],
    point: str,
    resampler: Resampler,
    progress: Progress | None,
) -> list[ModelComparison]:
    """The comparisons with the differences in every subgroup."""
    groups, _ = find_groups(next(iter(studies.values())).cases)
    deltas = compare_groups(studies, point, groups, resampler, progress) if groups else {}
    return [replace(item, groups=tuple(deltas.get(item.model, ()))) for item in comparisons]


def _footprints(models: Sequence[ComparedModel], latency: bool) -> dict[str, Footprint]:
    """Cost of every model that was given, with the latency of the bundles measured in turn."""
    given = {entry.name: entry.model for entry in models if entry.model is not None}
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
    bundles = {name: load_bundle(str(folder)) for name, folder in folders.items()}
    engines = {name: open_engine(item, "onnxruntime", threads=1) for name, item in bundles.items()}
    return interleaved_latency(engines, LATENCY_ROUNDS)


def _write_tables(report: CompareReport, out: Path, options: CompareOptions) -> None:
    facts = {
        "draws": options.draws,
        "design": options.design,
        "mix": None if report.why_no_mix else options.mix.text,
        "margins": options.margins,
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
