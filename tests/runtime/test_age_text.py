"""Ages as text, in years."""

import pytest

from pneumonia.runtime.age_text import age_band, age_years, has_unit


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("58", 58), ("58.0", 58), ("058Y", 58), ("006M", 0.5), ("2.5 years", 2.5), ("2,5Y", 2.5),
        ("2y 6m", 2.5), ("P2Y", 2), ("2 años", 2), ("５８", 58), (" 7 ", 7), ("0", 0),
        ("120", 120), ("121", None), ("414", None), ("", None), ("-3", None), ("old", None),
        ("Y", None), ("nan", None), ("inf", None), ("1e1", None), ("3 Q", None),
    ],
)  # fmt: skip
def test_years(text: str, years: float | None) -> None:
    assert age_years(text) == (None if years is None else pytest.approx(years))


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (64, "40-64"), (65, "65+"), (121, ""), (None, "")],
)
def test_bands(age: float | None, band: str) -> None:
    assert age_band(age) == band


def test_a_number_has_no_unit() -> None:
    assert [has_unit(text) for text in ("45", " 45.5\0", "045Y", "2 Jahre")] == [
        False, False, True, True,
    ]  # fmt: skip
