"""The worker's loop: answers, failures of the engine, the disk and the image, and the watchdog."""

import errno
import json
import logging
import os
import socket
import sqlite3
import time
from contextlib import closing, contextmanager

import numpy as np
import pydicom
import pytest

from deploy_jetson.device.board import BoardSnapshot, ThermalZone
from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.health.notify import SystemdNotifier
from deploy_jetson.device.daemon.health.power_rails import PowerMonitor
from deploy_jetson.device.daemon.health.thermal import ThermalGovernor
from deploy_jetson.device.daemon.settings import QueueSettings, ResultsSettings, ThermalSettings
from deploy_jetson.device.daemon.store import journal
from deploy_jetson.device.daemon.store.journal import JobJournal
from deploy_jetson.device.daemon.store.spool import AlreadyRunning, ImageSpool
from deploy_jetson.device.daemon.work import answers
from deploy_jetson.device.daemon.work.worker import EngineLost
from pneumonia.runtime.errors import DeviceError, InferenceError, OutputError
from tests.deploy_jetson.device.daemon.rig import OneBox, Rig, film, running, settings
from tests.deploy_jetson.device.trees import iio_tree
from tests.runtime.dicoms import (
    IMPLICIT,
    J2K,
    chest_dataset,
    j2k_bytes,
    save,
    save_compressed,
)
from tests.support.waiting import wait_for


def image(number=0):
    return b"image %d " % number + bytes([number % 251])


def test_an_engine_that_fails_once_is_opened_again(tmp_path):
    with running(settings(tmp_path)) as rig:
        first = rig.engine
        first.fail = [DeviceError("CUDA error")]
        answer = rig.settled(rig.post(image())[1]["job"])
        assert (answer["status"], answer["attempt"]) == ("done", 1)
        assert rig.engine is not first


def test_an_engine_that_fails_again_ends_the_process_and_keeps_the_image(tmp_path):
    with running(settings(tmp_path)) as rig:
        rig.engine.fail = [DeviceError("CUDA error")]
        rig.service.model.reopen = lambda: rig.engine.fail.append(DeviceError("CUDA error"))
        job = rig.post(image())[1]["job"]
        rig.thread.join(60)
        assert isinstance(rig.error, EngineLost)
        assert rig.error.exit_code == 70
        assert rig.service.journal.job(job).state == "received"
    with running(settings(tmp_path)) as rig:
        assert rig.settled(job)["status"] == "done"
        assert rig.get("/v1/jobs/" + job)[1]["attempts"] == 2


def test_output_that_is_no_number_fails_the_image_and_sending_it_again_tries_again(tmp_path):
    with running(settings(tmp_path)) as rig:
        rig.engine.fail = [InferenceError("Network output is not finite")]
        job = rig.post(image())[1]["job"]
        answer = rig.settled(job)
        assert (answer["status"], answer["reason"]) == ("failed", "invalid_output")
        twin = json.loads((tmp_path / "quarantine" / (job + ".error.json")).read_text())
        assert twin == answer
        assert (tmp_path / "quarantine" / (job + ".img")).read_bytes() == image()
        status, again = rig.post(image())
        assert (status, again["job"], again["known"]) == (202, job, False)
        wait_for(lambda: rig.get("/v1/jobs/" + job)[1]["status"] == "done")
        assert list((tmp_path / "quarantine").iterdir()) == []


def test_an_image_that_kills_the_process_is_quarantined_and_the_queue_goes_on(tmp_path):
    config = settings(tmp_path, queue=QueueSettings(max_attempts=3))
    with running(config, work=False) as rig:
        poison, other = (rig.post(image(i))[1]["job"] for i in (1, 2))
    for life in range(3):  # a crash leaves a row `running`
        with running(config, work=False) as rig:
            taken = rig.service.journal.take()
            assert (taken.key, taken.attempts) == (poison, life + 1)
    with running(config) as rig:
        answer = rig.settled(poison)
        assert (answer["status"], answer["reason"]) == ("quarantined", "too_many_attempts")
        assert rig.settled(other)["status"] == "done"
        assert rig.engine.runs == 2 + 1  # the poison was not tried a fourth time


