"""model_card.md: intended use, performance and limits of the model, from the artefacts."""

from collections.abc import Sequence

from evaluation.analysis.evidence import StudyEvidence
from evaluation.metrics.bootstrap import Estimate
from evaluation.report import wording
from evaluation.report.cohort_table import describe_cohort
from evaluation.report.first_page import NOT_FOR, first_page
from evaluation.report.wording import NOT_AVAILABLE
from pneumonia.runtime.errors import DISCLAIMER


def model_card(evidence: StudyEvidence) -> str:
    """The card as Markdown; "not available" where the artefacts have no value."""
    origin = evidence.provenance
    facts = origin.facts
    parts = [
        f"# Model card: {origin.model_name or 'model ' + NOT_AVAILABLE}",
        f"**{DISCLAIMER}**",
        "## Model\n\n"
        + _table(
            ("what", "value"),
            [
                ("name", origin.model_name or NOT_AVAILABLE),
                ("hash", origin.model_hash or NOT_AVAILABLE),
                *[
                    (key, facts.get(key, NOT_AVAILABLE))
                    for key in ("network", "preprocessing", "training", "size", "cost")
                ],
            ],
        ),
        "## Intended use\n\nResearch on detecting lung opacities suspicious for pneumonia in"
        f" frontal chest radiographs of adults. {NOT_FOR}",
        "## In short\n\n"
        + "\n\n".join(f"**{item.question}** {item.answer}" for item in first_page(evidence)),
        "## Evaluated images\n\n" + _cohort(evidence),
        "## Performance\n\n" + _performance(evidence),
        "## Subgroups\n\n" + _subgroups(evidence),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in limits(evidence)),
        "## Inputs\n\n" + _table(("input", "file"), list(origin.files.items())),
    ]
    return "\n\n".join(parts) + "\n"


def limits(evidence: StudyEvidence) -> list[str]:
    """Limits of this evaluation."""
    cases = evidence.study.cases
    n_positive = int(cases.positive.sum())
    lines = [
        f"Prevalence here is {n_positive / len(cases):.1%}. Specificity, predictive values, AUROC"
        " and RSNA score elsewhere depend on the prevalence there and on how many of the negatives"
        " are normal, not on the prevalence alone.",
    ]
    if evidence.thresholds.is_optimistic:
        lines.append(
            "Thresholds were chosen on these same images: everything that depends on a threshold"
            " is optimistic. Freeze them on validation images and give --operating-points."
        )
    if evidence.thresholds.box_scale != 1.0:
        lines.append(
            f"Predicted boxes were resized by {evidence.thresholds.box_scale:g} about their centres"
            " before matching, which adapts them to how the truth was drawn. The boxes shown to a"
            " reader are not resized."
        )
    if not cases.coverage.patients_known:
        lines.append(
            "Patients are not known for all images: intervals treat such images as independent and"
            " may be too narrow, and one patient may be in training and test."
        )
    if cases.coverage.n_missing:
        lines.append(
            f"{cases.coverage.n_missing:,} labelled images were not scored and are left out; if"
            " they are difficult, the results are too optimistic."
        )
    if not cases.classes_known:
        lines.append(
            "The class of the negatives is not known: Normal and Not Normal images, which differ"
            " much in difficulty, cannot be separated, and results cannot be weighted to the mix of"
            " another population."
        )
    if n_positive < 100 or len(cases) - n_positive < 100:
        lines.append("Fewer than 100 positive or negative images: intervals are wide.")
    lines.append(
        "The reference standard is one set of boxes; agreement between readers is not part of this"
        " evaluation."
    )
    lines.append("Many numbers are shown: some intervals exclude zero by chance alone.")
    return lines


def _performance(evidence: StudyEvidence) -> str:
    point = evidence.thresholds.primary
    chosen = [f"rsna.{point}", "coco.ap50", "coco.ap_40_75", "image.auroc", "image.auprc"]
    chosen += [f"{point}.{name}" for name in ("sensitivity", "specificity", "ppv", "npv")]
    chosen += [f"{point}.specificity_not_normal", f"{point}.specificity_normal", "calibration.ece"]
    at_mix = {} if evidence.at_mix is None else evidence.at_mix.estimates
    rows = []
    for metric in chosen:
        if metric not in evidence.estimates:
            continue
        item = evidence.estimates[metric]
        row = [wording.name_of(metric), _with_interval(item, metric), f"{item.n:,}"]
        if at_mix:
            row.append(_with_interval(at_mix[metric], metric) if metric in at_mix else "")
        rows.append(row)
    header = ["metric", "this study (95 % interval)", "n"]
    if evidence.at_mix is not None:
        header.append(f"at the mix of {evidence.at_mix.mix.name}")
    note = (
        f"\n\nThe mix: {evidence.at_mix.mix.text}."
        if evidence.at_mix is not None
        else f"\n\nResults at a stated mix of classes: {NOT_AVAILABLE} ({evidence.why_no_mix})."
    )
    return _table(header, rows) + note


def _with_interval(item: Estimate, metric: str) -> str:
    share = wording.is_share(metric)
    interval = wording.interval_text(item, share) or NOT_AVAILABLE
    return f"{wording.value_text(item, share)} ({interval})"


def _cohort(evidence: StudyEvidence) -> str:
    coverage = evidence.study.cases.coverage
    text = (
        f"{coverage.n_evaluated:,} images of {coverage.n_patients:,} "
        + ("patients" if coverage.patients_known else "images taken as patients")
        + f", {int(evidence.study.cases.positive.sum()):,} with an opacity."
    )
    rows = [
        (row.fact, row.value, f"{row.n:,}", f"{row.n_positive:,}")
        for row in describe_cohort(evidence.study.cases)
    ]
    return text + (
        "\n\n" + _table(("attribute", "value", "images", "positive"), rows) if rows else ""
    )


def _subgroups(evidence: StudyEvidence) -> str:
    if not evidence.groups:
        return f"View, sex and age of the images: {NOT_AVAILABLE}."
    rows = [
        [
            group.facet,
            group.name,
            f"{group.n:,}",
            *(
                wording.value_text(group.values[metric], wording.is_share(metric))
                for metric in ("auroc", "sensitivity", "specificity")
            ),
        ]
        for group in evidence.groups
    ]
    header = ("facet", "group", "images", "AUROC", "sensitivity", "specificity")
    return _table(header, rows) + "\n\nMetrics of groups that are too small are suppressed."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
