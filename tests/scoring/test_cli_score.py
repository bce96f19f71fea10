"""`pneumonia score`: exit codes, messages and options.

Spans: pneumonia.cli.scoring.score, pneumonia.scoring.batch.
"""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pneumonia.cli import group, run
from pneumonia.scoring.batch.send import SendSummary
from pneumonia.scoring.network.delivery import NOT_SENT


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
    assert "1 file, 1 scored with brightness" in shown.out
    assert f"next: open {tmp_path / 'out' / 'report.html'}" in shown.out
    assert f"pneumonia evaluate {tmp_path / 'out' / 'predictions.csv'} LABELS" in shown.out
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


def test_why_files_have_no_score_is_counted(source, tmp_path, bundle_folder, capsys):
    (source / "notes.txt").write_text("x")
    (source / "more.txt").write_text("x")
    assert score(source, tmp_path / "out", "--bundle", bundle_folder) == 0
    rows = capsys.readouterr().out.splitlines()
    assert ["skipped:", "other_file", "2"] in [row.split() for row in rows]


def test_a_batch_without_any_score_says_so(tmp_path, bundle_folder, capsys):
    (tmp_path / "in").mkdir()
    assert score(tmp_path / "in", tmp_path / "a", "--bundle", bundle_folder) == 0
    shown = capsys.readouterr().out
    assert "Nothing was scored: there is no file in the input" in shown
    assert "evaluate" not in shown
    (tmp_path / "in" / "notes.txt").write_text("x")
    assert score(tmp_path / "in", tmp_path / "b", "--bundle", bundle_folder) == 0
    shown = capsys.readouterr().out
    assert f"Nothing was scored: {tmp_path / 'b' / 'manifest.jsonl'} gives the reason" in shown
    assert "next: pneumonia score --show-rules" in shown


def test_resume_is_the_default_and_fresh_its_opposite(source, tmp_path, bundle_folder, capsys):
    def reused(*options):
        out = tmp_path / "out"
        assert score(source, out, "--bundle", bundle_folder, "--json", *options) == 0
        return json.loads(capsys.readouterr().out)["totals"]["reused"]

    assert [reused(), reused(), reused("--resume"), reused("--fresh")] == [0, 1, 1, 0]


def test_usage_errors_are_2(source, tmp_path, bundle_folder, capsys):
    out = tmp_path / "out"
    assert score(tmp_path / "none", out, "--bundle", bundle_folder) == 2
    assert score(source, source / "out", "--bundle", bundle_folder) == 2
    assert score(source, out, "--bundle", bundle_folder, "--threshold", "best") == 2
    assert score(source, out, "--bundle", bundle_folder, "--engine", "quantum") == 2
    assert score(source, out, "--bundle", bundle_folder, "--jobs", 0) == 2
    assert not out.exists()


def test_every_engine_can_be_chosen():
    from pneumonia.cli.scoring.score import command
    from pneumonia.runtime.engines import ENGINES

    (engine,) = (option for option in command.params if option.name == "engine")
    assert tuple(engine.type.choices) == ENGINES