def test_any_exception_costs_one_image(tmp_path):
    with running(settings(tmp_path)) as rig:
        rig.engine.fail = [RuntimeError("CANARY^PHI")]
        assert rig.settled(rig.post(image(1))[1]["job"])["reason"] == "internal_error"
        assert rig.settled(rig.post(image(2))[1]["job"])["status"] == "done"


WRITES = ("INSERT", "UPDATE", "DELETE")


def refuse_writes(state):
    """Make every later write to the journal fail."""
    with closing(sqlite3.connect(state / "journal.sqlite")) as database:
        for verb in WRITES:
            database.execute(
                f"CREATE TRIGGER IF NOT EXISTS refuse_{verb} BEFORE {verb} ON jobs "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )


def allow_writes(state):
    with closing(sqlite3.connect(state / "journal.sqlite")) as database:
        for verb in WRITES:
            database.execute(f"DROP TRIGGER IF EXISTS refuse_{verb}")


@pytest.mark.parametrize("journal_too", [False, True])
def test_a_full_disk_holds_answers_back_until_there_is_space(tmp_path, monkeypatch, journal_too):
    full = [True]
    real = answers.write_bytes

    def write(path, data):
        if full[0]:
            if journal_too:  # not even that the job waits again can be written down
                refuse_writes(tmp_path)
            raise OutputError("Cannot write file", found="No space left on device", where=path)
        real(path, data)

    monkeypatch.setattr(answers, "write_bytes", write)
    monkeypatch.setattr("deploy_jetson.device.daemon.work.worker.NO_SPACE_S", 0.05)
    with running(settings(tmp_path)) as rig:
        job = rig.post(image())[1]["job"]
        reason = "journal_not_usable" if journal_too else "results_not_writable"
        wait_for(lambda: reason in rig.get("/readyz")[1]["reasons"])
        full[0] = False
        allow_writes(tmp_path)
        assert rig.settled(job)["attempt"] == 1  # the disk's fault is not the image's
        wait_for(lambda: rig.get("/readyz")[1]["ready"])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "spool_not_writable"),
        (errno.EIO, "spool_not_writable"),
    ],
)
def test_a_disk_that_takes_nothing_refuses_images(tmp_path, monkeypatch, code, reason):
    def fail(handle):
        raise OSError(code, "CANARY^PHI")

    with running(settings(tmp_path), work=False) as rig:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            assert rig.post(image()) == (507, {"error": reason})
        assert list((tmp_path / "incoming").iterdir()) == []
        assert rig.service.journal.waiting()[0] == 0
        assert rig.post(image())[0] == 202


def test_a_journal_that_cannot_be_written_refuses_images(tmp_path):
    with running(settings(tmp_path), work=False) as rig:
        refuse_writes(tmp_path)
        assert rig.post(image()) == (507, {"error": "journal_not_usable"})
        assert list((tmp_path / "incoming").iterdir()) == []
        allow_writes(tmp_path)
        assert rig.post(image())[0] == 202


