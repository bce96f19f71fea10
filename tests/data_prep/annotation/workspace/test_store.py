"""The store: undo and redo that outlive everything, conflicts, kill -9, broken files."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from PIL import Image

from data_prep.annotation.workspace.database import (
    FILE,
    SCHEMA,
    WorkspaceDatabase,
    open_database,
    workspace_lock,
)
from data_prep.annotation.workspace.people import AnnotatorRegistry
from data_prep.annotation.workspace.records import Reading, check_reading, checked_name
from data_prep.annotation.workspace.store import ConflictError, ReadingStore, share_out
from data_prep.annotation.workspace.studies import StudyFile, find_studies
from data_prep.reports.findings.concepts import ConceptBase
from pneumonia.runtime.errors import ConfigError, DataError, OutputError
from tests.contracts.tree import ROOT
from tests.data_prep.annotation.readings import box, reading

BASE = ConceptBase.load()


@pytest.fixture
def folder(tmp_path):
    studies = tmp_path / "studies"
    (studies / "sub").mkdir(parents=True)
    for name in ("one.png", "two.jpg", "sub/one.png"):
        Image.new("L", (640, 480), 90).save(studies / name)
    (studies / "broken.dcm").write_bytes(b"no dicom")
    (studies / "empty.png").write_bytes(b"")
    (studies / "notes.txt").write_text("not an image")
    return studies


@pytest.fixture
def database(tmp_path):
    return open_database(tmp_path / "work")


@pytest.fixture
def store(database, folder):
    store = ReadingStore(database)
    store.register(find_studies(folder), workers=1)
    return store


def named(store, image_id):
    return next(s for s in store.studies() if s.image_id == image_id)


def said(store, study, *boxes, base=0, verdict=""):
    made = reading("ann", *boxes, image=study.image_id, verdict=verdict)
    return store.save(study, made, base, 1.5)


def test_folder_is_listed_with_reasons(store):
    found = {s.relative: (s.image_id, s.width, s.height, s.reason) for s in store.studies()}
    assert found["two.jpg"] == ("two", 640, 480, "")
    assert found["one.png"][0] == "one.png"  # two files have that stem
    assert found["sub/one.png"][0] == "sub/one"
    assert found["broken.dcm"][3]
    assert found["empty.png"][3]
    assert "notes.txt" not in found


def test_keys_and_readings_outlive_changes_of_the_folder(store, folder):
    two = named(store, "two")
    said(store, two, box())
    Image.new("L", (640, 480), 90).save(folder / "another.png")
    (folder / "one.png").unlink()
    store.register(find_studies(folder), workers=1)
    assert named(store, "two") == two
    assert "one.png" not in {s.image_id for s in store.studies()}
    assert len(store.state(two, "ann").reading.annotations) == 1
    (folder / "two.jpg").unlink()
    store.register(find_studies(folder), workers=1)
    with pytest.raises(DataError):
        store.study(two.key)
    assert store.readings() == {}


def test_only_changed_files_are_read_again(store, folder):
    """A file of the same size and time is not opened, whatever it holds now."""
    path = folder / "two.jpg"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.register(find_studies(folder), workers=1)
    assert (named(store, "two").width, named(store, "two").reason) == (640, "")
    path.touch()
    store.register(find_studies(folder), workers=1)
    assert named(store, "two").reason


def test_empty_or_missing_folder(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError):
        find_studies(tmp_path / "nothing")
    with pytest.raises(ConfigError):
        find_studies(tmp_path / "missing")


def test_undo_redo_by_hand(store):
    two = named(store, "two")
    first = said(store, two, box())
    second = said(store, two, box(), box((1, 1, 9, 9)), base=first.revision)
    assert (second.can_undo, second.can_redo) == (True, False)
    back = store.undo(two, "ann")
    assert (len(back.reading.annotations), back.can_redo) == (1, True)
    assert store.undo(two, "ann").reading.annotations == ()
    assert store.undo(two, "ann").revision == 0
    assert len(store.redo(two, "ann").reading.annotations) == 1
    again = store.redo(two, "ann")
    assert (again.reading.annotations, again.can_redo) == (second.reading.annotations, False)
    assert store.state(two, "bob").revision == 0  # others see nothing of it


def test_a_second_window_cannot_overwrite(store):
    two = named(store, "two")
    said(store, two, box())
    with pytest.raises(ConflictError):
        said(store, two)
    assert len(store.state(two, "ann").reading.annotations) == 1


def test_time_is_bounded_and_adds_up(store):
    two = named(store, "two")
    made = reading("ann", image="two", verdict="")
    first = store.save(two, made, 0, 10.0)
    store.save(two, made, first.revision, 1e9)
    store.add_time(two, "ann", -5)
    assert store.state(two, "ann").reading.active_s == 310.0


class History(RuleBasedStateMachine):
    """Undo and redo against a list with a cursor."""

    def __init__(self):
        super().__init__()
        self.database = open_database(self.work)
        self.store = ReadingStore(self.database)
        self.study = self.store.studies()[0]
        History.count += 1
        self.name = f"reader {History.count}"
        self.steps, self.at = [0], 0

    @rule(n=st.integers(0, 5))
    def save(self, n):
        boxes = [box((i, 0, i + 5, 5)) for i in range(n)]
        made = reading(self.name, *boxes, image=self.study.image_id, verdict="")
        self.store.save(self.study, made, self.store.state(self.study, self.name).revision, 0)
        self.steps = [*self.steps[: self.at + 1], n]
        self.at += 1

    @rule()
    def undo(self):
        self.store.undo(self.study, self.name)
        self.at = max(0, self.at - 1)

    @rule()
    def redo(self):
        self.store.redo(self.study, self.name)
        self.at = min(len(self.steps) - 1, self.at + 1)

    @invariant()
    def same(self):
        state = self.store.state(self.study, self.name)
        assert len(state.reading.annotations) == self.steps[self.at]
        assert state.can_undo == (self.at > 0)
        assert state.can_redo == (self.at < len(self.steps) - 1)

    def teardown(self):
        self.database.close()


def test_history_is_a_list_with_a_cursor(tmp_path, folder):
    database = open_database(tmp_path / "w")
    ReadingStore(database).register(find_studies(folder), workers=1)
    database.close()
    History.work, History.count = tmp_path / "w", 0
    from hypothesis.stateful import run_state_machine_as_test

    limits = settings(max_examples=15, stateful_step_count=12)
    run_state_machine_as_test(History, settings=limits)


WRITER = """
import sys
from pathlib import Path
from data_prep.annotation.workspace.database import open_database
from data_prep.annotation.workspace.records import Annotation, Reading
from data_prep.annotation.workspace.store import ReadingStore
store = ReadingStore(open_database(Path(sys.argv[1])))
study, revision, n = store.studies()[0], 0, 0
while True:
    n += 1
    item = Annotation("a", (0.0, 0.0, 5.0 + n / 1000, 9.0))
    made = Reading(study.image_id, "ann", (item,))
    revision = store.save(study, made, revision, 0).revision
    print(n, flush=True)
