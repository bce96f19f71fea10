"""Pixel spacing and prior studies of the same patient, from the DICOM headers."""

from datetime import datetime
from typing import NamedTuple

from data_prep.annotation.workspace.database import WorkspaceDatabase


class PriorStudy(NamedTuple):
    """An earlier study of the same patient.

    Attributes:
        key: Key of the study in this workspace.
        view: View position; empty when unknown.
        days: Days between the two studies; None when a date is not valid.
    """

    key: int
    view: str
    days: int | None


def spacing_mm(database: WorkspaceDatabase, key: int) -> tuple[float, float] | None:
    """Row and column spacing of a study's pixels in mm; None when the header has none."""
    row = database.row("SELECT row_mm, column_mm FROM details WHERE study = ?", key)
    return (row[0], row[1]) if row and row[0] and row[1] else None


def priors(database: WorkspaceDatabase, key: int) -> list[PriorStudy]:
    """Earlier readable studies of the same patient, the latest first."""
    rows = database.rows(
        "SELECT s.key, s.view, p.taken, d.taken AS now FROM details d "
        "JOIN details p ON p.patient = d.patient AND p.taken < d.taken AND p.taken <> '' "
        "JOIN studies s ON s.key = p.study WHERE d.study = ? AND d.patient <> '' "
        "AND s.present = 1 AND s.reason = '' ORDER BY p.taken DESC, s.key",
        key,
    )
    return [PriorStudy(row["key"], row["view"], _days(row["taken"], row["now"])) for row in rows]


def _days(earlier: str, later: str) -> int | None:
    try:
        first, last = (datetime.strptime(text[:8], "%Y%m%d").date() for text in (earlier, later))
    except ValueError:
        return None
    return (last - first).days
