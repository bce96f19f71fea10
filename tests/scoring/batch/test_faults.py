"""The command as a process of its own: killed, interrupted, run twice, out of disk, misled.

Spans: pneumonia.scoring.batch, pneumonia.scoring.image.growing, pneumonia.cli.scoring.score.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from pneumonia.scoring.batch import image_job
from pneumonia.scoring.batch.audit import verify_audit
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.image import growing
from pneumonia.scoring.image.growing import has_grown
from pneumonia.scoring.image.records import UID_CONFLICT
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.batches import (
    CANARY,
    file_without_times,
    fill,
    manifest,
    text_tags,
    without_times,
)

OPTIONS = ("--engine", "reference", "--dicom", "all", "--fhir", "--jobs", "1")
IMAGES = 24


# `pneumonia` that stops itself once so many files of studies are in place, and is slow afterwards.
STOPPING = """
import os, signal, sys, time
left = int(sys.argv.pop(1))
def hook(event, arguments):
    global left
    if event == "os.rename" and "/studies/" in os.fsdecode(arguments[1]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif left < 0:
            time.sleep(0.2)
sys.addaudithook(hook)
from pneumonia.cli import main
main()
"""


def started(source, out, bundle, *more, program=("-m", "pneumonia"), **options):
    """The command as a process."""
    command = [sys.executable, *program, "score", str(source), str(out)]
    return subprocess.Popen(
        [*command, "--bundle", str(bundle), *OPTIONS, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def ended(process, code):
    """What a process said, once it has ended with the code it should."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err.decode()
    assert b"Traceback" not in err
    return out.decode(), err.decode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bundle_folder, bright, dark):
    """An input, and what an uninterrupted run makes of it."""
    root = tmp_path_factory.mktemp("process")
    (root / "in").mkdir()
    for number in range(IMAGES):
        uids = {
            "StudyInstanceUID": f"{SERIES}.{number}",
            "SOPInstanceUID": f"{SERIES}.{number}.1",
        }
        pixels = (bright, dark)[number % 2]
        save(root / "in" / f"{number:02d}.dcm", chest_dataset(pixels, **uids))
    ended(started(root / "in", root / "out", bundle_folder), 0)
    return root


@contextmanager
def half_done(whole, out, bundle, count=3):
    """A run that has stopped itself after `count` images; it goes on at SIGCONT."""
    out.mkdir(exist_ok=True)
    shutil.copy(whole / "out" / ".salt", out)
    process = started(whole / "in", out, bundle, program=("-c", STOPPING, str(count)))
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_killed_again_and_again_the_outputs_are_those_of_one_run(whole, tmp_path, bundle_folder):
    out = tmp_path / "out"
    chance = random.Random(8)
    for _ in range(4):
        with half_done(whole, out, bundle_folder, chance.randint(1, 3)) as process:
            process.send_signal(signal.SIGCONT)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
    ended(started(whole / "in", out, bundle_folder, "--resume"), 0)
    assert without_times(out) == without_times(whole / "out")
    assert not list(out.rglob(".part-*"))
    assert verify_audit(out).runs == 5


@pytest.mark.slow
def test_one_interrupt_keeps_what_is_done_and_says_130(whole, tmp_path, bundle_folder):
    out = tmp_path / "out"
    with half_done(whole, out, bundle_folder) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        ended(process, 130)
    statuses = [line["status"] for line in manifest(out).values()]
    assert len(statuses) == IMAGES
    assert set(statuses) == {"scored", "pending"}
    assert "have not been looked at" in (out / "report.html").read_text()
    ended(started(whole / "in", out, bundle_folder), 0)
    assert without_times(out) == without_times(whole / "out")


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once_and_the_next_run_goes_on(whole, tmp_path, bundle_folder):
    out = tmp_path / "out"
    with half_done(whole, out, bundle_folder) as process:
        process.send_signal(signal.SIGCONT)
        while process.poll() is None and b"run_failed" not in (out / "audit.jsonl").read_bytes():
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        _, err = process.communicate(timeout=180)
        assert process.returncode in (130, -signal.SIGINT)  # a shell says 130 to both
        assert err.split() == [b"interrupted"]
    assert not (out / "run.json").exists()
    ended(started(whole / "in", out, bundle_folder), 0)
    assert without_times(out) == without_times(whole / "out")


@pytest.mark.slow
def test_of_two_runs_on_one_folder_the_second_is_refused(whole, tmp_path, bundle_folder):
    out = tmp_path / "out"
    with half_done(whole, out, bundle_folder) as first:
        _, err = ended(started(whole / "in", out, bundle_folder), 75)
        first.send_signal(signal.SIGCONT)  # it held the folder for as long as the second needed
        assert err.startswith("error: Another run writes to this output folder")
        ended(first, 0)
    assert without_times(out) == without_times(whole / "out")


