"""The journal: unwritable, locked, damaged, of another version; nothing is lost."""

import sqlite3
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest

from deploy_jetson.device.daemon.store import journal
from deploy_jetson.device.daemon.store.journal import JobJournal
from pneumonia.runtime.errors import OutputError
from tests.deploy_jetson.device.daemon.rig import (
    Rig,
    allow_writes,
    image,
    refuse_writes,
    running,
    settings,
)
from tests.support.waiting import wait_for


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


def test_order_is_that_of_arrival_whatever_the_clock_says(tmp_path, monkeypatch):
    with running(settings(tmp_path), work=False) as rig:
        first = rig.post(image(1))[1]["job"]
        monkeypatch.setattr(time, "time", lambda: 12.0)  # a board without a battery
        second = rig.post(image(2))[1]["job"]
        assert rig.service.journal.take().key == first
        assert rig.service.journal.take().key == second
        assert "pneumonia_clock_unset 1.0" in rig.request("GET", "/metrics")[1].decode()