@contextmanager
def locked(state):
    """Another program's transaction on the journal."""
    with closing(sqlite3.connect(state / "journal.sqlite", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def test_a_locked_journal_is_reported_as_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "LOCK_WAIT_S", 0.01)
    monkeypatch.setattr("deploy_jetson.device.daemon.work.worker.NO_SPACE_S", 0.05)
    with running(settings(tmp_path)) as rig:
        with locked(tmp_path):
            assert rig.post(image()) == (503, {"error": "journal_locked"})
            assert list((tmp_path / "incoming").iterdir()) == []
            wait_for(lambda: rig.get("/readyz")[1]["reasons"] == ["journal_locked"])
        value = rig.service.metrics.value
        assert value("refused_total", reason="journal_locked", source="rest") == 1
        assert value("refused_total", reason="disk_full", source="rest") == 0
        wait_for(lambda: rig.get("/readyz")[1]["ready"])
        assert rig.settled(rig.post(image())[1]["job"])["status"] == "done"


def test_a_journal_that_is_locked_for_good_is_named_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "LOCK_WAIT_S", 0.01)
    path = str(tmp_path / "journal.sqlite")
    JobJournal(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError, match=r"database is locked.*Another program") as caught:
            JobJournal(path)
    assert caught.value.reason == "journal_locked"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be opened"):
        JobJournal(str(tmp_path / "folder"))


@pytest.mark.parametrize(
    ("table", "column"), [("jobs", "attempts"), ("jobs", "reason"), ("deliveries", "code")]
)
def test_a_journal_without_a_column_is_named_and_kept(tmp_path, table, column):
    path = tmp_path / "journal.sqlite"
    JobJournal(str(path)).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
        database.commit()
    with pytest.raises(OutputError, match=f"{table} without {column}") as caught:
        JobJournal(str(path))
    assert caught.value.exit_code == 5
    assert path.exists()


def test_a_further_column_does_no_harm(tmp_path):
    with running(settings(tmp_path), work=False) as rig:
        rig.post(image())
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        database.execute("ALTER TABLE jobs ADD COLUMN note TEXT")
        database.execute("ALTER TABLE deliveries ADD COLUMN note TEXT")
        database.commit()
    with running(settings(tmp_path)) as rig:
        assert rig.settled(rig.post(image())[1]["job"])["status"] == "done"


@pytest.mark.parametrize("name", ["incoming", "results", "dicom", "quarantine"])
def test_a_folder_that_cannot_be_written_is_not_ready(tmp_path, name):
    with running(settings(tmp_path), work=False) as rig:
        assert rig.get("/readyz")[1]["ready"]
        (tmp_path / name).rename(tmp_path / "away")
        for is_file in (False, True):  # gone, and a file where the folder was
            if is_file:
                (tmp_path / name).touch()
            assert rig.get("/readyz")[1]["reasons"] == ["spool_not_writable"]
            assert "pneumonia_ready 0.0" in rig.request("GET", "/metrics")[1].decode()
            if name == "incoming":
                assert rig.post(image()) == (507, {"error": "spool_not_writable"})
        (tmp_path / name).unlink()
        (tmp_path / "away").rename(tmp_path / name)
        assert rig.get("/readyz")[1]["ready"]
        assert rig.post(image())[0] == 202


def test_a_folder_without_rights_is_not_ready(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    with running(settings(tmp_path), work=False) as rig:
        (tmp_path / "incoming").chmod(0o500)
        assert rig.get("/readyz")[1]["reasons"] == ["spool_not_writable"]
        assert rig.post(image()) == (507, {"error": "spool_not_writable"})
        (tmp_path / "incoming").chmod(0o700)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "page", "empty", "missing"])
