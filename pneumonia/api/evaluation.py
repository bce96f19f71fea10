"""`pneumonia.evaluate`: predictions against labels, with intervals, as a report folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evaluation.analysis.evidence import (
    SAME_IMAGES,
    Provenance,
    StudyEvidence,
    compute_evidence,
    fingerprint,
    make_resampler,
    resolve_thresholds,
    versions,
)
from evaluation.hardware.footprint import read_footprint
from evaluation.report.claim import claim_document, fill_checklist
from evaluation.report.model_card import model_card
from evaluation.report.study_page import write_report
from evaluation.report.tables import write_tables
from evaluation.report.wording import count_text
from evaluation.study.box_scale import ScaleChoice, scale_boxes, tune_box_scale
from evaluation.study.cases import EvaluationCases
from evaluation.study.operating_points import document
from pneumonia.api.evaluation_inputs import (
    FrozenPoints,
    StudyOptions,
    check_scored_by,
    read_frozen,
    refuse_other_folder,
)
from pneumonia.exporting.refreeze import freeze_points
from pneumonia.runtime.atomic import write_json, write_text
from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.storage.bundle import load_bundle

TUNE: Literal["tune"] = "tune"


@dataclass(frozen=True)
class EvaluateOptions(StudyOptions):
    """How predictions are measured; the fields of `StudyOptions`, and these.

    Attributes:
        bundle: The model: its name, hash and frozen thresholds.
        freeze_into: Bundle into which the thresholds chosen on these images go.
        thresholds_at_mix: Thresholds chosen here are those that are best at `mix`, not those of
            the images as they come.
        box_scale: Factor of width and height of the boxes, `tune` to choose it here, None for the
            frozen one.
        perturbed: Name -> predictions on perturbed images, for the robustness table.
    """

    bundle: Path | None = None
    freeze_into: Path | None = None
    thresholds_at_mix: bool = False
    box_scale: float | Literal["tune"] | None = None
    perturbed: Mapping[str, Path] = field(default_factory=dict)

    @property
    def model(self) -> Path | None:
        """The bundle that made the predictions, where it is given."""
        return self.freeze_into or self.bundle


class EvaluateResult(NamedTuple):
    """Result of an evaluation.

    Attributes:
        evidence: Estimates with intervals, thresholds, subgroups, worst cases.
        box_scale: The tuned box scale; None where it was not tuned.
    """

    evidence: StudyEvidence
    box_scale: ScaleChoice | None


def evaluate(
    predictions: str | Path,
    labels: str | Path,
    out: str | Path,
    options: EvaluateOptions | None = None,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Measure predictions against labels and write a report folder.

    Writes report.html, metrics.json, tables, claim.json, model_card.md and, where thresholds were
    chosen on these images, operating_points.json.

    Args:
        predictions: predictions.csv of `pneumonia score`, or a Kaggle submission.
        labels: Official RSNA csv.
        out: Report folder.
        options: Facts about the images, thresholds, bootstrap.
        progress: Called with (done, total, note).

    Raises:
        ConfigError: Options that exclude each other.
        DataError: Labels or predictions cannot be read.
        ArtefactError: Thresholds or predictions belong to another model.
        OutputError: `out` is a bundle, a run, a dataset or the output of `score`.
    """
    options = options or EvaluateOptions()
    predictions, labels, out = Path(predictions), Path(labels), Path(out)
    refuse_other_folder(out)
    frozen = _frozen(options, predictions)
    cases = options.read_cases(predictions, labels)
    scale, choice = _box_scale(options, frozen, cases)
    cases = scale_boxes(cases, scale)
    perturbed = {
        name: scale_boxes(options.read_cases(Path(file), labels), scale)
        for name, file in options.perturbed.items()
    }
    mix = options.mix if options.thresholds_at_mix else None
    thresholds = resolve_thresholds(
        cases, frozen.points, options.threshold, frozen.platt, mix, frozen.image_set
    )
    thresholds = replace(thresholds, box_scale=scale)
    resampler = make_resampler(cases, options.design, options.draws, options.seed)
    origin = _provenance(options, predictions, labels)
    evidence = compute_evidence(
        cases, thresholds, resampler, perturbed, origin, progress, options.mix
    )
    _write(evidence, out, options)
    if options.freeze_into is not None:
        freeze_points(options.freeze_into, _chosen(evidence, options))
    return EvaluateResult(evidence, choice)


def _frozen(options: EvaluateOptions, predictions: Path) -> FrozenPoints:
    """Frozen thresholds of a file or the bundle; none when they are given or chosen here."""
    given = [name for name in ("threshold", "points") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ConfigError("A threshold and operating points exclude each other")
    if options.freeze_into is not None and (given or options.bundle is not None):
        raise ConfigError(
            "Freezing into a bundle chooses the thresholds itself",
            expected="no bundle, threshold or operating points beside it",
        )
    expected = None if options.model is None else load_bundle(str(options.model)).model_hash
    if expected is not None:
        check_scored_by(predictions, expected)
    source = options.points or (None if given else options.bundle)
    if source is None:
        return FrozenPoints()
    frozen = read_frozen(source)
    if None not in (expected, frozen.model_hash) and frozen.model_hash != expected:
        raise ArtefactError(
            "Thresholds belong to another model",
            expected=f"model_hash {str(expected)[:12]}...",
            found=f"{str(frozen.model_hash)[:12]}...",
            where=str(source),
        )
    return frozen


def _box_scale(
    options: EvaluateOptions, frozen: FrozenPoints, cases: EvaluationCases
) -> tuple[float, ScaleChoice | None]:
    """The factor given, tuned on these images, or frozen with the thresholds."""
    if options.box_scale is None:
        return frozen.box_scale, None
    if options.box_scale != TUNE:
        return float(options.box_scale), None
    if frozen.points is not None or options.threshold is not None:
        raise ConfigError(
            "Box scale is tuned on the images that choose the thresholds",
            expected="no frozen thresholds",
            fix="Tune on validation images, then give their operating points on test images",
        )
    choice = tune_box_scale(cases)
    return choice.scale, choice


def _chosen(evidence: StudyEvidence, options: EvaluateOptions) -> dict[str, Any]:
    """operating_points.json of thresholds chosen on these images, and which images these were."""
    origin = evidence.provenance
    cases, scale = evidence.study.cases, evidence.thresholds.box_scale
    content = document(cases, origin.model_hash, scale, options.mix, options.thresholds_at_mix)
    known = {name: origin.files[name] for name in ("predictions", "subset") if name in origin.files}
    content["selected_on"] |= known
    return content


def _provenance(options: EvaluateOptions, predictions: Path, labels: Path) -> Provenance:
    sources = {
        "predictions": predictions,
        "labels": labels,
        "classes": options.classes,
        "images": options.images,
        "subset": options.subset,
    }
    files = {name: fingerprint(path) for name, path in sources.items() if path is not None}
    if options.model is None:
        return Provenance(files=files, versions=versions())
    bundle = load_bundle(str(options.model))
    cost = read_footprint(options.model)
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


def _write(evidence: StudyEvidence, out: Path, options: EvaluateOptions) -> None:
    """Everything in the report folder, each file atomically."""
    write_tables(evidence, out)
    write_json(str(out / "claim.json"), claim_document(fill_checklist(evidence)))
    write_text(str(out / "model_card.md"), model_card(evidence))
    if evidence.thresholds.origin == SAME_IMAGES:
        write_json(str(out / "operating_points.json"), _chosen(evidence, options))
    write_report(out / "report.html", evidence, options.image_folder)
