"""A small coded collection, written by a grammar, and the real one where it is."""

import csv
import os
import random
from pathlib import Path

import pytest

from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.reading.files import SourceReport, check_report

_SITES = {"left base": "lung/base/left", "right upper lobe": "lung/upper lobe/right",
          "right base": "lung/base/right"}  # fmt: skip
_FINDINGS = {"opacity": "Opacity", "scarring": "Cicatrix", "infiltrate": "Infiltrate"}


@pytest.fixture(scope="session")
def base() -> ConceptBase:
    return ConceptBase.load()


def make_reports(count: int, seed: int = 0) -> list[SourceReport]:
    """Reports whose codes follow from their words; the impression repeats a finding by name."""
    chance = random.Random(seed)
    reports = []
    for number in range(count):
        name, heading = chance.choice(sorted(_FINDINGS.items()))
        site, qualifiers = chance.choice(sorted(_SITES.items()))
        text = f"FINDINGS: There is {name} in the {site}. No pleural effusion."
        codes = [f"{heading}/{qualifiers}"]
        if chance.random() < 0.3:
            text += " Mild cardiomegaly."
            codes.append("Cardiomegaly/mild")
        if chance.random() < 0.3:
            text, codes = "FINDINGS: The lungs are clear. No pleural effusion.", ["normal"]
        else:
            text += f"\nIMPRESSION: Stable {name}."
        reports.append(check_report(SourceReport(f"r{number}", text, tuple(codes))))
    return reports


def write_reports(path: Path, reports: list[SourceReport]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("report_id", "text", "mesh_major"))
        table.writerows((r.report_id, r.text, ";".join(r.codes)) for r in reports)
    return path


@pytest.fixture(scope="session")
def openi_csv() -> Path:
    here = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("PNEUMONIA_DATA", here.parent / "shared" / "data"))
    path = folder / "reports" / "openi_reports.csv"
    if not path.is_file():
        pytest.skip(f"no real reports: {path} is missing (set PNEUMONIA_DATA)")
    return path
