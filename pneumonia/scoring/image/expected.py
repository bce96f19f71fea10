"""Checks that the answers and files of a server match the query."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from pneumonia.runtime.image.attributes import OBJECT_UIDS

# reasons not to score an image
WRONG_OBJECT, NOT_ASKED_FOR, AMBIGUOUS = "wrong_object", "not_asked_for", "ambiguous_object"
STATUS_OF = {WRONG_OBJECT: "failed", NOT_ASKED_FOR: "skipped", AMBIGUOUS: "failed"}


class ExpectedObject(NamedTuple):
    """The object that a file from a server must hold."""

    uids: tuple[str, str, str]  # study, Series and SOP Instance UID
    # the matching keys that the server's answer did not confirm, as alternatives of (keyword,
    # value); without an alternative there is nothing to check
    keys: tuple[tuple[tuple[str, str], ...], ...] = ()
    # patient and study as the server describes them; a change means that an image scored earlier
    # may have been corrected
    revision: str = ""

    def mismatch(self, identity: Mapping[str, str]) -> str:
        """Why a file is not the expected object; empty when it is.

        Args:
            identity: UIDs, accession number and study date of the file's header.

        Returns:
            WRONG_OBJECT, NOT_ASKED_FOR, or an empty string.
        """
        if tuple(identity.get(keyword, "") for keyword in OBJECT_UIDS) != self.uids:
            return WRONG_OBJECT
        fits = not self.keys or any(
            all(is_match(keyword, asked, identity.get(keyword, "")) for keyword, asked in keys)
            for keys in self.keys
        )
        return "" if fits else NOT_ASKED_FOR


def is_match(keyword: str, asked: str, found: str) -> bool:
    """Whether a value fits a matching key (PS3.4 C.2.2.2), for keys without wildcards.

    Args:
        keyword: Of the attribute.
        asked: The key; a range `A-B`, `A-` or `-B` for dates.
        found: The attribute's value.
    """
    if not keyword.endswith("Date"):
        return found.strip(" \0") == asked.strip()
    day = found.strip(" \0").replace(".", "")  # ACR-NEMA wrote 2024.03.01
    if not re.fullmatch(r"\d{8}", day):
        return False
    first, dash, last = asked.partition("-")
    return (first or day) <= day <= ((last or day) if dash else first)


def open_keys(asked: Mapping[str, str], answer: Mapping[str, str]) -> dict[str, str] | None:
    """Compare a server's answer with the query: servers ignore keys that they do not support.

    Args:
        asked: Matching keys by keyword.
        answer: Values of the answer; absent and empty values neither confirm nor contradict.

    Returns:
        The keys that the answer leaves open; None when it contradicts one.
    """
    known = {keyword: answer.get(keyword, "").strip(" \0") for keyword in asked}
    if any(value and not is_match(key, asked[key], value) for key, value in known.items()):
        return None
    return {keyword: asked[keyword] for keyword, value in known.items() if not value}
