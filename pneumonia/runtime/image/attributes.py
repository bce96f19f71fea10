r"""Values of DICOM attributes as headers hold them: one, several, none, or bytes that do not parse.

The standard gives most attributes one value (VM 1), but files hold several (`1\2\3`), none, or
text that pydicom cannot convert. Every header of this project is read through these functions, so
that no such value becomes a TypeError somewhere else.
"""

import math
import re
from typing import Any, List, Optional, Sequence

from pydicom.datadict import dictionary_VR, tag_for_keyword

_DECIMAL_COMMA = re.compile(r"^[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?$")


def all_values(dataset: Any, keyword: str) -> List[Any]:
    """All values of an attribute in file order.

    Args:
        dataset: pydicom Dataset.
        keyword: Keyword of the attribute, for example `WindowCenter`.

    Returns:
        An empty list when the attribute is absent, empty, a sequence, or cannot be converted.
        Decimal strings (VR DS) that do not parse are returned as text.
    """
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
            return [] if value is None or value in ("", b"") else [value]
        # PersonName has a length, too, but is one value
        values = list(value) if hasattr(value, "append") else [value] if str(value) else []
    except Exception:  # pydicom converts on access and raises many kinds on malformed bytes
        return _decimal_texts(dataset, keyword)
    return [] if any(hasattr(one, "keys") for one in values) else values


def _decimal_texts(dataset: Any, keyword: str) -> List[Any]:
    """The values of a decimal string (VR DS) that pydicom cannot convert, as text."""
    try:
        tag = tag_for_keyword(keyword)
        element = dataset.get_item(tag)
        if (element.VR or dictionary_VR(tag)) != "DS":
            return []
        return [text.strip(" \0") for text in str(element.value, "latin-1").split("\\")]
    except Exception:  # absent, or bytes that are no element
        return []


def first_value(dataset: Any, keyword: str) -> Any:
    """The first value of an attribute; None when there is none or it is empty."""
    values = all_values(dataset, keyword)
    return None if not values or values[0] in (None, "", b"") else values[0]


def first_text(dataset: Any, keyword: str) -> str:
    """The first value as text without surrounding spaces; empty when there is none."""
    value = first_value(dataset, keyword)
    return "" if value is None or isinstance(value, bytes) else str(value).strip()


def joined_text(dataset: Any, keyword: str) -> str:
    r"""All values as text, separated by `\` as in the file; empty when there is none."""
    values = all_values(dataset, keyword)
    kept = ["" if one is None or isinstance(one, bytes) else str(one).strip() for one in values]
    return "\\".join(kept) if any(kept) else ""


def first_number(dataset: Any, keyword: str) -> Optional[float]:
    """The first value as a finite float (`1,5` is 1.5); None when absent or not a number."""
    return _finite(first_value(dataset, keyword))


def first_numbers(dataset: Any, keyword: str, count: int) -> Optional[List[float]]:
    """The first `count` values as finite floats; None unless all of them are numbers."""
    numbers = [_finite(value) for value in all_values(dataset, keyword)[:count]]
    found = [number for number in numbers if number is not None]
    return found if len(found) == count else None


def only_integer(dataset: Any, keyword: str) -> Optional[int]:
    """The value of an attribute that must be one integer; None when it is anything else."""
    values = all_values(dataset, keyword)
    return int(values[0]) if len(values) == 1 and isinstance(values[0], int) else None


def sequence_items(dataset: Any, keyword: str) -> Optional[List[Any]]:
    """The items of a sequence, an empty list when it is absent; None when it cannot be read."""
    try:
        items = list(dataset.get(keyword) or ())
    except Exception:  # pydicom converts on access and raises many kinds on malformed bytes
        return None
    return items if all(hasattr(item, "keys") for item in items) else None


def number_warnings(dataset: Any, keywords: Sequence[str]) -> List[str]:
    """Warning codes of decimal strings that are not written as DICOM requires.

    Args:
        dataset: pydicom Dataset.
        keywords: Attributes of VR DS.

    Returns:
        `decimal_comma` when a value has a comma, which is read as a point; `number_malformed` when
        a value is not a finite number and counts as absent.
    """
    codes = set()
    for value in (one for keyword in keywords for one in all_values(dataset, keyword)):
        if value in (None, ""):
            continue
        if _finite(value) is None:
            codes.add("number_malformed")
        elif isinstance(value, str) and _DECIMAL_COMMA.match(value):
            codes.add("decimal_comma")
    return sorted(codes)


def _finite(value: Any) -> Optional[float]:
    if isinstance(value, str) and _DECIMAL_COMMA.match(value.strip()):
        value = value.replace(",", ".")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
