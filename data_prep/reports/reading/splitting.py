"""The fixed split of a report collection: 70 % train, 10 % validation, 20 % test, by report."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from data_prep.reports.reading.files import SourceReport, read_reports

SPLIT_SALT = "pneumonia.reports/1"


def split_reports(report_ids: Sequence[str]) -> dict[str, str]:
    """report_id -> `train`, `val` or `test`, by the rank of a hash of the id.

    Deterministic: the same ids in any order give the same split on every machine.
    """
    ranked = sorted(
        set(report_ids),
        key=lambda name: hashlib.sha256(f"{SPLIT_SALT}:{name}".encode()).hexdigest(),
    )
    n_train, n_val = round(0.7 * len(ranked)), round(0.1 * len(ranked))
    return {
        name: "train" if i < n_train else "val" if i < n_train + n_val else "test"
        for i, name in enumerate(ranked)
    }


def coded_reports(source: Path) -> dict[str, list[SourceReport]]:
    """The readable reports with manual codes: those of `train`, `val` and `test`.

    Raises:
        DataError: The source cannot be read.
    """
    reports = [report for report in read_reports(source) if report.codes and not report.reason]
    part = split_reports([report.report_id for report in reports])
    return {
        name: [report for report in reports if part[report.report_id] == name]
        for name in ("train", "val", "test")
    }
