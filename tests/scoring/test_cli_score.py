import json

import numpy as np
import pytest
from PIL import Image

from pneumonia.cli import group, run


@pytest.fixture
def source(tmp_path, bright):
    (tmp_path / "in").mkdir()
    Image.fromarray(bright).save(tmp_path / "in" / "a.png")
    return tmp_path / "in"


def score(*arguments):
    return run(group, ["score", *map(str, arguments)])


def test_all_scored_is_0_and_the_next_command_is_shown(source, tmp_path, bundle_folder, capsys):
    code = score(source, tmp_path / "out", "--bundle", bundle_folder, "--engine", "reference")
    shown = capsys.readouterr()
    assert code == 0
    assert shown.err == ""
    assert "1 files, 1 scored with brightness" in shown.out
    assert f"next: pneumonia evaluate {tmp_path / 'out' / 'predictions.csv'}" in shown.out
    assert "Research use only" in shown.out


def test_a_broken_file_is_3_and_named(source, tmp_path, bundle_folder, capsys):
    (source / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    code = score(source, tmp_path / "out", "--bundle", bundle_folder, "--jobs", 2)
    shown = capsys.readouterr()
    assert code == 3
    assert "not scored: broken.dcm: rejected: no_sop_instance" in shown.err
    assert "Traceback" not in shown.err
    assert shown.err.strip().splitlines()[-1].startswith("error: Some files could not be scored")
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 2


def test_json_is_the_only_thing_on_stdout(source, tmp_path, bundle_folder, capsys):
    assert score(source, tmp_path / "out", "--bundle", bundle_folder, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out" / "run.json").read_text())
    assert document["totals"]["flags"]["positive"] == 1


def test_usage_errors_are_2(source, tmp_path, bundle_folder, capsys):
    out = tmp_path / "out"
    assert score(tmp_path / "none", out, "--bundle", bundle_folder) == 2
    assert score(source, source / "out", "--bundle", bundle_folder) == 2
    assert score(source, out, "--bundle", bundle_folder, "--threshold", "best") == 2
    assert score(source, out, "--bundle", bundle_folder, "--engine", "quantum") == 2
    assert score(source, out, "--bundle", bundle_folder, "--jobs", 0) == 2
    assert not out.exists()


def test_every_engine_can_be_chosen():
    from pneumonia.cli.score import command
    from pneumonia.runtime.engines import ENGINES

    (engine,) = (option for option in command.params if option.name == "engine")
    assert tuple(engine.type.choices) == ENGINES


def test_without_a_bundle_the_fix_is_named(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pneumonia.cli.score.DEFAULT_BUNDLE", tmp_path / "nothing")
    assert score(source, tmp_path / "out") == 2
    assert "--bundle" in capsys.readouterr().err


def test_another_models_bundle_is_4(source, tmp_path, bundle_folder, capsys):
    import shutil

    edited = tmp_path / "edited"
    shutil.copytree(bundle_folder, edited)
    text = (edited / "operating_points.json").read_text()
    (edited / "operating_points.json").write_text(text.replace("0.5", "0.4"))
    assert score(source, tmp_path / "out", "--bundle", edited) == 4
    assert "operating_points.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_not_writable_is_5(source, tmp_path, bundle_folder, capsys):
    (tmp_path / "file").write_bytes(b"")
    assert score(source, tmp_path / "file", "--bundle", bundle_folder) == 5
    shown = capsys.readouterr().err
    assert shown.startswith("error: Output folder cannot be written")
    assert len(shown.splitlines()) == 1


def test_switches_reach_the_reader(source, tmp_path, bundle_folder, bright):
    from tests.runtime.dicoms import chest_dataset, save

    save(source / "two.dcm", chest_dataset(np.stack([bright, bright])))
    out = tmp_path / "out"
    assert score(source, out, "--bundle", bundle_folder) == 3
    assert score(source, out, "--bundle", bundle_folder, "--first-frame") == 0
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["scored", "scored"]
