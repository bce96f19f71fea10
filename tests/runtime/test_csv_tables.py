"""Tables read with checks, and names that a spreadsheet would run as formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.csv_tables import csv_text, escape_name, read_table, unescape_name
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import FAULTS, read_label_rows


@given(st.text(max_size=20))
def test_escaping_a_name_is_reversed_by_reading(name: str) -> None:
    cell = escape_name(name)
    assert unescape_name(cell) == name
    assert cell[:1] not in ("=", "+", "-", "@")


FORMULAS = [
    "=cmd|' C calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", " =1", "'=x", "''+y",
    "\uff1d1",  # full width
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_of_a_table_is_a_formula_and_all_reads_back(tmp_path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(csv_text(("a", "b"), [(text, "-1.5"), ("x", text)]), newline="")
    raw = path.read_text().splitlines()
    assert raw[1].startswith(("'", "\"'"))
    assert raw[1].endswith(",-1.5")  # a number runs nothing
    rows = [row for _, row in read_table(str(path), ("a", "b"))]
    assert [rows[0]["a"], rows[1]["b"]] == [text, text]


def test_rows_come_with_their_line_and_missing_cells_are_empty(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffa , b\n1,2\n\n3\n", encoding="utf-8")
    assert list(read_table(str(path), ("a", "b"))) == [
        (2, {"a": "1", "b": "2"}),
        (4, {"a": "3", "b": ""}),
    ]


def test_csv_text_quotes_where_needed() -> None:
    assert csv_text(("a", "b"), [("x,y", 1)]) == 'a,b\n"x,y",1\n'


def test_every_fault_of_a_label_row_is_named(tmp_path) -> None:
    path = tmp_path / "labels.csv"
    rows = [
        "'=a,1,2,3,4,1",
        ",1,2,3,4,1",
        "b,1,2,3,4,2",
        "b,1,2,3,4,0",
        "b,1,2,,4,1",
        "b,1,2,0,4,1",
    ]
    path.write_text("patientId,x,y,width,height,Target\n" + "\n".join(rows) + "\nc,,,,,0\n")
    found = list(read_label_rows(str(path)))
    assert found[0] == (2, "=a", (1.0, 2.0, 4.0, 6.0), "")
    assert [row.fault for row in found[1:-1]] == list(FAULTS)
    assert found[-1] == (8, "c", None, "")


def test_a_missing_table_is_one_error(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(read_table(str(tmp_path / "none.csv"), ("a",)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a;b\n1;2\n", "lacks columns.*commas"),
        (b"a\tb\n1\t2\n", "lacks columns.*commas"),
        ("a,b\n\xe9,2\n".encode("latin-1"), "not in UTF-8.*Save it"),
        ("a,b\n1,2\n".encode("utf-16"), "not in UTF-8.*Save it"),
        (b"a,b\n" + b"x" * 200_000 + b",2\n", "not a csv.*131,072 characters"),
    ],
)
def test_the_error_says_how_to_save_the_table(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_table(str(path), ("a", "b")))
