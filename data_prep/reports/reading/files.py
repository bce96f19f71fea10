"""Read reports from a csv, text files or OpenI's XML; unusable ones are listed with a reason."""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from data_prep.reports.findings.linking import MAX_CHARACTERS
from pneumonia.runtime.errors import DataError

MAX_BYTES = 4 * MAX_CHARACTERS  # UTF-8 has at most four bytes per character
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ID_COLUMNS = ("report_id", "uid", "id", "study_id", "accession")
_IMAGE_COLUMNS = ("images", "image_ids", "image_id", "patientid")
_CODE_COLUMNS = ("mesh_major",)
_TEXT_COLUMNS = ("text", "report", "report_text")
_PARTS = ("comparison", "indication", "findings", "impression")  # columns with one section
_ENGLISH = {
    "the", "is", "are", "no", "of", "and", "in", "with", "there", "without", "not", "normal",
    "clear", "right", "left", "lung", "lungs", "heart", "effusion", "pneumothorax", "acute",
    "chest", "unremarkable", "stable", "opacity", "disease", "negative", "within", "for", "to",
}  # fmt: skip
# Frequent words of reports in German, French, Spanish, Italian, Portuguese and Dutch.
_OTHER_LANGUAGES = {
    "und", "der", "das", "im", "kein", "keine", "ohne", "mit", "nicht", "links", "rechts",
    "les", "des", "pas", "dans", "une", "gauche", "droite", "pulmonaire", "sans",
    "el", "los", "las", "del", "hay", "sin", "izquierda", "izquierdo", "derecha", "pulmonar",
    "nella", "della", "senza", "sinistra", "destra", "não", "sem", "esquerda", "direita",
    "het", "een", "geen", "zonder",
}  # fmt: skip


class OpeniArticle:
    """One XML file of the Indiana University (OpenI) collection, filled by the parser's events.

    Attributes:
        sections: (label in lower case, text).
        codes: The manual codes, `<major>`.
        images: Ids of its radiographs.
    """

    def __init__(self) -> None:
        self.sections: list[tuple[str, str]] = []
        self.codes: list[str] = []
        self.images: list[str] = []
        self._label = ""
        self._words: list[str] = []

    def open(self, tag: str, attributes: dict[str, str]) -> None:
        """Handle the start of an element."""
        self._words = []
        self._label = attributes.get("Label", "").lower() or "findings"
        if tag == "parentImage" and attributes.get("id"):
            self.images.append(attributes["id"])

    def close(self, tag: str) -> None:
        """Handle the end of an element."""
        text = "".join(self._words).strip()
        self._words = []
        if tag == "AbstractText":
            self.sections.append((self._label, text))
        elif tag == "major" and text:
            self.codes.append(text)

    def read(self, text: str) -> None:
        """Handle character data of the innermost element."""
        self._words.append(text)


def _refuse(*_: object) -> None:
    raise ValueError("entity")


def parse_openi_xml(data: bytes) -> OpeniArticle | None:
    """Read a file; None when it is not XML or declares entities.

    Entities would allow memory exhaustion and access to other files; reports do not use them.
    """
    article = OpeniArticle()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = article.open, article.close
    parser.CharacterDataHandler = article.read
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an unknown encoding
        return None
    return article


class SourceReport(NamedTuple):
    """A report, or the reason why it cannot be used."""

    report_id: str  # id from the source, or position (`row 7`); never text of the report
    text: str  # with headings `FINDINGS:` and so on; empty when it cannot be used
    codes: tuple[str, ...] = ()  # manual codes, where the source has them
    images: tuple[str, ...] = ()  # names of its radiographs, without suffix
    reason: str = ""  # empty, or a short code such as `empty`, `binary`, `too_long`


def read_reports(source: Path) -> Iterator[SourceReport]:
    """Reports of a csv, of a folder of .txt or OpenI .xml files, or of one such file.

    Raises:
        DataError: The source is missing, unreadable or in another format.
    """
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".txt", ".xml"))
        if not paths:
            raise DataError(
                "Folder has no report", expected=".txt or .xml files", where=str(source)
            )
        seen: set[str] = set()
        for path in paths:
            yield _once(_read_file(path), seen)
        return
    if not source.exists():
        raise DataError("Reports are missing", where=str(source))
    if source.suffix.lower() in (".txt", ".xml"):
        yield _read_file(source)
        return
    if source.suffix.lower() != ".csv":
        raise DataError(
            "Unknown kind of reports", expected="a .csv, .txt or .xml file, or a folder",
            found=repr(source.suffix), where=str(source),
        )  # fmt: skip
    yield from _read_csv(source)


def _once(report: SourceReport, seen: set[str]) -> SourceReport:
    if report.report_id in seen:
        return report._replace(text="", reason="repeated_id")
    seen.add(report.report_id)
    return report


def _read_file(path: Path) -> SourceReport:
    name = path.stem if _ID.fullmatch(path.stem) else "unnamed"
    try:
        if path.stat().st_size > (16 * MAX_BYTES if path.suffix.lower() == ".xml" else MAX_BYTES):
            return SourceReport(name, "", reason="too_long")
        data = path.read_bytes()
    except OSError:
        return SourceReport(name, "", reason="unreadable")
    if path.suffix.lower() == ".xml":
        return _xml_report(data, name)
    text = _decode(data)
    return (
        SourceReport(name, "", reason="binary")
        if text is None
        else check_report(SourceReport(name, text))
    )


def _xml_report(data: bytes, name: str) -> SourceReport:
    article = parse_openi_xml(data)
    if article is None:
        return SourceReport(name, "", reason="not_xml")
    if not article.sections:
        return SourceReport(name, "", reason="not_a_report")
    images = tuple(image for image in article.images if _ID.fullmatch(image))
    return check_report(
        SourceReport(name, join_sections(article.sections), tuple(article.codes), images)
    )


