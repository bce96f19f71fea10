r"""Values of DICOM attributes as headers hold them: one, several, none, or bytes that do not parse.

The standard gives most attributes one value (VM 1), but files hold several (`1\2\3`), none, or
text that pydicom cannot convert. Every header of this project is read through these functions, so
that no such value becomes a TypeError somewhere else.
"""

import math
import re
import warnings
from functools import lru_cache
from typing import Any, List, Optional, Sequence, Tuple

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.tag import Tag
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS, PersonName

OBJECT_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
TEXT_KINDS = ("SH", "LO", "ST", "LT", "UC", "UT", "PN")  # VRs that have a character set
# PS3.5 6.2; Python also takes 1_024 and digits of other scripts
_NUMBER = re.compile(r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$")
_DECIMAL_COMMA = re.compile(r"^[+-]?([0-9]+,[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?$")


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
        tag = _tag_of(keyword)
        if tag is None or tag not in dataset:
            return []
        value = dataset[tag].value
        if value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
            return [] if value is None or value in ("", b"") else [value]
        # PersonName has a length, too, but is one value
        values = list(value) if hasattr(value, "append") else [value] if str(value) else []
    except Exception:  # pydicom converts on access and raises many kinds on malformed bytes
        return _decimal_texts(dataset, keyword)
    return [] if any(hasattr(one, "keys") for one in values) else values


@lru_cache(maxsize=None)  # keywords are constants of this project
def _tag_of(keyword: str) -> Any:
    number = tag_for_keyword(keyword)
    return None if number is None else Tag(number)


def _decimal_texts(dataset: Any, keyword: str) -> List[Any]:
    """The values of a decimal string (VR DS) that pydicom cannot convert, as text."""
    try:
        tag = tag_for_keyword(keyword)
        element = dataset.get_item(tag)
        if (element.VR or dictionary_VR(tag)) != "DS":
            return []
        return [text.strip(" \0") for text in str(element.value, "latin-1").split("\\")]
    except Exception:  # absent, or bytes that are not a valid element
        return []


def first_value(dataset: Any, keyword: str) -> Any:
    """The first value of an attribute; None when there is none or it is empty."""
    values = all_values(dataset, keyword)
    return None if not values or values[0] in (None, "", b"") else values[0]


def first_text(dataset: Any, keyword: str) -> str:
    """The first value as text without surrounding spaces; empty when there is none."""
    return _text(first_value(dataset, keyword))


def _text(value: Any) -> str:
    """A value as text; bytes of an unknown character set as Latin-1."""
    if isinstance(value, bytes):
        value = str(value, "latin-1").replace("\0", " ")
    return "" if value is None else str(value).strip()


def joined_text(dataset: Any, keyword: str) -> str:
    r"""All values as text, separated by `\` as in the file; empty when there is none."""
    values = all_values(dataset, keyword)
    kept = [_text(one) for one in values]
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


def keep_undecodable_bytes(dataset: Any) -> bool:
    """Turn text that pydicom would re-code or cannot decode into bytes (VR OB), kept as they are.

    Args:
        dataset: As it was read, so that its elements are still bytes; nested ones are left alone.

    Returns:
        Whether some text does not fit its declared character set.
    """
    is_undecodable = False
    for tag in list(dataset.keys()):
        data = undecodable_bytes(dataset, tag)
        if data is not None:
            kind, sets = _text_kind(dataset, tag), all_values(dataset, "SpecificCharacterSet")
            is_undecodable |= _decoded(data, kind, sets) is None
            dataset[tag] = DataElement(tag, "OB", data, already_converted=True)
    return is_undecodable


def undecodable_bytes(dataset: Any, tag: Any) -> Optional[bytes]:
    """The bytes of a text element that pydicom would not write as they are; else None."""
    data = getattr(dataset.get_item(tag), "value", None)
    if not isinstance(data, bytes) or not _beyond_ascii(data):
        return None
    kind = _text_kind(dataset, tag)
    if kind not in TEXT_KINDS:
        return None
    found = _decoded(data, kind, all_values(dataset, "SpecificCharacterSet"))
    is_kept = found is not None and (b"\x1b" not in data or _is_reproduced(data, kind, *found))
    return None if is_kept else data


def _text_kind(dataset: Any, tag: Any) -> str:
    kind = dataset.get_item(tag).VR
    if kind in (None, "UN", "OB"):
        kind = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    return str(kind)


def _beyond_ascii(data: bytes) -> bool:
    return b"\x1b" in data or any(byte > 127 for byte in data)


def _decoded(data: bytes, kind: str, character_sets: List[Any]) -> Optional[Tuple[str, List[str]]]:
    """Text that is not ASCII alone, and pydicom's names of its character sets.

    Returns:
        None for an unknown character set, or bytes outside of it.
    """
    first = str(character_sets[0] or "").strip() if character_sets else ""
    if b"\x1b" not in data and first in ("", "ISO_IR 6", "ISO 2022 IR 6"):
        return None  # ASCII
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what pydicom replaces it warns of
            encodings = convert_encodings([str(one) for one in character_sets])
            if len(encodings) == 1 and b"\x1b" not in data:
                return str(data, encodings[0]), encodings
            delimiters = PN_DELIMS if kind == "PN" else TEXT_VR_DELIMS
            return decode_bytes(data, encodings, delimiters), encodings
    except Exception:  # pydicom raises many kinds
        return None


def _is_reproduced(data: bytes, kind: str, text: str, encodings: List[str]) -> bool:
    """Whether pydicom writes text with the escape sequences that it was read with."""
    values = text.rstrip(" \0").split("\\")
    try:
        if kind == "PN":
            parts = [PersonName(value, encodings).encode(encodings) for value in values]
        else:
            parts = [encode_string(value, encodings) for value in values]
    except Exception:  # text of a character set that pydicom decodes only
        return False
    return b"\\".join(parts) == data.rstrip(b" \0")


def _finite(value: Any) -> Optional[float]:
    text = getattr(value, "original_string", value)  # of pydicom's decimal strings
    if isinstance(text, bytes):
        text = str(text, "latin-1")
    if isinstance(text, str):
        text = text.strip(" \0")
        value = text.replace(",", ".") if _DECIMAL_COMMA.match(text) else text
        if not _NUMBER.match(value):
            return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
