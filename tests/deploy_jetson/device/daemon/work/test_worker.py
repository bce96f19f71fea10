"""The worker's loop: failures of the engine, the disk and the image, conflicts, the watchdog."""

import json
import socket
import time

import numpy as np
import pydicom
import pytest

from deploy_jetson.device.board import BoardSnapshot, ThermalZone
from deploy_jetson.device.daemon.health.notify import SystemdNotifier
from deploy_jetson.device.daemon.health.thermal import ThermalGovernor
from deploy_jetson.device.daemon.settings import QueueSettings, ThermalSettings
from deploy_jetson.device.daemon.work import answers
from deploy_jetson.device.daemon.work.worker import EngineLost
from pneumonia.runtime.errors import DeviceError, InferenceError, OutputError
from tests.deploy_jetson.device.daemon.rig import (
    allow_writes,
    film,
    image,
    refuse_writes,
    running,
    settings,
)
from tests.runtime.dicoms import (
    IMPLICIT,
    J2K,
    chest_dataset,
    j2k_bytes,
    save,
    save_compressed,
)
from tests.support.waiting import wait_for


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
