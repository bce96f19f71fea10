"""Formatting of numbers and metric names for the reports."""

from collections.abc import Mapping

import numpy as np

from evaluation.metrics.bootstrap import Estimate

NOT_AVAILABLE = "not available"
SHARES = (
    "sensitivity",
    "specificity",
    "specificity_normal",
    "specificity_not_normal",
    "ppv",
    "npv",
    "box_sensitivity",
)
NAMES = {
    "coco.ap_50_95": "AP, IoU .50 to .95 (COCO)",
    "coco.ap_40_75": "AP, IoU .40 to .75",
    "coco.ap50": "AP at IoU .50",
    "coco.ap75": "AP at IoU .75",
    "coco.ar_1": "Average recall, 1 box per image",
    "coco.ar_10": "Average recall, 10 boxes per image",
    "coco.ar_100": "Average recall, 100 boxes per image",
    "image.auroc": "AUROC, image level",
    "image.auprc": "AUPRC, image level",
    "image.auroc_normal": "AUROC, opacity against Normal",
    "image.auroc_not_normal": "AUROC, opacity against Not Normal",
    "calibration.brier": "Brier score (lower is better)",
    "calibration.ece": "Expected calibration error (lower is better)",
    "calibration.brier_platt": "Brier score after Platt scaling fitted on validation",
    "calibration.ece_platt": "Calibration error after Platt scaling fitted on validation",
    "calibration.slope": "Calibration slope (1 = ideal)",
    "calibration.intercept": "Calibration intercept (0 = ideal)",
    "rsna": "RSNA score",
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "specificity_normal": "Specificity, Normal images",
    "specificity_not_normal": "Specificity, Not Normal images",
    "ppv": "PPV in this study",
    "npv": "NPV in this study",
    "box_sensitivity": "Opacities found (IoU 0.4)",
    "false_boxes_per_image": "False boxes per image",
}
RATES = {0.0625: "1/16", 0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1.0: "1", 2.0: "2"}


def name_of(metric: str) -> str:
    """The name of a metric in reports, for example `RSNA score at kaggle` for `rsna.kaggle`."""
    if metric in NAMES:
        return NAMES[metric]
    family, _, rest = metric.partition(".")
    if family == "rsna":
        return f"RSNA score at {point_name(rest)}"
    if family == "froc":
        return _froc_name(rest)
    for prefix in ("ppv_at_", "npv_at_"):
        if rest.startswith(prefix):
            prevalence = float(rest.removeprefix(prefix))
            stated = f"{prefix[:3].upper()}, prevalence {prevalence:.1%}"
            return f"{stated} at {point_name(family)}"
    if rest in NAMES:
        return f"{NAMES[rest]} at {point_name(family)}"
    return metric


def point_name(point: str) -> str:
    """The name of an operating point in reports, for example `high sensitivity`."""
    return point.replace("_", " ")


def _froc_name(rest: str) -> str:
    """Name of a FROC metric such as `iou_0.40.fp_0.25`."""
    overlap, _, rate = rest[len("iou_") :].rpartition(".fp_")
    if not overlap:
        return f"FROC mean, IoU {rest[len('iou_') : -len('.mean')]}"
    where = "image"
    if rate.startswith("per_normal_"):
        rate, where = rate[len("per_normal_") :], "Normal image"
    return f"Found at {RATES.get(float(rate), rate)} false boxes per {where}, IoU {overlap}"


def is_share(metric: str) -> bool:
    """Whether a metric is shown as a percentage."""
    last = metric.rpartition(".")[2]
    return last in SHARES or "ppv_at" in metric or "npv_at" in metric


def value_text(item: Estimate | None, share: bool = False, sign: bool = False) -> str:
    """A value: `0.245`, `82.8 %`, `+0.012`, or `not available`."""
    if item is None or not np.isfinite(item.value):
        return NOT_AVAILABLE if item is None else missing_text(item)
    return number_text(item.value, share, sign)


def missing_text(item: Estimate) -> str:
    """Why a value is missing: `suppressed`, an en dash (not applicable), or `not available`."""
    if item.method.startswith("suppressed"):
        return "suppressed"
    return "\N{EN DASH}" if item.method.startswith("not applicable") else NOT_AVAILABLE


def interval_text(item: Estimate | None, share: bool = False, sign: bool = False) -> str:
    """An interval: `0.221 to 0.268`; empty when not available."""
    if item is None or not np.isfinite(item.ci_low):
        return ""
    ends = (number_text(end, share, sign) for end in (item.ci_low, item.ci_high))
    return " to ".join(end.removesuffix(" %").removesuffix(" pp") for end in ends)


def number_text(value: float, share: bool = False, sign: bool = False) -> str:
    """A number with three digits after the point, or as a percentage with one.

    A signed share is a difference of percentages and therefore in percentage points (pp).
    """
    scaled, digits = (value * 100, 1) if share else (value, 3)
    rounded = round(scaled, digits) + 0.0  # + 0.0 turns -0.0 into 0.0
    text = f"{rounded:{'+' if sign and rounded else ''}.{digits}f}"
    text += (" pp" if sign else " %") if share else ""
    return text.replace("-", "\N{MINUS SIGN}")


def count_text(value: float | None, unit: str = "") -> str:
    """A large count: `61.5 M`, `247 k`, `812`, with a unit; or `not available`."""
    if value is None:
        return NOT_AVAILABLE
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {letter}{unit}"
    return f"{value:g} {unit}".strip()


def pick(estimates: Mapping[str, Estimate], *names: str) -> list[str]:
    """The metrics whose names start with one of `names`, in the order of `estimates`."""
    return [metric for metric in estimates if metric.startswith(names)]
