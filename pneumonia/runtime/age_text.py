"""Ages as headers and tables write them: `056Y`, `8M`, `58.0`, `2 Jahre`."""

import math
import re
from typing import Optional

from pneumonia.runtime.text import plain_letters

OLDEST_YEARS = 120.0  # older is a typing error: NIH ChestX-ray14 has ages up to 414
AGE_BANDS = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (math.inf, "65+"))  # years below, name
# 002Y, 2Y, 24M, `2 years`, `3 mois`, `4 ans`, `2 Jahre`, without accents
_UNITS = (
    (r"d|days?|t|tage?n?|jours?|giorn[io]|dias?|dagen", 1 / 365.25),
    (r"w|wks?|weeks?|wochen?|semaines?|semanas?|settiman[ae]|weken", 7 / 365.25),
    (r"m|mo|mos|mon|mths?|months?|mois|monate?n?|mes[ei]|mese[is]?|meses|maanden", 1 / 12),
    (r"y|yrs?|years?|yo|a|ans?|j|jahre?n?|jaar|ann[io]|anos?", 1.0),
)
# one or several numbers with units: `2y 3m`, `2.5 years`, P2Y (ISO 8601)
_NUMBER = r"([0-9]{1,5}(?:[.,][0-9]{1,5})?)"
_PART = _NUMBER + r"[\s-]*([a-z]+)[\s.,]*"
_AGE = re.compile("^p?(?:" + _PART + ")+(?:old)?$")
_PLAIN_AGE = re.compile("^" + _NUMBER + "$")


def has_unit(text: str) -> bool:
    """Whether an age is more than a number, which may be of any unit."""
    return not _PLAIN_AGE.match(_plain(text))


def age_years(text: str) -> Optional[float]:
    """An age in years; a number without a unit is years.

    Args:
        text: The age, in one of several languages.

    Returns:
        None when the age is absent, malformed or above OLDEST_YEARS.
    """
    text = _plain(text)
    plain = _PLAIN_AGE.match(text)
    parts = [(plain.group(1), "y")] if plain else []
    if _AGE.match(text):
        parts = re.findall(_PART, text)
    years = 0.0
    for number, unit in parts:
        factor = _years_of_unit(unit)
        if factor is None:
            return None
        years += float(number.replace(",", ".")) * factor
    return years if parts and years <= OLDEST_YEARS else None


def age_band(years: Optional[float]) -> str:
    """The band of an age, for example `40-64`; empty when it is not known or above OLDEST_YEARS."""
    if years is None or not 0 <= years <= OLDEST_YEARS:
        return ""
    return next(name for end, name in AGE_BANDS if years < end)


def _plain(text: str) -> str:
    return plain_letters(text).lower().strip(" \0")


def _years_of_unit(unit: str) -> Optional[float]:
    for pattern, years in _UNITS:
        if re.match("^(?:" + pattern + ")$", unit):
            return years
    return None
