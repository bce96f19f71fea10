"""`--deidentify basic`: the canary is in every text and in the file names, and in no output."""

import json

import pydicom
import pytest

from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.results import KIND_OF
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.batches import png, text_tags
from tests.support.peers import run_peer

ALL = OutputSettings(dicom=tuple(KIND_OF), fhir=True, report=True)
UIDS = b"1.2.826.0.1.3680043.10.999"


@pytest.fixture(scope="module")
def out(tmp_path_factory, detector, bright, dark):
    root = tmp_path_factory.mktemp("deidentified")
    (root / "in" / "CANARY").mkdir(parents=True)

    def own(number):
        return {**text_tags(), "SOPInstanceUID": f"{SERIES}.{number}"}

    save(root / "in" / "CANARY" / "a.dcm", chest_dataset(bright, PatientAge="077Y", **own(1)))
    save(root / "in" / "CANARY_1970.dcm", chest_dataset(dark, **own(2)))
    save(root / "in" / "text.dcm", chest_dataset(bright, BurnedInAnnotation="YES", **own(3)))
    png(root / "in" / "CANARY.png", bright)
    (root / "in" / "CANARY.txt").write_text("x")
    score_batch(root / "in", root / "out", detector, ScoreSettings(
        outputs=ALL, overlays="all", deidentify="basic"))  # fmt: skip
    return root / "out"


def test_no_output_names_anybody(out):
    names = [path.relative_to(out).as_posix() for path in out.rglob("*")]
    assert not [name for name in names if "CANARY" in name]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len([path for path in written if path.suffix == ".dcm"]) == 6
    for path in written:
        data = path.read_bytes()
        assert b"CANARY" not in data, path.name
        assert UIDS not in data, path.name
        assert b"077Y" not in data, path.name


def test_an_image_with_text_burned_in_is_refused_unless_allowed(out, detector, tmp_path):
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert sorted((line["status"], line["reason"]) for line in lines) == [
        ("rejected", "burned_in_annotation"),
        ("scored", ""),
        ("scored", ""),
        ("scored", ""),
        ("skipped", "other_file"),
    ]
    settings = ScoreSettings(deidentify="basic", allow_burned_in=True)
    again = score_batch(out.parent / "in", tmp_path / "out", detector, settings)
    assert [record.status for record in again.records].count("scored") == 4


def test_results_say_how_they_were_made_nameless(out):
    for path in (out / "dicom").iterdir():
        result = pydicom.dcmread(path)
        assert result.PatientIdentityRemoved == "YES"
        assert result.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert str(result.PatientID).startswith("ANON-")
        assert result.StudyInstanceUID.startswith("2.25.")
        assert not result.StudyDate
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in (out / "dicom").iterdir()}
    patients = {str(pydicom.dcmread(path).PatientID) for path in (out / "dicom").iterdir()}
    assert len(studies) == len(patients) == 1  # the two images are of one study, as before


@pytest.mark.interop
def test_dicom3tools_accepts_nameless_results(out):
    for path in (out / "dicom").iterdir():
        found = run_peer("dciodvfy", path)
        errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
        assert errors == [], path.name


def test_identifiers_and_deidentify_exclude_each_other():
    with pytest.raises(ConfigError, match="Choose one"):
        ScoreSettings(deidentify="basic", identifiers=True)
    with pytest.raises(ConfigError, match="Unknown profile"):
        ScoreSettings(deidentify="full")
