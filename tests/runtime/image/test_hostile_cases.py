"""Each hostile header is read as the table in docs/reference/dicom-cases.md states.

Spans: pneumonia.runtime.image.
"""

import pytest

from tests.contracts.tree import ROOT
from tests.runtime.image.hostile_cases import CASES, table


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_case(case, tmp_path):
    assert case.look(case.name, tmp_path) == case.now


def test_the_page_holds_the_table():
    page = (ROOT / "docs" / "reference" / "dicom-cases.md").read_text(encoding="utf-8")
    assert table() in page
    assert len(CASES) >= 40
