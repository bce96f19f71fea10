"""Agreement of report codes with manual codes: micro-F1 with bootstrap intervals."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.reports.findings.concepts import same_code

Counts = npt.NDArray[np.int64]  # (reports, 3): right, predicted, gold
DRAWS = 2000  # bootstrap samples


class LinkingAgreement(NamedTuple):
    """Micro-averaged agreement, each with its 95 % bootstrap interval over reports."""

    f1: float
    f1_low: float
    f1_high: float
    precision: float
    recall: float


def count_codes(
    predicted: Iterable[Iterable[str]], gold: Iterable[Iterable[str]], level: str
) -> Counts:
    """Right, predicted and gold codes of each report.

    Args:
        predicted: Codes of each report.
        gold: Manual codes of each report, in the same order.
        level: `heading` or `code`; the order of a code's qualifiers does not count.
    """
    rows = []
    for found, wanted in zip(predicted, gold, strict=True):
        a, b = ({same_code(code) for code in codes} for codes in (found, wanted))
        if level == "heading":
            x, y = {heading for heading, _ in a}, {heading for heading, _ in b}
            rows.append((len(x & y), len(x), len(y)))
        else:
            rows.append((len(a & b), len(a), len(b)))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def micro_f1(counts: Counts) -> float:
    """2 right / (predicted + gold); 0 when there is neither."""
    right, predicted, gold = counts.sum(axis=0).tolist()
    return float(2 * right / (predicted + gold)) if predicted + gold else 0.0


def agreement(runs: Sequence[Counts]) -> LinkingAgreement:
    """Mean over runs (seeds of one method) with its interval; the bootstrap samples reports.

    Args:
        runs: Counts of the same reports, one table per run.
    """
    samples = _resampled(runs)
    low, high = np.percentile(samples, [2.5, 97.5])
    totals = [run.sum(axis=0) for run in runs]
    return LinkingAgreement(
        float(np.mean([micro_f1(run) for run in runs])),
        float(low),
        float(high),
        float(np.mean([right / max(1, predicted) for right, predicted, _ in totals])),
        float(np.mean([right / max(1, gold) for right, _, gold in totals])),
    )


def difference(runs: Sequence[Counts], others: Sequence[Counts]) -> tuple[float, float, float]:
    """F1 of `runs` minus F1 of `others`, paired by report: difference, low, high (95 %)."""
    gap = _resampled(runs) - _resampled(others)
    low, high = np.percentile(gap, [2.5, 97.5])
    middle = np.mean([micro_f1(run) for run in runs]) - np.mean([micro_f1(run) for run in others])
    return float(middle), float(low), float(high)


def _resampled(runs: Sequence[Counts]) -> npt.NDArray[np.float64]:
    n_reports = len(runs[0])
    weights = np.random.default_rng(0).multinomial(
        n_reports, np.full(n_reports, 1 / n_reports), size=DRAWS
    )
    found = []
    for run in runs:
        right, predicted, gold = (weights @ run).T
        found.append(2 * right / np.maximum(1, predicted + gold))
    return np.asarray(np.mean(found, axis=0), dtype=np.float64)