def _decode(data: bytes) -> str | None:
    """Text in UTF-8, UTF-16 with its mark, Windows-1252 or Latin-1; None for binary data."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _decode_single_bytes(data)
    return None if _is_binary(text) else text


def _decode_single_bytes(data: bytes) -> str:
    """Windows-1252, which is Latin-1 with letters and quotes of its own; else Latin-1."""
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _is_binary(text: str) -> bool:
    odd = sum(1 for c in text[:4096] if (c < " " and c not in "\t\n\r\f") or "\x7f" <= c <= "\x9f")
    return "\x00" in text or odd > 0.02 * len(text[:4096])


def check_report(report: SourceReport) -> SourceReport:
    """The report with its text, or with a reason: markup, another language, too long, empty."""
    text = report.text
    letters = sum(c.isalpha() for c in text[:4096])
    if len(text) > MAX_CHARACTERS:
        reason = "too_long"
    elif letters < 3:
        reason = "empty"
    elif _is_binary(text):
        reason = "binary"
    elif re.search(r"<(?:!doctype|html|body|script|div|p|table)\b[^>]*>", text[:4096], re.I):
        reason = "html"
    else:
        reason = "" if _is_english(text[:20_000]) else "language"
    return report._replace(text="", reason=reason) if reason else report


def _is_english(text: str) -> bool:
    """Whether a text is English, or too short to be known: "Normal chest." is a valid report."""
    letters = [c for c in text if c.isalpha()]
    if sum(c > "\u024f" for c in letters) > len(letters) / 2:  # after the Latin letters
        return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    english = sum(word in _ENGLISH for word in words)
    if sum(word in _OTHER_LANGUAGES for word in words) > max(1, english):
        return False
    return len(words) < 8 or english >= 0.08 * len(words)


def _read_csv(path: Path) -> Iterator[SourceReport]:
    # a field may contain a whole report
    usual_limit = csv.field_size_limit(min(sys.maxsize, 64 << 20))
    try:
        with path.open(
            newline="", encoding=_csv_encoding(path), errors="surrogateescape"
        ) as stream:
            record: list[str] = []
            reader = csv.reader(_without_nul(stream, record))
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(header, path)
            seen: set[str] = set()
            for number, cells in enumerate(filter(None, reader), 2):
                _check_closed(record, number, path)
                yield _once(_csv_report(header, cells, number), seen)
    except OSError as error:
        raise DataError(
            "Cannot read reports", found=error.strerror or str(error), where=str(path)
        ) from None
    except csv.Error:
        raise DataError("Reports are not a csv", where=str(path)) from None
    finally:
        csv.field_size_limit(usual_limit)


def _csv_encoding(path: Path) -> str:
    with path.open("rb") as stream:
        is_utf16 = stream.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return "utf-16" if is_utf16 else "utf-8-sig"


def _without_nul(lines: Iterator[str], record: list[str]) -> Iterator[str]:
    """The lines of a csv; `record` has those of the row that is being read."""
    for line in lines:
        record.append(line)
        yield line.replace("\x00", "\x01")  # csv stops at NUL; the report gets the reason `binary`


def _check_closed(record: list[str], number: int, path: Path) -> None:
    """Refuse a quoted cell that ends with the file: all rows after its quote are in it."""
    lines = record[:]
    record.clear()
    try:
        list(csv.reader(lines, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            raise DataError(
                "Quoted cell of the csv does not end", expected='a second "',
                found=f"row {number} with {len(lines)} lines", where=str(path),
            ) from None  # fmt: skip


def _check_header(header: list[str], path: Path) -> None:
    if not {*_TEXT_COLUMNS, "findings", "impression"}.intersection(header):
        raise DataError(
            "Csv has no report column",
            expected="`text`, or `findings` and `impression`, between commas",
            found=",".join(header)[:200] or "an empty file",
            where=str(path),
        )
    read = {*_TEXT_COLUMNS, *_PARTS, *_ID_COLUMNS, *_IMAGE_COLUMNS, *_CODE_COLUMNS}
    for name in sorted(read):
        if header.count(name) > 1:
            raise DataError("Csv has a column twice", found=name, where=str(path))


def _csv_report(header: list[str], cells: list[str], number: int) -> SourceReport:
    row = dict(zip(header, (cell.strip() for cell in cells), strict=False))

    def first(names: tuple[str, ...]) -> str:
        return next((row.get(name, "") for name in names if name in header), "")

    own = first(_ID_COLUMNS)
    name = own if _ID.fullmatch(own) else f"row {number}"
    whole = [column for column in header if column in _TEXT_COLUMNS][:1]
    if whole:
        text = row.get(whole[0], "")
    else:
        text = join_sections([(part, row.get(part, "")) for part in header if part in _PARTS])
    images, codes = (
        tuple(part.strip() for part in first(columns).split(";") if part.strip())
        for columns in (_IMAGE_COLUMNS, _CODE_COLUMNS)
    )
    if any(0xDC80 <= ord(c) <= 0xDCFF for c in text):  # bytes that are not UTF-8
        text = _decode_single_bytes(text.encode("utf-8", "surrogateescape"))
    if any(cells[len(header) :]):  # a comma in a text without quotes: the rest of it is lost
        return SourceReport(name, "", codes, images, "more_cells_than_columns")
    return check_report(SourceReport(name, text, codes, images))


def join_sections(parts: list[tuple[str, str]]) -> str:
    """One text with a heading before each section that is not empty."""
    return "\n\n".join(f"{name.upper()}: {text}" for name, text in parts if text)