def test_a_damaged_journal_is_set_aside_and_nothing_is_lost(tmp_path, damage):
    with running(settings(tmp_path)) as rig:
        answered = rig.post(image(1))[1]["job"]
        before = rig.settled(answered)
    with running(settings(tmp_path), work=False) as rig:
        waiting = rig.post(image(2))[1]["job"]
    path = tmp_path / "journal.sqlite"
    data = path.read_bytes()
    is_lost = damage in ("empty", "missing")
    harm = {
        "empty": b"",
        "missing": b"",
        "garbage": b"no database " * 500,
        "truncated": data[: len(data) // 2 + 7],
        "page": data[:4096] + np.random.default_rng(0).bytes(4096) + data[8192:],
    }
    path.write_bytes(harm[damage])
    if damage == "missing":
        path.unlink()
    with running(settings(tmp_path)) as rig:
        assert rig.settled(waiting)["status"] == "done"
        assert rig.get(f"/v1/jobs/{answered}/result")[1] == before
        assert rig.post(image(1))[1] == {"job": answered, "status": "done", "known": True}
        assert rig.service.metrics.value("journal_rebuilt_total") == 1
    assert len(list(tmp_path.glob("journal.corrupt-*[!lm]"))) == (0 if is_lost else 1)


def test_a_journal_of_a_later_version_is_not_touched(tmp_path):
    journal = JobJournal(tmp_path / "journal.sqlite")
    journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(OutputError, match="another version"):
        Rig(settings(tmp_path))


def test_two_daemons_do_not_share_a_state_folder(tmp_path):
    first = ImageSpool(tmp_path)
    with pytest.raises(AlreadyRunning) as caught:
        ImageSpool(tmp_path)
    assert caught.value.exit_code == 75
    first.close()
    ImageSpool(tmp_path).close()


def test_one_uid_with_other_contents_is_a_conflict(tmp_path):
    config = settings(tmp_path / "state")
    with running(config, child=True) as rig:
        first = rig.post(film(tmp_path / "a.dcm", 0, "7").read_bytes())[1]["job"]
        assert rig.settled(first)["status"] == "done"
        second = rig.post(film(tmp_path / "b.dcm", 1, "7").read_bytes())[1]["job"]
        answer = rig.settled(second)
        assert (answer["status"], answer["reason"]) == ("quarantined", "conflict")
        third = rig.post(film(tmp_path / "c.dcm", 0, "8").read_bytes())[1]["job"]
        assert rig.settled(third)["status"] == "done"  # the same pixels under another UID
        assert len({first, second, third}) == 3


def test_the_same_image_in_another_encoding_is_no_conflict(tmp_path):
    path = film(tmp_path / "a.dcm")
    again = pydicom.dcmread(path)
    save(tmp_path / "b.dcm", again, IMPLICIT)
    with running(settings(tmp_path / "state"), child=True) as rig:
        first, second = (
            rig.settled(rig.post((tmp_path / name).read_bytes())[1]["job"])
            for name in ("a.dcm", "b.dcm")
        )
        assert first["job"] != second["job"]
        assert (first["status"], second["status"]) == ("done", "done")
        assert first["findings"] == second["findings"]
        again.PatientName = "OTHER^NAME"
        save(tmp_path / "c.dcm", again)
        other = rig.settled(rig.post((tmp_path / "c.dcm").read_bytes())[1]["job"])
        assert other["reason"] == "conflict"


def test_a_broken_transfer_is_no_conflict(tmp_path):
    data = film(tmp_path / "a.dcm").read_bytes()
    with running(settings(tmp_path / "state"), child=True) as rig:
        broken = rig.settled(rig.post(data[:-900])[1]["job"])
        assert broken["status"] in ("failed", "rejected")
        assert rig.settled(rig.post(data)[1]["job"])["status"] == "done"


def test_a_broken_transfer_that_still_waits_is_no_conflict(tmp_path):
    """Conflicts are decided when a job is taken: then it is known what its predecessors were."""
    data = film(tmp_path / "a.dcm").read_bytes()
    with running(settings(tmp_path / "state"), child=True, work=False) as rig:
        broken, whole, later = (
            rig.post(part)[1]["job"] for part in (data[:-900], data, data[:-90])
        )
        other = rig.post(film(tmp_path / "b.dcm", 1).read_bytes())[1]["job"]
        rig.thread.start()
        assert rig.settled(broken)["reason"] == "pixel_data_truncated"
        assert rig.settled(whole)["status"] == "done"
        assert rig.settled(later)["reason"] == "conflict"
        assert rig.settled(other)["reason"] == "conflict"
        assert rig.post(data)[1] == {"job": whole, "status": "done", "known": True}


def test_a_film_that_an_earlier_release_took_for_a_conflict_is_scored_when_sent_again(tmp_path):
    with running(settings(tmp_path / "state"), child=True) as rig:
        data = film(tmp_path / "a.dcm").read_bytes()
        job = rig.post(data)[1]["job"]
        rig.settled(job)
        rig.service.journal.mark_answered(job, "quarantined", "conflict")
        assert rig.post(data)[0] == 202
        wait_for(lambda: rig.get("/v1/jobs/" + job)[1]["status"] == "done")


def test_a_film_after_a_degraded_copy_of_it_is_scored(tmp_path):
    """A film whose code stream ends wrongly is read; the intact one that follows is scored too."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    stream = j2k_bytes(pixels)
    odd, whole = tmp_path / "odd.dcm", tmp_path / "whole.dcm"
    save_compressed(odd, chest_dataset(pixels), stream + b"\1\2\3\4", J2K)
    save_compressed(whole, chest_dataset(pixels), stream, J2K)
    with running(settings(tmp_path / "state"), child=True) as rig:
        first = rig.settled(rig.post(odd.read_bytes())[1]["job"])
        assert (first["status"], "degraded" in first["warnings"]) == ("done", True)
        assert rig.settled(rig.post(whole.read_bytes())[1]["job"])["status"] == "done"
        assert rig.settled(rig.post(film(tmp_path / "c.dcm").read_bytes())[1]["job"])["reason"] == (
            "conflict"
        )


def test_what_waits_when_the_model_changes_is_scored_once_by_the_new_one(tmp_path):
    with running(settings(tmp_path), work=False) as rig:
        job = rig.post(image())[1]["job"]
        with rig.service.journal.transaction() as database:
            database.execute("UPDATE jobs SET model_hash='older'")
    with running(settings(tmp_path)) as rig:
        assert rig.settled(job)["model"]["hash"] == rig.service.worker.model_hash
        wait_for(lambda: rig.service.journal.counts()["done"] == 1)
        assert rig.post(image())[1] == {"job": job, "status": "done", "known": True}
        with rig.service.journal.transaction() as database:  # and back to the older one
            database.execute("UPDATE jobs SET model_hash='older'")
        status, again = rig.post(image())
        assert (status, again["known"]) == (202, False)
        assert again["job"] != job
        assert rig.settled(again["job"])["status"] == "done"


def test_an_image_removed_by_a_user_gets_an_answer_too(tmp_path):
    with running(settings(tmp_path), work=False) as rig:
        job = rig.post(image())[1]["job"]
    (tmp_path / "incoming" / (job + ".img")).unlink()
    with running(settings(tmp_path)) as rig:
        assert rig.settled(job)["reason"] == "image_missing"
        assert rig.post(image())[0] == 202  # and can be sent again
        wait_for(lambda: rig.get("/v1/jobs/" + job)[1]["status"] == "done")


def test_preamble_and_meta_are_not_the_image(tmp_path):
    data = film(tmp_path / "a.dcm").read_bytes()
    with running(settings(tmp_path / "state"), work=False) as rig:
        first = rig.post(data)[1]
        again = rig.post(b"MZ" + data[2:])[1]
        assert (again["job"], again["known"]) == (first["job"], True)


def test_dicom_results_are_kept_and_served(tmp_path):
    config = settings(tmp_path / "state", results=ResultsSettings(("sr", "gsps", "sc")))
    with running(config, child=True) as rig:
        job = rig.post(film(tmp_path / "a.dcm").read_bytes())[1]["job"]
        answer = rig.settled(job)
        assert answer["dicom"] == ["sr", "gsps", "sc"]
        assert answer["source"]["SOPInstanceUID"].endswith(".1.1.1")
        for kind in answer["dicom"]:
            status, data = rig.request("GET", f"/v1/jobs/{job}/{kind}")
            assert (status, data[128:132]) == (200, b"DICM")


def test_a_header_that_makes_no_dicom_results_costs_the_results_and_not_the_process(tmp_path):
    config = settings(tmp_path / "state", results=ResultsSettings(("sr", "gsps", "sc")))
    with running(config, child=True) as rig:
        odd = film(tmp_path / "a.dcm", SOPInstanceUID="CANARY PHI").read_bytes()
        answer = rig.settled(rig.post(odd)[1]["job"])
        assert (answer["status"], answer["dicom"]) == ("done", [])
        assert "header_not_writable" in answer["warnings"]
        assert "CANARY" not in json.dumps(answer)
        good = rig.settled(rig.post(film(tmp_path / "b.dcm").read_bytes())[1]["job"])
        assert good["dicom"] == ["sr", "gsps", "sc"]


def test_an_answer_that_cannot_be_written_down_costs_one_image(tmp_path, monkeypatch):
    real, times = answers.result_of, []

    def broken(*arguments):
        times.append(1)
        if len(times) == 1:
            raise ValueError("CANARY^PHI")
        return real(*arguments)

    monkeypatch.setattr(answers, "result_of", broken)
    with running(settings(tmp_path)) as rig:
        assert rig.settled(rig.post(image(1))[1]["job"])["reason"] == "internal_error"
        assert rig.settled(rig.post(image(2))[1]["job"])["status"] == "done"


def test_old_answers_go_and_undelivered_ones_stay(tmp_path):
    with running(settings(tmp_path)) as rig:
        old, kept = (rig.post(image(i))[1]["job"] for i in (1, 2))
        rig.settled(old), rig.settled(kept)
        wait_for(lambda: rig.service.journal.counts()["done"] == 2)
        rig.service.journal.mark_answered(kept, "done", "", [("pacs", "sr")])
        with rig.service.journal.transaction() as database:
            database.execute("UPDATE jobs SET changed_at=?", (time.time() - 31 * 86400,))
        rig.service.forget_old()
        assert rig.get("/v1/jobs/" + old)[0] == 404
        assert rig.get("/v1/jobs/" + kept)[0] == 200
        assert [path.stem for path in (tmp_path / "results").iterdir()] == [kept]


def heard(channel, seconds):
    """Messages until there is silence of so many seconds, or many."""
    channel.settimeout(seconds)
    for count in range(500):
        try:
            channel.recv(200)
        except (TimeoutError, BlockingIOError):
            return count
    return 500


def test_the_watchdog_hears_the_loop_and_nothing_else(tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(60)
        notifier = SystemdNotifier(address, "200000")
        with running(settings(tmp_path / "state"), notifier=notifier) as rig:
            assert channel.recv(200).startswith(b"READY=1\nSTATUS=")
            assert channel.recv(200) == b"WATCHDOG=1"
            hung = [True]

            def hang():
                while hung[0]:
                    time.sleep(0.02)

            rig.engine.fail = [hang]
            rig.post(image())
            wait_for(lambda: rig.engine.runs == 3)
            heard(channel, 0)  # what the loop said before
            assert heard(channel, 0.4) == 0, "a hung engine, and the watchdog hears us still"
            rig.service.worker.pulse -= 100
            assert rig.request("GET", "/livez")[0] == 503
            hung[0] = False
            channel.settimeout(60)
            assert channel.recv(200) == b"WATCHDOG=1"
        assert channel.recv(200) in (b"STOPPING=1", b"WATCHDOG=1")


def turned(worker):
    """Wait until the worker's loop has moved on."""
    before = worker.pulse
    wait_for(lambda: worker.pulse > before)


def test_a_hot_board_rests_between_images_and_a_critical_one_stops(tmp_path):
    zones = {"GPU-therm": ThermalZone(60.0, 95.5)}
    with running(settings(tmp_path)) as rig:
        limits = ThermalSettings(poll_s=0.05, pause_s=0.1)
        rig.service.governor = ThermalGovernor(limits, lambda: BoardSnapshot({}, dict(zones)))
        rig.settled(rig.post(image(1))[1]["job"])
        zones["GPU-therm"] = ThermalZone(96.0, 95.5)
        wait_for(lambda: "too_hot" in rig.get("/readyz")[1]["reasons"])
        turned(rig.service.worker)  # the turn that began before it was hot is over
        job = rig.post(image(2))[1]["job"]  # it is taken all the same
        for _ in range(3):
            turned(rig.service.worker)
        assert rig.get("/v1/jobs/" + job)[1]["status"] == "received"
        zones["GPU-therm"] = ThermalZone(93.0, 95.5)
        assert rig.settled(job)["status"] == "done"
        text = rig.request("GET", "/metrics")[1].decode()
        assert 'pneumonia_temperature_celsius{zone="GPU-therm"} 93.0' in text
        assert "pneumonia_throttled 1.0" in text


def test_power_of_the_rails_is_shown_and_a_lost_rail_is_not_zero(tmp_path):
    files = iio_tree(tmp_path / "board")
    with running(settings(tmp_path / "state"), work=False) as rig:
        rig.service.monitor = PowerMonitor(str(tmp_path / "board"))
        text = rig.request("GET", "/metrics")[1].decode()
        files["VDD_SYS_CPU"].unlink()
        files["VDD_SYS_CPU"].mkdir()
        rig.service.monitor = PowerMonitor(str(tmp_path / "board"))
        lost = rig.request("GET", "/metrics")[1].decode()
    assert 'pneumonia_power_watts{rail="VDD_IN"} 9.273\n' in text
    assert text.count("pneumonia_power_watts{") == 9
    assert "VDD_SYS_CPU" not in lost
    assert lost.count("pneumonia_power_watts{") == 8
    assert PowerMonitor(str(tmp_path / "nowhere")).watts() == []


@pytest.fixture
def own_handlers():
    """Puts back what a test's log_to_stderr has set."""
    ours = [logging.getLogger(name) for name in logs.OURS]
    before = [(one, one.handlers, one.level) for one in ours]
    yield
    for one, handlers, level in before:
        one.handlers = handlers
        one.setLevel(level)


def test_log_lines_are_json_and_tell_nothing_of_an_exception(own_handlers, capsys):
    logs.log_to_stderr("info")
    try:
        raise ValueError("CANARY^PHI")
    except ValueError:
        logs.broken("internal_error", job="k")
    finally:
        logs.LOGGER.handlers = []
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["error"], line["job"]) == ("internal_error", "ValueError", "k")
    assert "CANARY" not in json.dumps(line)


