"""Killed at any point, out of disk, on a read-only input: nothing half, the next run ends it.

Spans: pneumonia.scoring.batch.
"""

import hashlib
import os
import resource
import signal

import pytest

from pneumonia.runtime.errors import OutputError
from pneumonia.runtime.results import KIND_OF
from pneumonia.scoring.batch.audit import verify_audit
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import OutputSettings
from tests.runtime.dicoms import SERIES, chest_dataset, save
from tests.scoring.batches import file_without_times, png, without_times

SETTINGS = ScoreSettings(outputs=OutputSettings(dicom=tuple(KIND_OF), fhir=True), jobs=2)
WRITES = ("replace", "fsync", "unlink")  # what every file and every line goes through


@pytest.fixture(scope="module")
def whole(tmp_path_factory, detector, bright, dark):
    """An input and what an uninterrupted run makes of it."""
    root = tmp_path_factory.mktemp("whole")
    (root / "in").mkdir()
    save(root / "in" / "a.dcm", chest_dataset(bright))
    save(root / "in" / "b.dcm", chest_dataset(dark, SOPInstanceUID=f"{SERIES}.2"))
    save(root / "in" / "side.dcm", chest_dataset(bright, ViewPosition="LL"))
    png(root / "in" / "c.png", bright)
    (root / "in" / "cut.dcm").write_bytes((root / "in" / "a.dcm").read_bytes()[:-99])
    score_batch(root / "in", root / "out", detector, SETTINGS)
    return root


def in_child(action):
    """Run an action in a forked child; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except OutputError:
            os._exit(5)
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(number):
    """Make this process kill itself right before its number-th write."""
    left = [number]

    def deadly(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in WRITES:
        setattr(os, name, deadly(getattr(os, name)))


def check_killed_at(number, whole, detector, out):
    """Kill a run at one point; whether it was still alive there."""
    out.mkdir()
    (out / ".salt").write_bytes((whole / "out" / ".salt").read_bytes())

    def run():
        die_at(number)
        score_batch(whole / "in", out, detector, SETTINGS)

    code = in_child(run)
    assert code in (0, -signal.SIGKILL)
    final = [path for path in out.rglob("*") if path.is_file() and ".part-" not in path.name]
    expected = without_times(whole / "out")
    for path in final:  # what is there under its name is whole
        name = path.relative_to(out).as_posix()
        if path.suffix in (".png", ".dcm", ".jpg", ".csv"):
            assert file_without_times(path) == expected[name], name
    score_batch(whole / "in", out, detector, SETTINGS)
    assert without_times(out) == expected
    assert not [path for path in out.rglob("*") if ".part-" in path.name]
    verify_audit(out)
    return code != 0


@pytest.mark.parametrize(
    "number", [5, 26, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 47))]
)
def test_killed_at_a_write_and_run_again(number, whole, detector, tmp_path):
    check_killed_at(number, whole, detector, tmp_path / "out")


@pytest.mark.slow
def test_killed_at_every_third_write(whole, detector, tmp_path):
    number = 0
    while check_killed_at(number, whole, detector, tmp_path / str(number)):
        number += 3
    assert number > 20  # of this many writes


@pytest.mark.parametrize(
    "room_bytes", [200, 9000, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 3000))]
)
def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(room_bytes, whole, detector, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".salt").write_bytes((whole / "out" / ".salt").read_bytes())

    def run():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
        score_batch(whole / "in", out, detector, SETTINGS)

    assert in_child(run) == 5
    expected = without_times(whole / "out")
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if path.is_file() and path.suffix in (".png", ".dcm", ".jpg", ".csv"):
            assert file_without_times(path) == expected[name], name
    score_batch(whole / "in", out, detector, SETTINGS)
    assert without_times(out) == expected
    verify_audit(out)


def test_the_input_is_only_read(whole, detector, tmp_path):
    def state():
        return {
            path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted((whole / "in").iterdir())
        }

    before = state()
    for path in (*before, whole / "in"):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        score_batch(whole / "in", tmp_path / "out", detector, SETTINGS)
        assert state() == before
    finally:
        (whole / "in").chmod(0o755)