"""


def test_kill_9_loses_no_answered_save(tmp_path, store):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "work")], stdout=subprocess.PIPE, cwd=ROOT
    )
    answered = [int(process.stdout.readline()) for _ in range(25)][-1]
    os.kill(process.pid, signal.SIGKILL)
    answered = int((process.stdout.read().split() or [answered])[-1])
    process.wait()
    process.stdout.close()
    after = ReadingStore(open_database(tmp_path / "work"))
    kept = after.state(after.studies()[0], "ann").reading.annotations[0].box_xyxy[2]
    assert kept in (5.0 + answered / 1000, 5.0 + (answered + 1) / 1000)


def test_foreign_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / FILE).write_bytes(b"no database at all" * 99)
    with pytest.raises(DataError):
        open_database(tmp_path / "a")
    (tmp_path / "b").mkdir()
    other = sqlite3.connect(tmp_path / "b" / FILE)
    other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(DataError, match="schema"):
        open_database(tmp_path / "b")
    with pytest.raises(OutputError):
        open_database(tmp_path / "b" / FILE)
    assert SCHEMA.endswith("/1")


def test_a_workspace_belongs_to_one_process(tmp_path):
    with workspace_lock(tmp_path / "w"):
        with pytest.raises(OutputError, match="in use"), workspace_lock(tmp_path / "w"):
            pass
        with workspace_lock(tmp_path / "other"):
            pass
    with workspace_lock(tmp_path / "w"):
        pass


def test_a_locked_database_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.annotation.workspace.database._BUSY_MS", 50)
    database = open_database(tmp_path / "w")
    other = sqlite3.connect(tmp_path / "w" / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutputError, match="Another program") as caught, database.change():
        pass
    assert "locked" in str(caught.value)
    other.close()


def test_a_full_database_and_one_locked_for_reading_are_named(tmp_path):
    database = open_database(tmp_path / "work")
    pages = database.row("PRAGMA page_count")[0]
    database.rows(f"PRAGMA max_page_count = {pages}")
    store = ReadingStore(database)
    files = [StudyFile(f"{n}.png", f"{n}" * 90, tmp_path, "1") for n in range(400)]
    with pytest.raises(OutputError, match="disk is full"):
        store.register(files, workers=1)
    assert store.studies() == []  # nothing of it is kept
    database.rows("PRAGMA locking_mode = EXCLUSIVE")
    database.rows("PRAGMA journal_mode = DELETE")
    with database.change() as change:
        change.execute("INSERT INTO meta VALUES ('a', 'b')")
    other = sqlite3.connect(tmp_path / "work" / FILE, timeout=0)
    with pytest.raises(OutputError, match="Another program"):
        WorkspaceDatabase(other, tmp_path / "work" / FILE).rows("SELECT * FROM meta")


def test_database_is_private(tmp_path):
    open_database(tmp_path / "w").close()
    assert (tmp_path / "w").stat().st_mode & 0o077 == 0
    assert (tmp_path / "w" / FILE).stat().st_mode & 0o077 == 0


def test_tokens_and_sessions(tmp_path, monkeypatch):
    people = AnnotatorRegistry(open_database(tmp_path / "w"))
    token = people.add("Ann Lee")
    session = people.log_in(token)
    assert people.person_of(session).name == "Ann Lee"
    assert token.encode() not in (tmp_path / "w" / FILE).read_bytes()
    for name in ("ann lee", "manager", "adjudication", "", "<b>", "x" * 41, "a\nb\0"):
        with pytest.raises(DataError):
            people.add(name)
    new = people.renew("Ann Lee")
    assert people.person_of(session) is None
    assert people.log_in(token) is None
    session = people.log_in(new)
    people.log_out(session)
    assert people.person_of(session) is None
    people.revoke("Ann Lee")
    assert people.log_in(new) is None
    assert not people.can_log_in("Ann Lee")
    with pytest.raises(DataError):
        people.revoke("nobody")
    assert people.annotators()[0].name == "Ann Lee"


def test_sessions_end_and_guessing_is_slowed(tmp_path, monkeypatch):
    people = AnnotatorRegistry(open_database(tmp_path / "w"))
    session = people.log_in(people.manager_token())
    assert people.person_of(session).role == "manager"
    monkeypatch.setattr("data_prep.annotation.workspace.people.time.time", lambda: 9e9)
    assert people.person_of(session) is None
    assert not people.must_wait()
    for _ in range(10):
        people.log_in("wrong")
    assert people.must_wait()


def test_share_out_is_even():
    pairs = share_out(range(10), ["b", "a", "c"], 2)
    assert len(set(pairs)) == 20
    counts = sorted(sum(name == who for _, name in pairs) for who in "abc")
    assert counts == [6, 7, 7]
    for readers in (0, 4):
        with pytest.raises(DataError):
            share_out([1], ["a", "b", "c"], readers)


def test_assignments(store, database):
    people = AnnotatorRegistry(database)
    people.add("ann")
    two = named(store, "two")
    store.assign([(two.key, "ann")])
    assert store.is_assigned(two.key, "ann")
    store.unassign(two.key, "ann")
    assert store.assignments() == set()


@pytest.mark.parametrize(
    "made",
    [
        reading("a", box((-1, 0, 9, 9))),
        reading("a", box((0, 0, 641, 9))),
        reading("a", box((0, 0, 1, 9))),
        reading("a", box((9, 9, 0, 0))),
        reading("a", box((0, 0, float("nan"), 9))),
        reading("a", box(code="No Such Code")),
        reading("a", box(assertion="absent")),
        reading("a", box(coarse="No group")),
        reading("a", box(code="")),
        reading("a", verdict="opacity"),
        reading("a", box(), verdict="normal"),
        reading("a", verdict="well"),
        Reading("one", "a", (box(), box())),
        reading("a", *[box()] * 201),
    ],
)
def test_what_cannot_be_true_is_refused(store, made):
    with pytest.raises(DataError):
        check_reading(made, named(store, "two"), BASE)


def test_what_can_be_true_passes(store):
    two = named(store, "two")
    for made in (
        reading("a", box(code=""), verdict=""),
        reading("a", box(code="NIL"), verdict="abnormal"),
        reading("a", verdict="unusable"),
        reading("a", box((0, 0, 640, 480))),
    ):
        check_reading(made, two, BASE)
    assert checked_name("  Ann   Lee ") == "Ann Lee"