def test_what_other_parts_say_is_json_too(own_handlers, capsys):
    logs.log_to_stderr("info")
    try:
        logging.getLogger("pneumonia.runtime.engines").warning("TensorRT is left out: %s", "why")
    finally:
        logs.LOGGER.handlers = []
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["text"]) == ("note", "TensorRT is left out: why")


def test_the_engine_is_named_and_a_slow_one_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logs.LOGGER, "propagate", True)
    with running(settings(tmp_path / "a")) as rig:
        text = rig.request("GET", "/metrics")[1].decode()
        assert 'pneumonia_engine{name="one-box"} 1.0\n' in text
        assert "slow_engine" not in caplog.messages
    monkeypatch.setattr(OneBox, "name", "reference")
    with running(settings(tmp_path / "b")):
        assert "slow_engine" in caplog.messages


def test_order_is_that_of_arrival_whatever_the_clock_says(tmp_path, monkeypatch):
    with running(settings(tmp_path), work=False) as rig:
        first = rig.post(image(1))[1]["job"]
        monkeypatch.setattr(time, "time", lambda: 12.0)  # a board without a battery
        second = rig.post(image(2))[1]["job"]
        assert rig.service.journal.take().key == first
        assert rig.service.journal.take().key == second
        assert "pneumonia_clock_unset 1.0" in rig.request("GET", "/metrics")[1].decode()
