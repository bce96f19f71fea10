"""Tables of boxes: one row per box, or per image without a finding."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.dataset.reader import SPLITS
from data_prep.importing.box_files.rows import BoxLabels, BoxRow, PatientRow, box_row, number
from data_prep.importing.decode import one_of
from pneumonia.runtime.csv_tables import read_table
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import CLASSES, LABEL_COLUMNS, LUNG_OPACITY, NO_ID

IMAGE_COLUMNS = ("image", "image_id", "file_name", "filename")
CATEGORY_COLUMNS = ("category", "class", "class_name", "label")
CORNER_COLUMNS = (
    ("x1", "y1", "x2", "y2"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("xmin", "ymin", "xmax", "ymax"),
)
SIZE_COLUMNS = ("x", "y", "width", "height")
PATIENT_COLUMN, SPLIT_COLUMN = "patient_id", "split"
_EXPECTED = "image, x1, y1, x2, y2 (or x, y, width, height) and, as needed, category, patient_id"
_NEGATIVE_CLASSES = tuple(name for name in CLASSES if name != LUNG_OPACITY)


def read_box_csv(path: Path) -> BoxLabels:
    """Read a table of boxes; a row without coordinates is an image without a finding.

    Raises:
        DataError: Not a UTF-8 csv, without rows, or without columns of image and box.
    """
    table = [(line, _folded(row)) for line, row in read_table(str(path), ())]
    header = tuple(table[0][1])
    image_column = _column(header, IMAGE_COLUMNS)
    corners = next((names for names in CORNER_COLUMNS if {*names} <= {*header}), None)
    box_columns = corners or (SIZE_COLUMNS if {*SIZE_COLUMNS} <= {*header} else None)
    if image_column is None or box_columns is None:
        official = {name.casefold() for name in LABEL_COLUMNS} <= {*header}
        raise DataError(
            "Table lacks columns",
            expected=_EXPECTED,
            found=repr(",".join(header)[:200]),
            where=str(path),
            fix="Import it with `pneumonia data import-rsna`" if official else None,
        )
    category_column = _column(header, CATEGORY_COLUMNS)
    rows, patients = [], []
    for line, cells in table:
        image = cells[image_column].strip()
        if not image:
            rows.append(BoxRow(f"line {line}", fault=NO_ID))
            continue
        category = cells[category_column].strip() if category_column else ""
        sides = [cells[name].strip() for name in box_columns]
        rows.append(_row(image, sides, category, corners is not None))
        patients.append(_patient(image, cells))
    return BoxLabels(rows, patients)


def read_patients(path: Path) -> list[PatientRow]:
    """Read a table of patients: columns image and patient_id, and split where it is given.

    Raises:
        DataError: Not a UTF-8 csv, without rows, or without these columns.
    """
    table = [_folded(row) for _, row in read_table(str(path), ())]
    header = tuple(table[0])
    image_column = _column(header, IMAGE_COLUMNS)
    if image_column is None or not {PATIENT_COLUMN, SPLIT_COLUMN} & {*header}:
        raise DataError(
            "Table lacks columns",
            expected="image, patient_id",
            found=repr(",".join(header)[:200]),
            where=str(path),
        )
    return [_patient(cells[image_column].strip(), cells) for cells in table if cells[image_column]]


def _folded(row: Mapping[str, str]) -> dict[str, str]:
    return {name.casefold(): cell for name, cell in row.items()}


def _column(header: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in header), None)


def _row(image: str, sides: Sequence[str], category: str, are_corners: bool) -> BoxRow:
    if not any(sides):
        return BoxRow(
            image, category=category, negative=True, class_name=one_of(category, _NEGATIVE_CLASSES)
        )
    a, b, c, d = map(number, sides)
    return box_row(image, (a, b, c, d) if are_corners else (a, b, a + c, b + d), category, None)


def _patient(image: str, cells: Mapping[str, str]) -> PatientRow:
    split = one_of(cells.get(SPLIT_COLUMN, ""), SPLITS)
    return PatientRow(image, cells.get(PATIENT_COLUMN, "").strip(), split)
