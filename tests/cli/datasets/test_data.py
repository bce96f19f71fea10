"""`pneumonia data`: what a user sees and the exit codes."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from pneumonia.cli import group, run
from pneumonia.cli.terminal import show_table
from tests.data_prep.conftest import write_csv


def call(*arguments: object) -> int:
    return run(group, ["data", *map(str, arguments)])


def test_phantom_import_and_audit_in_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, again = tmp_path / "made", tmp_path / "again"
    assert call("phantom", "--out", made, "--count", 12, "--size", 64, "--seed", 2) == 0
    shown = capsys.readouterr().out
    assert "train phantom" in shown
    assert f"next: pneumonia train --data {made} --recipe phantom" in shown
    assert call("phantom", "--out", made, "--count", 12, "--size", 64, "--seed", 2) == 0
    assert "up to date" in capsys.readouterr().out
    assert (
        call("import-rsna", made, "--out", again, "--cache-size", 48, "--split", 0.5, 0.3, 0.2) == 0
    )
    assert f"next: pneumonia data audit {again}" in capsys.readouterr().out
    assert call("audit", again) == 0
    assert "checksums match" in capsys.readouterr().out
    assert (again / "audit.json").is_file()
    assert (again / "audit.html").is_file()
    # an audited dataset may still be replaced
    assert call("import-rsna", made, "--out", again, "--cache-size", 64) == 0


def test_next_never_trains_into_the_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the dataset has the name that a run would have."""
    for number, data in enumerate(("runs/phantom", "runs", "other")):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        assert call("phantom", "--out", data, "--count", 3, "--size", 64) == 0
        shown = [capsys.readouterr().out]
        assert call("audit", data) == 0
        shown.append(capsys.readouterr().out)
        for text in shown:
            run_folder = Path(text.rpartition("--out ")[2].strip()).resolve()
            assert Path(data).resolve() not in (run_folder, *run_folder.parents)


def test_audit_of_a_damaged_dataset_ends_with_the_data_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    assert call("phantom", "--out", made, "--count", 3, "--size", 64) == 0
    data = (made / "images.u8").read_bytes()
    (made / "images.u8").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert call("audit", made) == 6
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "does not match its checksums" in captured.err
    assert (made / "audit.json").is_file()  # the report says which image


def own_images(folder: Path) -> Path:
    """Twelve pictures, ten of them labelled, and files that cannot be imported."""
    images = folder / "images"
    images.mkdir()
    rows = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60), np.uint8)
        Image.fromarray(pixels).save(images / f"f{number:02}.png")
        if number < 10:
            rows.append((f"f{number:02}", *((1, 2, 30, 20) if number % 2 else ("", "", "", ""))))
    for number in range(7):
        (images / f"broken{number}.png").write_text("text")
        rows.append((f"broken{number}", "", "", "", ""))
    write_csv(folder / "boxes.csv", ("image", "x1", "y1", "x2", "y2"), rows)
    return images


def test_own_boxes_are_imported_and_rejected_files_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = own_images(tmp_path), tmp_path / "own"
    arguments = ("import-boxes", images, tmp_path / "boxes.csv", "--out", out)
    assert call(*arguments, "--split", 0.5, 0.3, 0.2) == 0
    captured = capsys.readouterr()
    assert "rejected: 2 x no_label: f10, f11\n" in captured.out
    assert (
        "rejected: 7 x not_dicom: broken0, broken1, broken2, broken3, broken4, ...\n"
        in captured.out
    )
    assert f"All rejected files with their reasons: {out / 'rejected.csv'}" in captured.out
    with (out / "rejected.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == [*(f"broken{n}" for n in range(7)), "f10", "f11"]
    assert all(row["detail"] for row in rows)
    assert f"next: pneumonia data audit {out}" in captured.out
    assert captured.err.startswith("warning: 10 images: The patients of these images are not known")
    assert captured.err.count("\n") == 1
    assert call("audit", out) == 0
    captured = capsys.readouterr()
    assert max(map(len, captured.out.splitlines()[:-2])) < 80
    assert "the patient of every image is known  10 images\n" in captured.out
    assert captured.err.startswith("warning: The patients of these images are not known")
    page = (out / "audit.html").read_text()
    assert "broken0, broken1, broken2, broken3, broken4, ... (rejected.csv)" in page
    assert call(*arguments, "--unlabelled", "negative") == 0
    assert "no_label" not in capsys.readouterr().out


def test_import_warns_of_a_dataset_that_cannot_be_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No boxes, and headers of which all have one PatientID."""
    made = tmp_path / "made"
    assert call("phantom", "--out", made, "--count", 6, "--size", 64) == 0
    for path in (made / "dicom").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "ANON"
        dataset.save_as(path)
    names = sorted(path.name for path in (made / "dicom").iterdir())
    rows = [(name, "", "", "", "") for name in names]
    write_csv(tmp_path / "boxes.csv", ("image", "x1", "y1", "x2", "y2"), rows)
    capsys.readouterr()
    assert (
        call("import-boxes", made / "dicom", tmp_path / "boxes.csv", "--out", tmp_path / "d") == 0
    )
    shown = capsys.readouterr().err
    assert "no image has a box" in shown
    assert "no image in val, test: 6 images of 1 patient, all images of a patient" in shown
    assert "ANON" not in shown


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("image", 0), ("relative", 0), ("1024", 0), ("640x480", 0), ("640X480", 0), ("0", 2),
        ("-5", 2), ("1e3", 2), ("1x2x3", 2), ("x", 2), ("", 2), ("nan", 2), ("9999999", 2),
    ],
)  # fmt: skip
def test_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str], frame: str, code: int) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(images / "a.png")
    write_csv(tmp_path / "b.csv", ("image", "x1", "y1", "x2", "y2"), [("a", "", "", "", "")])
    out = tmp_path / "out"
    assert call("import-boxes", images, tmp_path / "b.csv", "--out", out, "--frame", frame) == code
    assert out.exists() == (code == 0)


def test_a_table_on_a_terminal_fits_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("first", 1, "a sentence of many words " * 6), ("second", 20, "short")]
    show_table("title", ("name", "count", "text"), rows)
    piped = capsys.readouterr().out
    assert len(piped.splitlines()) == 5  # scripts read one row per line
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    show_table("title", ("name", "count", "text"), rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(" ".join(lines).split()).count("a sentence of many words") >= 4
    assert lines[-1].split() == ["second", "20", "short"]
    show_table("title", ("name", "count"), [("a", 1), ("b", 22)])
    assert capsys.readouterr().out.splitlines()[-1] == "  b        22"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["import-boxes", "nowhere", "none.csv", "--out", "out"], 6),
        (["import-boxes", "nowhere", "none.csv"], 2),
        (["import-rsna", "nowhere", "--out", "out"], 6),
        (["import-rsna", "nowhere"], 2),
        (["phantom", "--out", "out", "--count", "0"], 2),
        (["phantom", "--out", "/proc/none/out", "--count", "1"], 5),
        (["audit", "nowhere"], 6),
    ],
)
def test_exit_codes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == code
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
