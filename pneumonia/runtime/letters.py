"""Letters without accents, to compare texts of several languages."""

import unicodedata


def plain_letters(text: str) -> str:
    """Text without accents: `schräg` is `schrag`."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part))
