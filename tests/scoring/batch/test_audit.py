"""The audit log: what it holds, and that nobody changes a folder unnoticed."""

import hashlib
import json
import os
import resource
import shutil

import pytest

from pneumonia.runtime.errors import ArtefactError, OutputError
from pneumonia.scoring.batch.append_log import AppendLog
from pneumonia.scoring.batch.audit import START, AuditLog, verify_audit
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from tests.runtime.dicoms import SERIES, chest_dataset, save


@pytest.fixture(scope="module")
def finished(tmp_path_factory, detector, bright, dark):
    """A folder two runs have written."""
    root = tmp_path_factory.mktemp("audit")
    (root / "in").mkdir()
    save(root / "in" / "a.dcm", chest_dataset(bright, PatientName="CANARY^PHI"))
    score_batch(root / "in", root / "out", detector)
    save(root / "in" / "b.dcm", chest_dataset(dark, SOPInstanceUID=f"{SERIES}.2"))
    score_batch(root / "in", root / "out", detector)
    return root / "out"


@pytest.fixture
def out(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def lines_of(out):
    return (out / "audit.jsonl").read_bytes().splitlines()


def write_chain(out, records):
    """A forged log whose lines follow each other."""
    previous, lines = START, []
    for record in records:
        line = json.dumps({**record, "previous_sha256": previous}).encode()
        previous = hashlib.sha256(line).hexdigest()
        lines.append(line + b"\n")
    (out / "audit.jsonl").write_bytes(b"".join(lines))


def append_chained(out, record):
    previous = hashlib.sha256(lines_of(out)[-1]).hexdigest()
    with (out / "audit.jsonl").open("ab") as stream:
        stream.write(json.dumps({**record, "previous_sha256": previous}).encode() + b"\n")


def test_each_run_records_user_time_and_versions(finished, detector):
    records = [json.loads(line) for line in lines_of(finished)]
    assert [record["event"] for record in records] == ["run_started", "run_finished"] * 2
    first, last = records[0], records[-1]
    assert first["previous_sha256"] == START
    for earlier, later in zip(lines_of(finished), records[1:], strict=False):
        assert later["previous_sha256"] == hashlib.sha256(earlier).hexdigest()
    assert first["model_hash"] == detector.bundle.model_hash
    assert (first["threshold_name"], first["threshold"]) == ("balanced", 0.5)
    assert first["user"]
    assert first["host"]
    assert last["totals"]["statuses"]["scored"] == 2
    for name in ("manifest.jsonl", "predictions.csv", "worklist.csv"):
        digest = hashlib.sha256((finished / name).read_bytes()).hexdigest()
        assert last["outputs_sha256"][name] == digest
    assert b"CANARY" not in (finished / "audit.jsonl").read_bytes()


def test_an_honest_folder_verifies(out):
    found = verify_audit(out)
    assert (found.lines, found.runs) == (4, 2)
    assert found.last_sha256 == json.loads((out / "run.json").read_text())["audit"]["last_sha256"]


def edit_line(number, old, new):
    def edit(out):
        lines = lines_of(out)
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new)
        (out / "audit.jsonl").write_bytes(b"\n".join(lines) + b"\n")

    return edit


def keep_lines(*kept):
    def edit(out):
        lines = [line for n, line in enumerate(lines_of(out)) if n in kept]
        (out / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))

    return edit


def also_without_run_json(edit):
    def both(out):
        edit(out)
        (out / "run.json").unlink()

    return both


def change(name, old, new):
    def edit(out):
        text = (out / name).read_text()
        assert old in text
        (out / name).write_text(text.replace(old, new, 1))

    return edit


def change_a_study(out):
    path = sorted((out / "studies").iterdir())[0]
    path.write_text(path.read_text().replace('"width": 64', '"width": 65'))


def remove_a_study(out):
    sorted((out / "studies").iterdir())[0].unlink()


def hide_behind_a_started_run(out):
    change("worklist.csv", "positive", "negative")(out)
    append_chained(out, {"event": "run_started"})


def forge_all_but_run_json(out):
    write_chain(out, [json.loads(line) for line in lines_of(out)[:2]])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (edit_line(1, b'"scored": 1', b'"scored": 9'), "does not follow"),
        (edit_line(3, b'"scored": 2', b'"scored": 9'), "differs from the one in run.json"),
        (keep_lines(0, 2, 3), "does not follow"),
        (keep_lines(1, 2, 3), "does not follow"),
        (keep_lines(0, 1), "differs from the one in run.json"),
        (keep_lines(0, 1, 2), "did not finish"),
        (keep_lines(), "records no run"),
        (also_without_run_json(keep_lines(0, 1)), "run.json of the last run is missing"),
        (also_without_run_json(keep_lines(0, 1, 2)), "did not finish"),
        (lambda out: (out / "run.json").write_text("{"), "lacks the number of lines"),
        (lambda out: (out / "audit.jsonl").unlink(), "cannot be read"),
        (lambda out: append_chained(out, {"event": "run_failed"}), "did not finish"),
        (hide_behind_a_started_run, "did not finish"),
        (forge_all_but_run_json, "differs from the one in run.json"),
        (change("worklist.csv", "positive", "negative"), "Output is not the one"),
        (change("predictions.csv", "32", "33"), "Output is not the one"),
        (change("manifest.jsonl", "scored", "failed"), "Output is not the one"),
        (change_a_study, "Output is not the one"),
        (remove_a_study, "Output is not the one"),
    ],
)
def test_a_changed_folder_is_found(out, damage, word):
    damage(out)
    with pytest.raises(ArtefactError, match=word):
        verify_audit(out)


def test_lines_of_sending_may_follow_the_last_run(out):
    AuditLog(out).append("results_sent", sent=3)
    assert verify_audit(out).lines == 5


def test_a_killed_runs_torn_line_is_cut_and_recorded(out):
    with (out / "audit.jsonl").open("ab") as stream:
        stream.write(b'{"half')
    with pytest.raises(ArtefactError, match="not whole"):
        verify_audit(out)
    AuditLog(out).append("results_sent", sent=0)
    assert json.loads(lines_of(out)[-1])["torn_bytes_cut"] == 6
    assert verify_audit(out).lines == 5


def _fill_disk_and_append(path, room):
    """In a child: files may grow by `room` bytes only, then the log is appended to."""
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, size + room))
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        AppendLog(path, "Audit log").append({"event": "x" * 500})
    except OutputError:
        os._exit(5)
    os._exit(0)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_leaves_the_log_as_it_was(out, room):
    before = (out / "audit.jsonl").read_bytes()
    child = os.fork()
    if child == 0:
        _fill_disk_and_append(out / "audit.jsonl", room)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    assert (out / "audit.jsonl").read_bytes() == before
    verify_audit(out)


def test_a_failed_run_is_recorded_and_the_next_one_repairs(tmp_path, detector, bright, monkeypatch):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.dcm", chest_dataset(bright))
    with monkeypatch.context() as patch:
        patch.setattr("pneumonia.scoring.batch.run.manifest_text", lambda *records: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_batch(tmp_path / "in", tmp_path / "out", detector, ScoreSettings())
    last = json.loads(lines_of(tmp_path / "out")[-1])
    assert (last["event"], last["error"]) == ("run_failed", "ZeroDivisionError")
    score_batch(tmp_path / "in", tmp_path / "out", detector, ScoreSettings())
    assert verify_audit(tmp_path / "out").runs == 2
