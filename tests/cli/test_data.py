"""`pneumonia data`: what a user sees and the exit codes."""

from pathlib import Path

import pytest

from pneumonia.cli import group, run


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


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
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
