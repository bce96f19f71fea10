"""Csv tables: checked reading, writing, and escaping of text that looks like a formula.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` (also in full width, also after
white space). Writing puts an apostrophe before such text, reading takes it off.
"""

import csv
import io
import re
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

from pneumonia.runtime.errors import DataError

_LIKE_FORMULA = re.compile("'*\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
_SEPARATE = "Save it with commas between the columns"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.I | re.A)


def escape_name(name: str) -> str:
    """The name as a csv cell; one that a spreadsheet would run as a formula gets an apostrophe."""
    return "'" + name if _LIKE_FORMULA.match(name) else name


def escape_cell(value: Any) -> Any:
    """The value as a csv cell: text as `escape_name`, numbers, also as text, unchanged."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return escape_name(value)
    return value


def unescape_name(cell: str) -> str:
    """The reverse of `escape_name`."""
    return cell[1:] if cell[:1] == "'" and _LIKE_FORMULA.match(cell) else cell


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A header and rows as csv, quoted where needed, each line ended by a newline.

    Text that a spreadsheet would run as a formula is escaped; see `escape_cell`.
    """
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(header)
    for row in rows:
        table.writerow([escape_cell(value) for value in row])
    return stream.getvalue()


def read_exact_table(
    path: str, header: Sequence[str], title: str
) -> Iterator[Tuple[int, List[str]]]:
    """Rows of a csv that has exactly this header, in the order of the file; cells as they are.

    Args:
        path: The file, UTF-8; a byte order mark is accepted.
        title: What the file holds, for errors: `submission`, `predictions`.

    Returns:
        Pairs of the line number and the cells; a blank line has none.

    Raises:
        DataError: Missing, unreadable, not UTF-8, or with another header.
    """
    try:
        with io.open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            found = next(reader, [])
            if tuple(found) != tuple(header):
                raise DataError(
                    "Not a {} file".format(title),
                    expected=",".join(header),
                    found=",".join(found)[:80],
                    where=path,
                )
            for fields in reader:
                yield reader.line_num, fields
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "{} cannot be read".format(title.capitalize()), found=type(error).__name__, where=path
        ) from None


def _other_separator(header: Sequence[str]) -> bool:
    """Whether a header is one cell that semicolons or tabs separate."""
    return len(header) == 1 and any(mark in header[0] for mark in ";\t")


def read_table(path: str, columns: Sequence[str]) -> Iterator[Tuple[int, Dict[str, str]]]:
    """Rows of a csv that has at least these columns, in the order of the file.

    A byte order mark, blanks around column names, further columns and short rows are accepted;
    missing cells are empty. Escaped text is restored; see `escape_name`.

    Args:
        path: The file, UTF-8.
        columns: Names that the header must have.

    Returns:
        Pairs of the line number and the row, column name -> cell.

    Raises:
        DataError: Missing, unreadable, not UTF-8, without these columns or without rows.
    """
    path = str(path)
    empty = True
    try:
        with io.open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in columns if name not in header]
            if missing:
                shown = repr(",".join(header)[:200]) if header else "an empty file"
                raise DataError(
                    "Table lacks columns",
                    expected=",".join(columns),
                    found="no {} in {}".format(", ".join(missing), shown),
                    where=path,
                    fix=_SEPARATE if _other_separator(header) else None,
                )
            reader.fieldnames = header
            for row in reader:
                empty = False
                yield reader.line_num, {name: unescape_name(row[name] or "") for name in header}
    except OSError as error:
        raise DataError(
            "Table cannot be read", found=error.strerror or str(error), where=path
        ) from None
    except UnicodeDecodeError:
        raise DataError(
            "Table is not in UTF-8", where=path, fix="Save it as csv in UTF-8"
        ) from None
    except csv.Error:
        raise DataError(
            "Table is not a csv",
            expected="cells of at most {:,} characters".format(csv.field_size_limit()),
            where=path,
        ) from None
    if empty:
        raise DataError("Table has no rows", where=path)
