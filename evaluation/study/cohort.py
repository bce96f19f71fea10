"""Attributes of images for subgroups: patient, class, view, sex, age ...

Read from the official `class_info` csv, from an `images.csv` beside the labels, or from the
`manifest.csv` of a dataset folder; `COLUMNS` lists the column names that are accepted.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pneumonia.runtime.csv_tables import unescape_name
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import CLASSES

# attribute -> names of its column, in order of preference
COLUMNS = {
    "patient": ("patient_id", "nih_patient"),
    "class": ("class",),
    "view": ("view", "ViewPosition"),
    "sex": ("sex", "PatientSex"),
    "age": ("age", "PatientAge"),
    "photometric": ("photometric", "PhotometricInterpretation"),
    "manufacturer": ("manufacturer", "Manufacturer"),
}
ID_COLUMNS = ("image_id", "patientId")


@dataclass(frozen=True)
class Cohort:
    """Attributes by image; an attribute that is not known is absent."""

    # image id -> {attribute: text}; attributes are the keys of `COLUMNS`
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()  # files read

    def get(self, image_id: str, fact: str) -> str:
        """The attribute's text, or an empty string."""
        return self.facts.get(image_id, {}).get(fact, "")


def read_cohort(*paths: str | Path) -> Cohort:
    """Read one or more csv files of attributes; later files fill in what earlier ones lack.

    An image may occur in several rows (one per box, or per kind of image) as long as they agree.

    Raises:
        DataError: Not readable, no id column, no known column, or rows that contradict each other.
    """
    facts: dict[str, dict[str, str]] = {}
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream)
                names = _known_columns(tuple(reader.fieldnames or ()), str(path))
                for row in reader:
                    _add_row(facts, row, names, f"{path}, line {reader.line_num}")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                "Table of images cannot be read", found=str(error), where=str(path)
            ) from None
    return Cohort(facts, tuple(str(path) for path in paths))


def _known_columns(header: tuple[str, ...], where: str) -> dict[str, str]:
    """Attribute -> its column in the header; "id" -> the column of the image id."""
    names = {
        fact: next(name for name in known if name in header)
        for fact, known in {"id": ID_COLUMNS, **COLUMNS}.items()
        if any(name in header for name in known)
    }
    if "id" not in names or len(names) < 2:
        raise DataError(
            "Not a table of images",
            expected="a column " + " or ".join(ID_COLUMNS) + " and one of " + ", ".join(COLUMNS),
            found=", ".join(header)[:120],
            where=where,
        )
    return names


def _add_row(
    facts: dict[str, dict[str, str]],
    row: Mapping[str, str | None],
    names: Mapping[str, str],
    where: str,
) -> None:
    image_id = unescape_name((row[names["id"]] or "").strip())
    if not image_id:
        raise DataError("Row without an image id", where=where)
    known = facts.setdefault(image_id, {})
    for fact, column in names.items():
        value = unescape_name((row[column] or "").strip())
        if fact == "id" or not value:
            continue
        if fact == "class" and value not in CLASSES:
            raise DataError(
                "Unknown class", expected=", ".join(CLASSES), found=repr(value), where=where
            )
        if known.setdefault(fact, value) != value:
            raise DataError(f"Image has two values of {fact!r}", where=where)
