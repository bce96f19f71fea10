"""Evaluated cohort: counts by class, view, sex and age."""

from collections import Counter
from dataclasses import dataclass

from evaluation.study.cases import EvaluationCases
from pneumonia.runtime.age_text import OLDEST_YEARS, age_band, age_years

UNKNOWN = "not known"


@dataclass(frozen=True)
class CohortRow:
    """One line: a value of an attribute, the images with it, and how many of them are positive."""

    fact: str
    value: str
    n: int
    n_positive: int


def describe_cohort(cases: EvaluationCases) -> list[CohortRow]:
    """Counts by class, view, sex and age; an attribute that is known of no image is left out."""
    positive = cases.positive
    columns = {
        "class": list(cases.fact("class")),
        "view": list(cases.fact("view")),
        "sex": list(cases.fact("sex")),
        "age": [_band(text) for text in cases.fact("age")],
    }
    rows = []
    for fact, values in columns.items():
        if not any(values):
            continue
        named = [value or UNKNOWN for value in values]
        every = Counter(named)
        with_truth = Counter(
            value for value, is_positive in zip(named, positive, strict=True) if is_positive
        )
        order = sorted(every, key=lambda value: (value == UNKNOWN, value))
        rows += [CohortRow(fact, value, every[value], with_truth[value]) for value in order]
    return rows


def _band(text: str) -> str:
    implausible = f"implausible (over {OLDEST_YEARS:g})" if text.strip() else ""
    return age_band(age_years(text)) or implausible
