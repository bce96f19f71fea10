"""Whether the patient was a child, by age or by the dates of birth and study."""

import datetime
import re
from typing import Any, NamedTuple, Optional, Tuple

from pneumonia.runtime.age_text import OLDEST_YEARS, age_years, has_unit
from pneumonia.runtime.image.attributes import first_text

ADULT_YEARS = 18
_STUDY_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime")
# 20220101, 2022.01.01 (ACR-NEMA), 2022-01-01, perhaps with a time; month and day may be missing
_DATE = re.compile(
    r"^([0-9]{4})(?:[.\-/]?([0-9]{2})(?:[.\-/]?([0-9]{2})(?:[T ]?[0-9]{2}:?[0-9]{2}.*)?)?)?$"
)
_YEAR = re.compile(r"(?<![0-9])(?:1[89]|20)[0-9]{2}(?![0-9])")


class StatedAge(NamedTuple):
    """What a header says about the age."""

    # whether the patient was younger than 18 years; None when it is not known
    is_child: Optional[bool]
    is_contradicted: bool  # whether age and dates contradict each other


def stated_age(dataset: Any) -> StatedAge:
    """The age by Patient Age and by the dates of birth and study.

    Where they contradict each other the patient counts as a child, unless the age is 0, which
    devices write for an age that was not entered.
    """
    age = _years(first_text(dataset, "PatientAge"))
    by_age = None if age is None else age < ADULT_YEARS
    by_dates = _child_by_dates(dataset)
    if by_age is None or by_dates is None:
        return StatedAge(by_dates if by_age is None else by_age, False)
    if by_age == by_dates:
        return StatedAge(by_age, False)
    return StatedAge(by_dates if age == 0 else True, True)


def _years(text: str) -> Optional[float]:
    """Patient Age in years; a number without a unit is known only if small in any unit."""
    age = age_years(text)
    return None if age is not None and age >= ADULT_YEARS and not has_unit(text) else age


def _child_by_dates(dataset: Any) -> Optional[bool]:
    born = _span(first_text(dataset, "PatientBirthDate"))
    dates = [_span(first_text(dataset, keyword)) for keyword in _STUDY_DATES]
    studied = next((date for date in dates if date is not None), None)
    if born is None or studied is None or studied[1] < born[0]:
        return None
    oldest = _whole_years(born[0], studied[1])
    youngest = _whole_years(born[1], studied[0])
    if oldest > OLDEST_YEARS or (youngest < ADULT_YEARS) != (oldest < ADULT_YEARS):
        return None
    return oldest < ADULT_YEARS


def _span(text: str) -> Optional[Tuple[datetime.date, datetime.date]]:
    """The first and the last day that a date, perhaps without month or day, can mean.

    Of other forms (01.02.2022, 1-JAN-2022) the year is known, since there is only one.
    """
    found = _DATE.match(text)
    if found is None:
        years = [int(year) for year in _YEAR.findall(text)]
        if len(years) != 1:
            return None
        return datetime.date(years[0], 1, 1), datetime.date(years[0], 12, 31)
    year, month, day = (int(part) if part else 0 for part in found.groups())
    try:
        first = datetime.date(year, month or 1, day or 1)
        if day:
            return first, first
        if month:
            later = datetime.date(year + month // 12, month % 12 + 1, 1)
            return first, later - datetime.timedelta(days=1)
        return first, datetime.date(year, 12, 31)
    except (ValueError, OverflowError):
        return None


def _whole_years(start: datetime.date, end: datetime.date) -> int:
    return end.year - start.year - ((end.month, end.day) < (start.month, start.day))
