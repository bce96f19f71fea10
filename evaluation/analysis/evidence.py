"""All results of one study: everything a report shows, computed once."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from evaluation.analysis.catalogue import MatchedStudy, all_statistics, match_study
from evaluation.analysis.failures import ImageErrors, WorstCases, find_errors, worst_cases
from evaluation.analysis.mix import MixEstimates, estimate_at_mix
from evaluation.analysis.robustness import RobustnessRow, robustness_table
from evaluation.analysis.subgroups import Subgroup, SubgroupResult, evaluate_groups, find_groups
from evaluation.metrics.bootstrap import Estimate, Resampler, estimate_all
from evaluation.metrics.calibration import ReliabilityBin, reliability
from evaluation.study.cases import EvaluationCases
from evaluation.study.class_mix import RSNA_MIX, ClassMix, why_no_mix
from evaluation.study.operating_points import RULES, OperatingPoint, choose, image_set_digest
from pneumonia.runtime.errors import DataError, os_errors_as
from pneumonia.runtime.progress import Progress

PACKAGES = ("numpy", "matplotlib")
COHORT, CASE_CONTROL = "cohort", "case-control"
DESIGNS = (COHORT, CASE_CONTROL)
DESIGN_TEXTS = {
    COHORT: "cohort, the number of positives varies from draw to draw.",
    CASE_CONTROL: "case-control, every draw holds as many positive patients as the study.",
}
FROZEN = "frozen"
SAME_IMAGES = "chosen on these same images"
FROZEN_HERE = "frozen, but chosen on these same images"


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from."""

    # model_name, model_hash: the model; None = not available
    model_name: str | None = None
    model_hash: str | None = None
    # input, for example `labels` -> file name and SHA-256
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    # further description of the model, for example `network` -> text
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyThresholds:
    """Operating points and how they were chosen."""

    points: Mapping[str, OperatingPoint]  # name -> point
    # `frozen`, `given by hand`, or one of the two that are optimistic: `chosen on these same
    # images` and `frozen, but chosen on these same images`
    origin: str
    # slope and intercept of the frozen Platt scaling, None = not available
    platt: tuple[float, float] | None = None
    # how the cases' boxes were resized before they were judged; 1 = as predicted
    box_scale: float = 1.0

    @property
    def is_optimistic(self) -> bool:
        """Whether the thresholds were chosen on the evaluated images."""
        return self.origin in (SAME_IMAGES, FROZEN_HERE)

    @property
    def primary(self) -> str:
        """The operating point of subgroups and failures: `kaggle` if present, else the first."""
        return "kaggle" if "kaggle" in self.points else next(iter(self.points))


@dataclass(frozen=True)
class StudyEvidence:
    """All results of a study."""

    study: MatchedStudy  # cases and matching
    thresholds: StudyThresholds  # operating points
    estimates: Mapping[str, Estimate]  # metric -> value with interval
    # results at a stated mix of classes; None when a class is not known or absent
    at_mix: MixEstimates | None
    why_no_mix: str  # reason why `at_mix` is None; empty otherwise
    groups: Sequence[SubgroupResult]  # results by subgroup at the primary point
    left_out: Mapping[str, int]  # facet -> number of images without a usable value
    errors: Sequence[ImageErrors]  # error types by image at the primary point
    worst: WorstCases  # the cases to look at first
    bins: Sequence[ReliabilityBin]  # bins of the reliability plot
    # rows of the robustness table; empty = no perturbed predictions given
    robustness: Sequence[RobustnessRow]
    # draws, seed: of the bootstrap
    draws: int
    seed: int
    design: str  # `cohort` or `case-control`: whether the draws vary the prevalence
    provenance: Provenance  # where the numbers come from

    @property
    def design_text(self) -> str:
        """The study design as a phrase for the report."""
        return DESIGN_TEXTS[self.design]


def make_resampler(cases: EvaluationCases, design: str, draws: int, seed: int) -> Resampler:
    """Draws of patients by the study's design, one of `DESIGNS`."""
    one = np.zeros(len(cases), dtype=np.intp)
    return Resampler(cases.patients, cases.positive if design == CASE_CONTROL else one, draws, seed)