def test_without_a_bundle_the_fix_is_named(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pneumonia.runtime.detection.detector.DEFAULT_BUNDLE", tmp_path / "nothing")
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


def test_a_dry_run_writes_nothing_and_says_what_would_be(source, tmp_path, bundle_folder, bright,
                                                         capsys):  # fmt: skip
    from tests.runtime.dicoms import chest_dataset, save

    save(source / "side.dcm", chest_dataset(bright, ViewPosition="LL"))
    save(source / "front.dcm", chest_dataset(bright))
    save(source / "ct.dcm", chest_dataset(bright, Modality="CT"))
    (source / "notes.txt").write_text("x")
    (source / "text.dcm").write_text("x")
    out = tmp_path / "out"
    assert score(source, out, "--bundle", bundle_folder, "--dry-run", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(item.values()) for item in found] == [
        ("a.png", "score", ""),
        ("ct.dcm", "skipped", "not_frontal_chest"),
        ("front.dcm", "score", ""),
        ("notes.txt", "skipped", "other_file"),
        ("side.dcm", "skipped", "not_frontal_chest"),
        ("text.dcm", "rejected", "not_dicom"),
    ]
    assert score(source, out, "--bundle", bundle_folder, "--dry-run") == 0
    shown = capsys.readouterr()
    assert "nothing is written" in shown.out
    assert "would not be scored: text.dcm: rejected: not_dicom" in shown.err
    assert not out.exists()
    assert score(source, out, "--bundle", bundle_folder) == 3
    scored = [line for line in (out / "manifest.jsonl").read_text().splitlines() if
              json.loads(line)["status"] == "scored"]  # fmt: skip
    assert len(scored) == 2  # as announced


def test_the_rules_are_shown_and_can_be_changed(source, tmp_path, bundle_folder, bright, capsys):
    from tests.runtime.dicoms import chest_dataset, save

    save(source / "side.dcm", chest_dataset(bright, ViewPosition="LL"))
    assert score("--show-rules") == 0
    rules = tmp_path / "rules.yaml"
    text = capsys.readouterr().out
    assert "view: [AP, PA]" in text
    rules.write_text(text)
    out = tmp_path / "out"
    assert score(source, out, "--bundle", bundle_folder, "--rules", rules) == 0
    assert json.loads((out / "run.json").read_text())["totals"]["statuses"]["scored"] == 1
    rules.write_text(text.replace("[AP, PA]", "[AP, PA, LL]"))
    assert score(source, out, "--bundle", bundle_folder, "--rules", rules) == 0
    assert json.loads((out / "run.json").read_text())["totals"]["statuses"]["scored"] == 2
    rules.write_text("view: [SIDEWAYS]")
    assert score(source, out, "--bundle", bundle_folder, "--rules", rules) == 2
    assert score(source, out, "--bundle", bundle_folder, "--rules", tmp_path / "none") == 2


def test_nameless_by_the_command_line(source, tmp_path, bundle_folder, capsys):
    (source / "a.png").rename(source / "CANARY.png")
    out = tmp_path / "out"
    assert score(source, out, "--bundle", bundle_folder, "--deidentify", "basic") == 0
    shown = capsys.readouterr()
    assert "CANARY" not in shown.out + shown.err
    assert b"CANARY" not in b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert score(source, out, "--bundle", bundle_folder, "--allow-burned-in") == 2
    assert score(source, out, "--bundle", bundle_folder, "--deidentify", "basic",
                 "--identifiers") == 2  # fmt: skip


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--deidentify", "basic", "--send", "A@127.0.0.1:1"), "--send-deidentified"),
        (("--send-deidentified", "--send", "A@127.0.0.1:1"), "no effect here"),
        (("--send-deidentified", "--deidentify", "basic"), "no effect here"),
    ],
)
def test_nameless_results_are_sent_only_when_asked_for(
    source, tmp_path, bundle_folder, capsys, options, part
):
    assert score(source, tmp_path / "out", "--bundle", bundle_folder, *options) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nameless_results_are_sent_when_asked_for(source, tmp_path, bundle_folder, capsys):
    options = ("--deidentify", "basic", "--send", "A@127.0.0.1:1", "--send-deidentified")
    assert score(source, tmp_path / "out", "--bundle", bundle_folder, *options) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["totals"]["statuses"]["scored"]


def test_results_that_did_not_arrive_are_named_beside_broken_files(
    source, tmp_path, bundle_folder, capsys, monkeypatch
):
    (source / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    counts = Counter({NOT_SENT: 2})
    monkeypatch.setattr(
        "pneumonia.cli.scoring.score.send", lambda *_: SendSummary("A@127.0.0.1:1", counts, 0)
    )
    options = ("--bundle", bundle_folder, "--dicom", "sr", "--send", "A@127.0.0.1:1")
    assert score(source, tmp_path / "out", *options) == 3
    shown = capsys.readouterr().err
    assert "found 1 of 2, and 2 results not in the PACS" in shown
    assert str(tmp_path / "out" / "sent.jsonl") in shown


def test_the_audit_log_is_verified(source, tmp_path, bundle_folder, capsys):
    out = tmp_path / "out"
    assert score("--verify-audit", out) == 4
    assert score(source, out, "--bundle", bundle_folder) == 0
    capsys.readouterr()
    assert score("--verify-audit", out) == 0
    assert "unbroken (2 lines of 1 run)" in capsys.readouterr().out
    (out / "worklist.csv").write_text("rank\n")
    assert score("--verify-audit", out) == 4
    shown = capsys.readouterr().err
    assert shown.startswith("error: Output is not the one the last run wrote")
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("in",),
        ("in", "out", "more"),
        ("in", "out", "--study", "1.2"),
        ("in", "out", "--aet", "ME"),
        ("in", "out", "--move-port", "104"),
        ("in", "out", "--dicomweb", "http://localhost/x", "--study", "1.2"),
        ("out", "--dicomweb", "http://localhost/x"),
        ("out", "--dicomweb", "ftp://localhost/x", "--study", "1.2"),
        ("out", "--dicomweb", "http://me:secret@localhost/x", "--study", "1.2"),
        ("out", "--dicomweb", "http://localhost/x", "--study", "1.2/../3"),
        ("out", "--dicomweb", "http://localhost/x", "--study", "1.2", "--pacs", "A@localhost:1"),
        ("out", "--dicomweb", "http://localhost/x", "--study", "1", "--ca-file", "none.pem"),
        ("out", "--pacs", "localhost:104", "--study", "1.2"),
        ("out", "--pacs", "A@localhost:0", "--study", "1.2"),
        ("out", "--pacs", "A@localhost:104", "--date", "today"),
        ("out", "--pacs", "A@localhost:104", "--accession", "*"),
        ("in", "out", "--send", "A@localhost"),
    ],
)
def test_wrong_usage_is_2_in_one_line(arguments, tmp_path, bundle_folder, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert score(*arguments, "--bundle", bundle_folder) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert "secret" not in shown
    assert list(tmp_path.iterdir()) == []
