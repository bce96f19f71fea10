from pathlib import Path

import numpy as np
import pytest

from evaluation.study.labels import read_labels
from pneumonia.runtime.errors import DataError

HEADER = "patientId,x,y,width,height,Target\n"


def _write(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "labels.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path


def test_boxes_become_xyxy_and_negatives_stay(tmp_path: Path) -> None:
    labels = read_labels(_write(tmp_path, "a,10,20,30,40,1\nb,,,,,0\na,100,100,5,6,1\n"))
    assert labels.ids == ("a", "b")
    assert labels.positive.tolist() == [True, False]
    assert labels.boxes["a"].tolist() == [[10, 20, 40, 60], [100, 100, 105, 106]]
    assert labels.boxes["a"].dtype == np.float32
    assert labels.boxes["b"].shape == (0, 4)
    assert labels.frame == 1024


def test_a_byte_order_mark_and_other_columns_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    text = "class,patientId,x,y,width,height,Target\nNormal,a,,,,,0\n"
    path.write_text(text, encoding="utf-8-sig")
    assert read_labels(path).ids == ("a",)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("secret,1,2,3,4,1\nsecret,1,2,3,4,1\n", "repeated"),
        ("secret,,,,,0\nsecret,,,,,0\n", "twice"),
        ("secret,,,,,0\nsecret,1,2,3,4,1\n", "both"),
        ("secret,1,2,3,4,1\nsecret,,,,,0\n", "twice"),
        ("secret,1,2,nan,4,1\n", "finite"),
        ("secret,1,2,inf,4,1\n", "finite"),
        ("secret,1,2,,4,1\n", "numbers"),
        ("secret,1,2,0,4,1\n", "no area"),
        ("secret,1,2,-3,4,1\n", "no area"),
        ("secret,1,2,3,4,0\n", "negative row"),
        ("secret,1,2,3,4,2\n", "Target"),
        (",1,2,3,4,1\n", "patientId"),
        ("", "no rows"),
    ],
)
def test_faults_are_named_by_line_without_identifiers(tmp_path: Path, rows: str, part: str) -> None:
    with pytest.raises(DataError) as caught:
        read_labels(_write(tmp_path, rows))
    message = str(caught.value)
    assert part in message
    assert "secret" not in message
    assert "labels.csv" in message


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Target"):
        read_labels(_write(tmp_path, "a,1,2,3,4\n", "patientId,x,y,width,height\n"))


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "absent.csv")


def test_select_keeps_order_and_refuses_the_unknown(tmp_path: Path) -> None:
    labels = read_labels(_write(tmp_path, "a,10,20,30,40,1\nb,,,,,0\n"))
    assert labels.select(["b", "a"]).ids == ("b", "a")
    assert labels.select(["b", "a"]).positive.tolist() == [False, True]
    with pytest.raises(DataError, match="1 such ids"):
        labels.select(["a", "stranger"])
    with pytest.raises(DataError, match="twice"):
        labels.select(["a", "a"])
