"""model_card.md: intended use, performance and limits of the model, from the artefacts."""

from evaluation.analysis.evidence import StudyEvidence
from evaluation.metrics.bootstrap import Estimate
from evaluation.report import wording
from evaluation.report.cohort_table import describe_cohort
from evaluation.report.first_page import NOT_FOR, first_page
from evaluation.report.page import render
from evaluation.report.wording import NOT_AVAILABLE


def model_card(evidence: StudyEvidence) -> str:
    """The card as Markdown; "not available" where the artefacts have no value."""
    origin, cases = evidence.provenance, evidence.study.cases
    facts = {"name": origin.model_name, "hash": origin.model_hash}
    for key in ("network", "preprocessing", "training", "size", "cost"):
        facts[key] = origin.facts.get(key)
    header = ["metric", "this study (95 % interval)", "n"]
    if evidence.at_mix is not None:
        header.append(f"at the mix of {evidence.at_mix.mix.name}")
    context = {
        "origin": origin,
        "model": [(key, value or NOT_AVAILABLE) for key, value in facts.items()],
        "not_for": NOT_FOR,
        "questions": first_page(evidence),
        "coverage": cases.coverage,
        "n_positive": int(cases.positive.sum()),
        "cohort": [
            (row.fact, row.value, f"{row.n:,}", f"{row.n_positive:,}")
            for row in describe_cohort(cases)
        ],
        "performance_header": header,
        "performance": _performance(evidence),
        "at_mix": evidence.at_mix,
        "why_no_mix": evidence.why_no_mix,
        "groups": _subgroups(evidence),
        "limits": limits(evidence),
        "MISSING": NOT_AVAILABLE,
    }
    return render("model_card.md.j2", context)


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


def _performance(evidence: StudyEvidence) -> list[list[str]]:
    """Name, value with interval, units and, at a mix, the value there, of the main metrics."""
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
    return rows


def _with_interval(item: Estimate, metric: str) -> str:
    share = wording.is_share(metric)
    interval = wording.interval_text(item, share) or NOT_AVAILABLE
    return f"{wording.value_text(item, share)} ({interval})"


def _subgroups(evidence: StudyEvidence) -> list[list[str]]:
    return [
        [group.facet, group.name, f"{group.n:,}"]
        + [
            wording.value_text(group.values[metric], wording.is_share(metric))
            for metric in ("auroc", "sensitivity", "specificity")
        ]
        for group in evidence.groups
    ]
