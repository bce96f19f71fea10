"""First page as text: study population, ground truth, performance and limits of use.

Four questions answered from the results of one study; the report and the model card begin with
them.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.analysis.evidence import StudyEvidence
from evaluation.metrics.bootstrap import Estimate
from evaluation.report import wording
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL

NOT_FOR = (
    "Research use only, not a medical device: not for diagnosis, triage or any decision about a"
    " patient; not for lateral views, CT, children, or images masked to the lungs."
)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question of the first page, and its answer as sentences."""

    question: str
    answer: str


@dataclass(frozen=True)
class ClassMixRow:
    """One metric as found in the study and at the mix, as text."""

    name: str
    as_found: str
    as_found_interval: str
    at_mix: str
    at_mix_interval: str


def first_page(evidence: StudyEvidence) -> list[AnsweredQuestion]:
    """The four questions and their answers."""
    return [
        AnsweredQuestion("On whom?", _on_whom(evidence)),
        AnsweredQuestion("Against what truth?", _truth(evidence)),
        AnsweredQuestion("How well, at the threshold that ships?", _how_well(evidence)),
        AnsweredQuestion("What must it not be used for?", _not_for(evidence)),
    ]


def nothing_found(evidence: StudyEvidence) -> str | None:
    """A warning that no image reaches the main threshold; None if one does, or none should."""
    cases, point = evidence.study.cases, evidence.thresholds.primary
    level = evidence.thresholds.points[point].threshold
    if not cases.positive.any() or (cases.image_score >= level).any():
        return None
    highest = float(cases.image_score.max())
    if highest <= 0:
        return (
            "The model finds nothing: the predictions hold no box. If it was compressed, too much"
            " was removed at once; else train it longer"
        )
    return (
        f"The model finds nothing at the operating point {wording.point_name(point)}: its"
        f" threshold is {level:.3f}, the highest score of these images {highest:.3f}. Choose"
        " thresholds for this very model on validation images (evaluate --freeze-into); if the"
        " scores stay low, it was compressed too far or trained too short"
    )


def mix_rows(evidence: StudyEvidence) -> list[ClassMixRow]:
    """Metrics that depend on the mix of classes, as found and at the mix; empty without a mix."""
    if evidence.at_mix is None:
        return []
    point = evidence.thresholds.primary
    metrics = (
        f"{point}.specificity",
        f"{point}.ppv",
        f"{point}.npv",
        "image.auroc",
        "image.auprc",
        f"rsna.{point}",
        "coco.ap50",
        f"{point}.false_boxes_per_image",
    )
    rows = []
    for metric in metrics:
        share = wording.is_share(metric)
        cells = []
        for item in (evidence.estimates[metric], evidence.at_mix.estimates[metric]):
            cells += [wording.value_text(item, share), wording.interval_text(item, share)]
        name = wording.name_of(metric).replace(" in this study", "")
        name = name.removesuffix(f" at {wording.point_name(point)}")
        rows.append(ClassMixRow(name, *cells))
    return rows


def _on_whom(evidence: StudyEvidence) -> str:
    cases = evidence.study.cases
    coverage, n = cases.coverage, len(cases)
    whose = (
        f"{n:,} images of {coverage.n_patients:,} patients"
        if coverage.patients_known
        else f"{n:,} images (patients not known)"
    )
    parts = [f"{int(cases.positive.sum()):,} with an opacity"]
    if cases.classes_known:
        for name, text in ((NOT_NORMAL, "not normal but without an opacity"), (NORMAL, "normal")):
            parts.append(f"{int(cases.negatives_of_class(name).sum()):,} {text}")
        text = f"{whose}: {', '.join(parts)}."
        if evidence.at_mix is not None:
            text += f" Also weighted to {evidence.at_mix.mix.text}."
        return text
    return (
        f"{whose}: {parts[0]}. The classes of the other {n - int(cases.positive.sum()):,} are not"
        " known, nor therefore how difficult they are. Specificity, predictive values, AUROC and"
        " RSNA score are valid for this set only."
    )


def _truth(evidence: StudyEvidence) -> str:
    return (
        "One set of boxes drawn by readers (the labels file): an image with a box is positive."
        " Agreement between readers was not measured here."
    )


def _of_hundred(item: Estimate, invert: bool = False) -> str:
    """`82 of 100 (78 to 86)`."""
    value, low, high = item.value, item.ci_low, item.ci_high
    if invert:
        value, low, high = 1 - value, 1 - high, 1 - low
    if not np.isfinite(value):
        return wording.NOT_AVAILABLE
    ends = f" (95 % interval {100 * low:.0f} to {100 * high:.0f})" if np.isfinite(low) else ""
    return f"{100 * value:.0f} of 100{ends}"


def _how_well(evidence: StudyEvidence) -> str:
    point = evidence.thresholds.primary
    level = evidence.thresholds.points[point].threshold
    found = evidence.estimates
    text = (
        f"At the operating point “{wording.point_name(point)}” (score from {level:.3f}) it calls "
        f"{_of_hundred(found[f'{point}.sensitivity'])} images with an opacity"
    )
    by_class = [
        (key, name)
        for key, name in (("not_normal", "not normal"), ("normal", "normal"))
        if f"{point}.specificity_{key}" in found
    ]
    if by_class:
        alarms = [
            f"{_of_hundred(found[f'{point}.specificity_{key}'], True)} that are {name}"
            for key, name in by_class
        ]
        text += f". Of images without an opacity it wrongly calls {' and '.join(alarms)}."
    else:
        alarm = _of_hundred(found[f"{point}.specificity"], True)
        text += f". Of images without an opacity it wrongly calls {alarm}."
    if evidence.at_mix is not None:
        at_mix = _of_hundred(evidence.at_mix.estimates[f"{point}.ppv"])
        text += (
            f" At the mix of {evidence.at_mix.mix.name}, {at_mix} images that it calls have an"
            f" opacity; in this set {_of_hundred(found[f'{point}.ppv'])}."
        )
    boxes = found[f"{point}.box_sensitivity"].value
    if np.isfinite(boxes):
        per_ten = found[f"{point}.false_boxes_per_image"].value * 10
        text += (
            f" Its boxes mark {boxes * 100:.1f} % of the opacities (IoU 0.4) and show"
            f" {per_ten:.1f} false boxes per 10 images."
        )
    if evidence.thresholds.is_optimistic:
        text += " The threshold was chosen on these same images: optimistic."
    return text


def _not_for(evidence: StudyEvidence) -> str:
    return (
        NOT_FOR + " Its predictive values do not apply to a population with another prevalence or"
        " another share of normal images."
    )
