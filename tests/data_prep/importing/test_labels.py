"""Label tables: every kind of faulty row has a name, and only whole truths are kept."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.importing.decode import parse_age
from data_prep.importing.labels import read_labels
from pneumonia.runtime.errors import DataError
from tests.data_prep.conftest import NORMAL, OPACITY, write_csv

HEADER = ("patientId", "x", "y", "width", "height", "Target")
GOOD = ("good", 10, 20, 30, 40, 1)


def labels(tmp_path: Path, *rows: tuple[object, ...]) -> Path:
    write_csv(tmp_path / "labels.csv", HEADER, list(rows))
    return tmp_path / "labels.csv"


def test_boxes_become_corners_and_negatives_have_none(tmp_path: Path) -> None:
    path = labels(tmp_path, GOOD, ("good", 500.5, 600, 100.25, 50, "1"), ("bad", "", "", "", "", 0))
    found = read_labels(path, None)
    np.testing.assert_array_equal(
        found.boxes["good"], [[10, 20, 40, 60], [500.5, 600, 600.75, 650]]
    )
    assert found.boxes["bad"].shape == (0, 4)
    assert not found.rejected
    assert not found.adjusted


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("x", "nan", 1, 2, 3, 1), "box_not_finite"),
        (("x", "", "", "", "", 1), "box_not_finite"),
        (("x", "inf", 1, 2, 3, 1), "box_not_finite"),
        (("x", "left", 1, 2, 3, 1), "box_not_finite"),
        (("x", 1, 1, 0, 3, 1), "box_without_area"),
        (("x", 1, 1, 5, -3, 1), "box_without_area"),
        (("x", 1024, 5, 50, 50, 1), "box_outside_frame"),
        (("x", -60, 5, 50, 50, 1), "box_outside_frame"),
        (("x", 1, 1, 5, 5, 0), "target_mismatch"),
        (("x", 1, 1, 5, 5, 2), "bad_target"),
        (("x", 1, 1, 5, 5, ""), "bad_target"),
        (("", 1, 1, 5, 5, 1), "no_id"),
    ],
)
def test_a_faulty_row_is_named_and_takes_its_image_along(
    tmp_path: Path, row: tuple[object, ...], reason: str
) -> None:
    whole = (row[0], 100, 100, 50, 50, 1)  # a good row does not save an image in doubt
    found = read_labels(labels(tmp_path, GOOD, row, *([whole] if row[0] else [])), None)
    assert found.rejected == {row[0]: reason}
    assert set(found.boxes) == {"good"}


def test_both_targets_for_one_image_are_a_mismatch(tmp_path: Path) -> None:
    path = labels(tmp_path, GOOD, ("x", 1, 1, 5, 5, 1), ("x", "", "", "", "", 0))
    assert read_labels(path, None).rejected == {"x": "target_mismatch"}


def test_repairs_are_counted(tmp_path: Path) -> None:
    path = labels(tmp_path, GOOD, GOOD, ("edge", 1000, -4, 50, 104, 1), ("n", "", "", "", "", 0),
                  ("n", "", "", "", "", 0))  # fmt: skip
    found = read_labels(path, None)
    np.testing.assert_array_equal(found.boxes["good"], [[10, 20, 40, 60]])
    np.testing.assert_array_equal(found.boxes["edge"], [[1000, 0, 1024, 100]])
    assert found.adjusted == Counter(repeated_row=2, box_clipped_to_frame=1)


def test_classes_must_agree_with_targets_and_with_themselves(tmp_path: Path) -> None:
    none = ("", "", "", "")
    path = labels(
        tmp_path, GOOD, ("neg", *none, 0), ("a", *none, 0), ("b", 1, 1, 9, 9, 1), ("c", *none, 0),
        ("d", *none, 0),
    )  # fmt: skip
    classes = tmp_path / "classes.csv"
    rows = [("good", OPACITY), ("good", OPACITY), ("neg", NORMAL), ("a", OPACITY), ("b", NORMAL),
            ("c", NORMAL), ("c", "No Lung Opacity / Not Normal"), ("d", "Pneumonia")]  # fmt: skip
    write_csv(classes, ("patientId", "class"), rows)
    found = read_labels(path, classes)
    assert set(found.boxes) == {"good", "neg"}
    assert found.rejected == {
        "a": "class_target_mismatch",
        "b": "class_target_mismatch",
        "c": "class_conflict",
        "d": "unknown_class",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks columns.*an empty file"),
        (b"patientId,x,y,width,height\na,1,2,3,4\n", "lacks columns.*Target"),
        (b"patientId,x,y,width,height,Target\n", "no rows"),
        (b"patientId,x,y,width,height,Target\na,,,,,1\n", "no usable row.*box_not_finite: 1"),
        (b"patientId,x,y,width,height,Target\n\xff\xfe\xfa,,,,,0\n", "not in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not in UTF-8"),
    ],
)
def test_an_unusable_table_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path, None)
    assert "\n" not in str(caught.value)
    assert "labels.csv" in str(caught.value)


def test_spreadsheet_habits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    text = "\ufeffTarget, patientId,x,y,width,height,note\r\n1, a ,1.0,2.0,3.0,4.0,hm\r\n0.0,b\r\n"
    path.write_text(text, encoding="utf-8")
    found = read_labels(path, None)
    np.testing.assert_array_equal(found.boxes["a"], [[1, 2, 4, 6]])
    assert set(found.boxes) == {"a", "b"}


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Table cannot be read"):
        read_labels(tmp_path / "none.csv", None)


@pytest.mark.parametrize(
    ("text", "years"),
    [("056Y", 56), ("56", 56), ("8M", 0), ("30M", 2), ("400D", 1), ("155", None), ("", None),
     ("-3", None), ("nan", None), ("Y", None), ("old", None), (" 7 ", 7)],
)  # fmt: skip
def test_ages(text: str, years: int | None) -> None:
    assert parse_age(text) == years