def design_of(resampler: Resampler) -> str:
    """The design whose draws a resampler makes."""
    return CASE_CONTROL if len(np.unique(resampler.strata)) > 1 else COHORT


def resolve_thresholds(
    cases: EvaluationCases,
    points: Mapping[str, OperatingPoint] | None = None,
    threshold: float | None = None,
    platt: tuple[float, float] | None = None,
    mix: ClassMix | None = None,
    image_set: str | None = None,
) -> StudyThresholds:
    """The operating points of an evaluation.

    Args:
        cases: The images; thresholds are chosen on them if neither argument below gives any.
        points: Frozen points.
        threshold: One threshold given by hand.
        platt: Slope and intercept frozen with the points.
        mix: Mix of classes at which thresholds are chosen; None = as the images come.
        image_set: Digest of the images on which the frozen points were chosen, if recorded.

    Raises:
        DataError: No threshold is given and none can be chosen on these images.
    """
    if threshold is not None:
        return StudyThresholds(
            {"given": OperatingPoint(threshold, "given by hand")}, "given by hand"
        )
    if points:
        order = [name for name in RULES if name in points]
        order += [name for name in points if name not in RULES]
        origin = FROZEN_HERE if image_set == image_set_digest(cases.ids) else FROZEN
        return StudyThresholds({name: points[name] for name in order}, origin, platt)
    chosen = choose(cases, mix or RSNA_MIX, at_mix=mix is not None)
    if not chosen:
        raise DataError(
            "No operating point can be chosen",
            expected="boxes, and images with and without opacity",
            found=f"{cases.coverage.n_boxes} boxes, {int(cases.positive.sum())} positive images",
            fix="Give --threshold",
        )
    return StudyThresholds(chosen, SAME_IMAGES)


def compute_evidence(
    cases: EvaluationCases,
    thresholds: StudyThresholds,
    resampler: Resampler,
    perturbed: Mapping[str, EvaluationCases] | None = None,
    provenance: Provenance | None = None,
    progress: Progress | None = None,
    mix: ClassMix = RSNA_MIX,
) -> StudyEvidence:
    """Compute all results of a study.

    Args:
        perturbed: Perturbation -> cases scored on the perturbed images, truth boxes not yet moved.
        mix: Mix of classes to which results are also weighted.
    """
    levels = {name: point.threshold for name, point in thresholds.points.items()}
    study = match_study(cases, levels, thresholds.platt)
    point = thresholds.primary
    groups, left_out = find_groups(cases)
    obstacle = why_no_mix(cases, mix)
    return StudyEvidence(
        study=study,
        thresholds=thresholds,
        estimates=estimate_all(all_statistics(study), resampler, progress),
        at_mix=None
        if obstacle
        else estimate_at_mix(study, mix, resampler.draws, resampler.seed, progress),
        why_no_mix=obstacle,
        groups=_groups(study, point, groups, resampler, progress),
        left_out=left_out,
        errors=find_errors(cases, levels[point]),
        worst=worst_cases(cases, levels[point]),
        bins=reliability(cases.positive, cases.image_score),
        robustness=robustness_table(study, point, perturbed, resampler) if perturbed else (),
        draws=resampler.draws,
        seed=resampler.seed,
        design=design_of(resampler),
        provenance=provenance or Provenance(versions=versions()),
    )


def _groups(
    study: MatchedStudy,
    point: str,
    groups: Sequence[Subgroup],
    resampler: Resampler,
    progress: Progress | None,
) -> list[SubgroupResult]:
    return evaluate_groups(study, point, groups, resampler, progress) if groups else []


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    known = {"python": platform.python_version()}
    for package in ("pneumonia", *PACKAGES):
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            known[package] = "not available"
    return known


def fingerprint(path: str | Path) -> str:
    """Name and SHA-256 of an input file, as text for the report.

    Raises:
        DataError: It cannot be read.
    """
    with os_errors_as(DataError, "File cannot be read", path):
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f"{Path(path).name}, sha256 {digest}"
