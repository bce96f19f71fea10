"""Texts of messages and pages: counts with their noun, letters without accents."""

import unicodedata


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun, such as `1 file` or `1,200 studies`.

    Args:
        plural: The plural; empty for the noun with `s`.
    """
    return "{:,} {}".format(count, noun if count == 1 else plural or noun + "s")


def plain_letters(text: str) -> str:
    """Text without accents: `schräg` is `schrag`."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part))
