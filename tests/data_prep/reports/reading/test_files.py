"""Readers: what is a report and what is not, without ever stopping."""

import codecs
import os
from pathlib import Path

import pytest

from data_prep.reports.reading.files import read_reports
from data_prep.reports.reading.splitting import split_reports
from pneumonia.runtime.errors import DataError

XML = """<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR9"/><MedlineCitation><Article>
<Abstract><AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="FINDINGS">Right base opacity &amp; effusion.</AbstractText>
<AbstractText Label="IMPRESSION"/></Abstract></Article></MedlineCitation>
<MeSH><major>Opacity/lung/base/right</major><automatic>opacity</automatic></MeSH>
<parentImage id="CXR9_1"/><parentImage id="../x"/></eCitation>"""


def read_one(path: Path, data: bytes) -> tuple[str, str]:
    path.write_bytes(data)
    (report,) = list(read_reports(path))
    return report.text, report.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t. -", "empty"),
        (bytes(range(256)) * 8, "binary"),
        (b"The lungs are clear.\x00", "binary"),
        (b"The lungs are clear. " * 500_000, "too_long"),
        (b"Der Befund zeigt eine kleine Verschattung im Unterlappen, kein Erguss.",
         "language"),
        ("\u80ba\u91ce\u6e05\u6670 \u672a\u89c1 \u5f02\u5e38 a b c d e f g h".encode(), "language"),
        (b"Opacidad en la base izquierda. No hay derrame pleural.", "language"),
        ("\u5de6\u4e0b\u80ba\u91ce\u6591\u7247\u72b6\u9634\u5f71".encode(), "language"),
        (b"Enlarged LA. Des Moines view.", ""),
        ("Patient\u2019s lungs clear.".encode("cp1252"), ""),
        (b"<!DOCTYPE html><p>The lungs are clear.</p>", "html"),
        (b"%PDF-1.4 \x01\x02\x03\x04\x05\x06\x07\x08" * 20, "binary"),
        (b"Normal chest.", ""),
        ("Lungs are clear. \u00c5ngstr\u00f6m.".encode("latin-1"), ""),
        (codecs.BOM_UTF16_LE + "The lungs are clear.".encode("utf-16-le"), ""),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "binary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bad_text_has_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    text, found = read_one(tmp_path / "a.txt", data)
    assert found == reason
    assert bool(text) == (reason == "")


def test_openi_xml(tmp_path: Path) -> None:
    path = tmp_path / "9.xml"
    path.write_text(XML, encoding="utf-8")
    (report,) = list(read_reports(path))
    assert report.text == "COMPARISON: None.\n\nFINDINGS: Right base opacity & effusion."
    assert report.codes == ("Opacity/lung/base/right",)
    assert report.images == ("CXR9_1",)  # a name that leaves the folder is no name
    assert (report.report_id, report.reason) == ("9", "")


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (XML[:200], "not_xml"),
        ("<a/>", "not_a_report"),
        ('<!DOCTYPE a [<!ENTITY b "cc">]><a><AbstractText>&b;</AbstractText></a>', "not_xml"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><AbstractText>&b;</AbstractText>',
         "not_xml"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "not_xml"),
    ],
)  # fmt: skip
def test_hostile_xml(tmp_path: Path, xml: str, reason: str) -> None:
    assert read_one(tmp_path / "a.xml", xml.encode()) == ("", reason)


def test_a_folder_is_read_in_order_and_ids_are_unique(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("Lungs are clear.")
    (tmp_path / "a.txt").write_text("Heart is enlarged.")
    (tmp_path / "sub" / "a.txt").write_text("Another one.")
    (tmp_path / "notes.doc").write_text("not read")
    os.symlink(tmp_path / "nowhere", tmp_path / "c.txt")
    found = [(r.report_id, r.reason) for r in read_reports(tmp_path)]
    assert found == [("a", ""), ("b", ""), ("c", "unreadable"), ("a", "repeated_id")]


def test_csv_with_sections_and_with_text(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(
        "\ufeffuid,findings,impression,images,mesh_major\n"
        '1,"Clear, lungs.",Normal chest.,a;b,normal\n'
        ",,Effusion.,,\n"
        "1,Again.,,,\n"
        "../x,Opacity.,,,Opacity/lung;Mass\n",
        encoding="utf-8",
    )
    first, second, third, fourth = read_reports(path)
    assert first.text == "FINDINGS: Clear, lungs.\n\nIMPRESSION: Normal chest."
    assert (first.images, first.codes) == (("a", "b"), ("normal",))
    assert (second.report_id, second.text) == ("row 3", "IMPRESSION: Effusion.")
    assert third.reason == "repeated_id"
    assert (fourth.report_id, fourth.codes) == ("row 5", ("Opacity/lung", "Mass"))
    path.write_text("text\nLungs clear.\n\x00bad\n")
    assert [r.reason for r in read_reports(path)] == ["", "binary"]
    path.write_bytes(b"report_id,text\n7,Lungs clear \xe9.\n")
    assert [(r.report_id, r.text) for r in read_reports(path)] == [("7", "Lungs clear \xe9.")]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_a_csv_as_spreadsheets_write_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "r.csv"
    text = "Report_ID,Text,Images,,\r\n7,Patient\u2019s lungs are clear.,a;b,,\r\n,,,,\r\n"
    path.write_bytes(text.encode(encoding))
    first, second = read_reports(path)
    assert (first.report_id, first.images) == ("7", ("a", "b"))
    assert first.text == "Patient\u2019s lungs are clear."
    assert second.reason == "empty"


def test_a_column_without_a_name_is_not_that_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(",report_id,text\n0,7,Lungs clear.\n")  # as pandas writes its index
    assert [(r.report_id, r.text) for r in read_reports(path)] == [("7", "Lungs clear.")]


def test_a_comma_outside_quotes_does_not_shorten_a_text(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("report_id,text\n7,No effusion, opacity in the left base.\n8,Opacity.,,\n")
    found = [(r.report_id, r.text, r.reason) for r in read_reports(path)]
    assert found == [("7", "", "more_cells_than_columns"), ("8", "Opacity.", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('report_id,text\n1,Clear.\n2,"Opacity.\n3,Clear.\n', "does not end.*row 3 with 2 lines"),
        ("report_id,text,text\n1,Opacity.,Clear.\n", "column twice; found text"),
    ],
)
def test_a_csv_that_would_lose_reports_stops(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(read_reports(path))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\x00\x01\x02"])
def test_a_csv_without_reports_stops_with_a_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="no report column"):
        list(read_reports(path))


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        list(read_reports(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="no report"):
        list(read_reports(tmp_path))
    (tmp_path / "a.pdf").write_bytes(b"x")
    with pytest.raises(DataError, match="Unknown kind"):
        list(read_reports(tmp_path / "a.pdf"))


def test_the_split_is_exact_fixed_and_free_of_order() -> None:
    names = [str(i) for i in range(1000)]
    split = split_reports(names)
    assert sorted(split.values()).count("train") == 700
    assert sorted(split.values()).count("val") == 100
    assert split == split_reports(list(reversed(names)))
    assert [split[n] for n in ("0", "1", "2", "3")] == [split_reports(names)[n] for n in "0123"]
