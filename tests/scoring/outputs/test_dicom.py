"""dicom/ of a batch: which files, for which images, and what happens to them later."""

import io
import re

import pydicom
import pytest

from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.patients import fill, patient
from tests.support.peers import run_peer

SR_ONLY = ScoreSettings(outputs=OutputSettings(dicom=("sr",), report=False))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_scored_dicom_image_has_its_results(scored, key_of):
    _, out, summary = scored
    expected = {
        f"{key_of[name]}-{kind}.dcm"
        for name in ("one", "two", "none")
        for kind in ("sr", "gsps", "sc")
    }
    assert {path.name for path in (out / "dicom").iterdir()} == expected
    assert summary.document["outputs"]["dicom"] == {
        "kinds": ["sr", "gsps", "sc"],
        "images": 3,
        "not_made": {"no_sop_instance": 1, "not_dicom": 1},
    }


def test_results_lie_in_the_source_study_and_name_model_and_threshold(scored, key_of, detector):
    _, out, _ = scored
    for kind in ("sr", "gsps", "sc"):
        made = pydicom.dcmread(out / "dicom" / f"{key_of['one']}-{kind}.dcm")
        assert made.StudyInstanceUID == SERIES + ".1"
        assert made.PatientName == "CANARY^PHI1"
        assert made.DeviceSerialNumber == detector.bundle.model_hash
        raw = (out / "dicom" / f"{key_of['one']}-{kind}.dcm").read_bytes()
        assert b"balanced" in raw
        assert b"0.500" in raw
        assert re.search(b"research use only", raw, re.IGNORECASE)
        assert "RESEARCH" in made.SeriesDescription


def test_boxes_are_those_of_the_study_file(scored, key_of):
    """The bright cell is at column 32..48, row 16..32; 0.25 mm wide and 0.5 mm high pixels."""
    _, out, _ = scored
    made = pydicom.dcmread(out / "dicom" / f"{key_of['one']}-sr.dcm")
    text = str(made)
    assert "Graphic Data" in text
    outlines = [e.value for e in made.iterall() if e.keyword == "GraphicData"]
    assert outlines == [pytest.approx([32, 16, 48, 16, 48, 32, 32, 32, 32, 16], abs=1e-3)]
    sizes = [float(e.value) for e in made.iterall() if e.keyword == "NumericValue"][-2:]
    assert sizes == pytest.approx([4.0, 8.0], abs=1e-3)


def test_a_second_run_changes_nothing_and_scores_nothing(tmp_path, detector, bright, dark):
    fill(tmp_path / "in", bright, dark)
    score_batch(tmp_path / "in", tmp_path / "out", detector, SR_ONLY)
    before = contents(tmp_path / "out" / "dicom")
    again = score_batch(tmp_path / "in", tmp_path / "out", detector, SR_ONLY)
    assert again.document["totals"]["reused"] == again.document["totals"]["statuses"]["scored"] == 5
    assert contents(tmp_path / "out" / "dicom") == before


def test_what_is_missing_or_unwanted_is_mended(tmp_path, detector, bright, dark):
    fill(tmp_path / "in", bright, dark)
    out = tmp_path / "out"
    score_batch(tmp_path / "in", out, detector, SR_ONLY)
    before = contents(out / "dicom")
    lost = sorted(before)[0]
    (out / "dicom" / lost).unlink()
    (out / "dicom" / "0123456789abcdef-sr.dcm").write_bytes(b"of a file that is gone")
    (out / "dicom" / "mine.txt").write_text("kept")
    mended = score_batch(tmp_path / "in", out, detector, SR_ONLY)
    assert mended.document["totals"]["reused"] == 4
    after = contents(out / "dicom")
    uids = [
        pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for data in (before[lost], after[lost])
    ]
    assert uids[0] == uids[1]  # the same object, made at another time
    assert {**after, lost: b""} == {**before, lost: b"", "mine.txt": b"kept"}
    # another choice of kinds: the new ones are made, the old ones go
    only_sc = ScoreSettings(outputs=OutputSettings(dicom=("sc",), report=False))
    score_batch(tmp_path / "in", out, detector, only_sc)
    kinds = {path.name.split("-")[-1] for path in (out / "dicom").iterdir()}
    assert kinds == {"sc.dcm", "mine.txt"}


def identities(folder, keyword):
    return {path.name[17:]: pydicom.dcmread(path)[keyword].value for path in folder.glob("*.dcm")}


def test_a_corrected_patient_gets_other_objects_and_a_successor(tmp_path, detector, bright):
    """The given case: two output folders, and one that is scored again."""
    settings = ScoreSettings(outputs=OutputSettings(dicom=("sr", "gsps", "sc"), report=False))
    for folder, name in (("a", "WRONG^NAME"), ("b", "RIGHT^NAME"), ("a", "RIGHT^NAME")):
        (tmp_path / folder / "in").mkdir(parents=True, exist_ok=True)
        film = chest_dataset(bright, **patient(1, PatientName=name))
        save(tmp_path / folder / "in" / "film.dcm", film)
        before = tmp_path / folder / "out" / "dicom"
        earlier = identities(before, "SOPInstanceUID") if before.is_dir() else {}
        score_batch(tmp_path / folder / "in", tmp_path / folder / "out", detector, settings)
        if (folder, name) == ("a", "WRONG^NAME"):
            wrong = identities(before, "SOPInstanceUID")
    right = identities(tmp_path / "b" / "out" / "dicom", "SOPInstanceUID")
    assert earlier == wrong
    again = identities(tmp_path / "a" / "out" / "dicom", "SOPInstanceUID")
    assert not set(wrong.values()) & {*right.values(), *again.values()}
    # only the report of the second run says that an earlier one scored another patient
    assert {name for name, uid in again.items() if uid != right[name]} == {"sr.dcm"}
    (path,) = (tmp_path / "a" / "out" / "dicom").glob("*-sr.dcm")
    texts = [e.value for e in pydicom.dcmread(path).iterall() if e.keyword == "TextValue"]
    assert any("image_changed" in text for text in texts), texts
    named = [
        item.ReferencedSOPInstanceUID
        for study in pydicom.dcmread(path).PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert named == [wrong["sr.dcm"]]


@pytest.mark.interop
def test_the_peers_accept_the_whole_folder(scored):
    source, out, _ = scored
    files = sorted((out / "dicom").iterdir())
    for path in files:
        done = run_peer("dciodvfy", path)
        assert "Error" not in done.stdout + done.stderr, path.name
    done = run_peer("dcentvfy", *(source / f"{n}.dcm" for n in ("one", "two", "none")), *files)
    assert "Error" not in done.stdout + done.stderr
