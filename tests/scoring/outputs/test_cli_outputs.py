"""The options that choose outputs, and what the command says about them.

Spans: pneumonia.scoring.outputs, pneumonia.cli.scoring.score.
"""

import pytest
from PIL import Image

from pneumonia.cli import group, run
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import pdf
from tests.runtime.dicoms import chest_dataset, save


@pytest.fixture
def source(tmp_path, bright):
    (tmp_path / "in").mkdir()
    Image.fromarray(bright).save(tmp_path / "in" / "picture.png")
    save(tmp_path / "in" / "sick.dcm", chest_dataset(bright))
    return tmp_path / "in"


@pytest.fixture
def score(source, tmp_path, bundle_folder):
    def call(*arguments):
        fixed = [source, tmp_path / "out", "--bundle", bundle_folder, "--engine", "reference"]
        return run(group, ["score", *map(str, [*fixed, *arguments])])

    return call


def test_kinds_are_chosen(score, tmp_path, capsys):
    assert score("--dicom", "SC, sr", "--fhir") == 0
    shown = capsys.readouterr()
    kinds = sorted(path.name.partition("-")[2] for path in (tmp_path / "out" / "dicom").iterdir())
    assert kinds == ["sc.dcm", "sr.dcm"]
    assert len(list((tmp_path / "out" / "fhir").iterdir())) == 2
    assert "no DICOM results: 1 image: not_dicom" in shown.err
    assert str(tmp_path / "out" / "report.html") in shown.out


def test_all_kinds(score, tmp_path):
    assert score("--dicom", "all", "--no-report") == 0
    assert len(list((tmp_path / "out" / "dicom").iterdir())) == 3
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("value", ["", "pdf", "sr,rtss", ","])
def test_unknown_kinds_are_2(score, tmp_path, capsys, value):
    assert score("--dicom", value) == 2
    assert "sr,gsps,sc" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_pdf_needs_the_report(score, capsys):
    assert score("--pdf", "--no-report") == 2
    assert "printed from the report" in capsys.readouterr().err


def test_a_missing_browser_is_a_warning_not_a_failure(score, capsys, monkeypatch):
    monkeypatch.setattr(pdf, "find_browser", lambda: None)
    assert score("--pdf") == 0
    shown = capsys.readouterr()
    assert "no report.pdf: no Chromium or Chrome found" in shown.err
    assert "report.pdf" not in shown.out


@pytest.mark.parametrize("name", ["report.pdf", "dicom/0123456789abcdef-sr.dcm"])
def test_a_folder_where_a_file_belongs_is_5(score, tmp_path, capsys, name):
    assert score() == 0
    (tmp_path / "out" / name).mkdir(parents=True)
    assert score("--dicom", "sr", "--pdf") == 5
    assert "cannot be removed" in capsys.readouterr().err


def test_a_file_where_a_folder_belongs_is_5(score, tmp_path, capsys):
    assert score() == 0
    (tmp_path / "out" / "dicom").write_text("in the way")
    assert score("--dicom", "sr") == 5
    assert "Cannot write file" in capsys.readouterr().err
    (tmp_path / "out" / "dicom").unlink()  # out of the way: the next run does the rest
    assert score("--dicom", "sr") == 0
    assert len(list((tmp_path / "out" / "dicom").iterdir())) == 1


def test_pictures_of_an_earlier_batch_are_not_radiographs(scored, detector, tmp_path):
    _, out, _ = scored
    summary = score_batch(out, tmp_path / "again", detector, ScoreSettings())
    of_pictures = {
        record.file.relative.partition("/")[0]: (record.status, record.reason)
        for record in summary.records
        if record.file.relative.endswith((".png", ".jpg"))
    }
    assert of_pictures == dict.fromkeys(("overlay", "report"), ("skipped", "own_result"))
    assert not any(record.status == "scored" for record in summary.records)