@contextmanager
def small_disk(folder, options):
    """A file system of its own, which only root may mount."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (root only)")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [16, 120, 400])
def test_a_full_disk_is_5_and_the_next_run_goes_on(whole, tmp_path, bundle_folder, kilobytes):
    with small_disk(tmp_path / "disk", f"size={kilobytes}k"):
        out = tmp_path / "disk" / "out"
        out.mkdir()
        shutil.copy(whole / "out" / ".salt", out)
        _, err = ended(started(whole / "in", out, bundle_folder), 5)
        assert len(err.splitlines()) == 1
        assert "No space left" in err
        expected = without_times(whole / "out")
        for path in out.rglob("*"):
            name = path.relative_to(out).as_posix()
            if path.suffix in (".png", ".dcm", ".jpg", ".csv"):
                assert file_without_times(path) == expected[name], name
        subprocess.run(["mount", "-o", "remount,size=64m", str(out.parent)], check=True)
        ended(started(whole / "in", out, bundle_folder), 0)
        assert without_times(out) == expected
        verify_audit(out)


def test_a_read_only_output_is_5_before_anything_is_scored(tmp_path, bundle_folder, bright):
    path = save(tmp_path / "in.dcm", chest_dataset(bright))
    with small_disk(tmp_path / "disk", "size=1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        _, err = ended(started(path, tmp_path / "disk" / "out", bundle_folder), 5)
        assert err.startswith("error: Output folder cannot be written; found Read-only file system")
        assert len(err.splitlines()) == 1


def test_nothing_a_patient_is_named_by_leaves_but_in_dicom(tmp_path, bundle_folder, bright, dark):
    fill(tmp_path / "in", bright, dark)
    (tmp_path / "in" / "abort.dcm").unlink()
    out, err = ended(started(tmp_path / "in", tmp_path / "out", bundle_folder), 3)
    assert "CANARY" not in out + err
    told = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and b"CANARY" in p.read_bytes()]
    assert {path.parent.name for path in told} == {"dicom"}
    assert CANARY.encode() in next(iter(told)).read_bytes()


def test_another_image_under_the_same_uid_gets_no_results(tmp_path, detector, bright, dark):
    uids = {"StudyInstanceUID": f"{SERIES}.1", "SOPInstanceUID": f"{SERIES}.1.1", **text_tags()}
    for name, pixels in (("a", bright), ("b", dark), ("copy", bright)):
        (tmp_path / "in").mkdir(exist_ok=True)
        save(tmp_path / "in" / f"{name}.dcm", chest_dataset(pixels, **uids))
    alone = {**uids, "SOPInstanceUID": f"{SERIES}.2.1"}
    save(tmp_path / "in" / "other.dcm", chest_dataset(bright, **alone))
    settings = ScoreSettings(outputs=OutputSettings(dicom=("sr",), fhir=True))
    for _ in range(2):  # a second run, which takes over what it can, comes to the same
        summary = score_batch(tmp_path / "in", tmp_path / "out", detector, settings)
        words = {record.file.image_id: record.warnings for record in summary.records}
        assert [name for name in words if UID_CONFLICT in words[name]] == ["a", "b", "copy"]
        (other,) = (record for record in summary.records if record.file.image_id == "other")
        assert [p.name for p in (tmp_path / "out" / "dicom").iterdir()] == [f"{other.key}-sr.dcm"]
        assert [p.name for p in (tmp_path / "out" / "fhir").iterdir()] == [f"{other.key}.json"]
        assert summary.document["outputs"]["dicom"]["not_made"] == {UID_CONFLICT: 3}
    (tmp_path / "in" / "b.dcm").unlink()  # two copies of one file contradict nobody
    summary = score_batch(tmp_path / "in", tmp_path / "out", detector, settings)
    assert not any(UID_CONFLICT in record.warnings for record in summary.records)
    assert len(list((tmp_path / "out" / "dicom").iterdir())) == 3


def test_a_file_that_is_still_being_written_is_waited_for(tmp_path, detector, bright, monkeypatch):
    path = save(tmp_path / "in.dcm", chest_dataset(bright))
    data = path.read_bytes()
    path.write_bytes(data[:-3000])
    seen = []

    def finish_writing(name, n_bytes_read):
        seen.append(n_bytes_read)
        with open(name, "ab") as stream:
            stream.write(data[-3000:])
        return has_grown(name, n_bytes_read)

    monkeypatch.setattr(image_job, "has_grown", finish_writing)
    (record,) = score_batch(path, tmp_path / "out", detector).records
    assert (record.status, record.n_bytes) == ("scored", len(data))
    assert seen == [len(data) - 3000]


def test_only_fresh_files_are_waited_for(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(growing, "RECENT_SECONDS", 3600.0)  # from now: a busy machine is late
    path = tmp_path / "file"
    path.write_bytes(b"x" * 9)
    assert not has_grown(str(path), 9)
    os.utime(path, (1, 1))
    assert len(waits) == 1
    assert not has_grown(str(path), 9)
    assert has_grown(str(path), 5)  # it was shorter when it was read
    assert not has_grown(str(tmp_path / "gone"), 9)
    assert len(waits) == 1


@pytest.mark.slow
def test_a_terminal_shows_rate_and_time_left(whole, tmp_path, bundle_folder):
    pty = pytest.importorskip("pty")
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "pneumonia", "score", whole / "in", tmp_path / "out"]
    process = subprocess.Popen(
        [*map(str, command), "--bundle", str(bundle_folder), *OPTIONS],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(mine, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(mine)
    assert process.wait(timeout=180) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    found = re.search(rf"(\d+)/{IMAGES} +(\d:\d\d:\d\d) +(\d:\d\d:\d\d) left +[\d.]+ files/s", text)
    assert found, text[-500:]
    assert "0 not scored" in text
