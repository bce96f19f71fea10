"""A disk whose power goes: what a state folder looks like afterwards, at any step of a daemon.

Kept after a cut is what was synced: contents by fsync of the file, names by fsync of the folder,
SQLite's pages by its COMMIT. Everything else may be there, in part, or not at all; here chance
decides. A disk that only seems to sync is not modelled.
"""

import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

DATABASE = "journal.sqlite"
SIDE = ("-wal", "-shm")


class Cut:
    """What the power left.

    Attributes:
        state: The folder after it.
        acknowledged: Jobs that were acknowledged before.
        answers: Their answers that were durable, by file name.
    """

    def __init__(self, state, acknowledged):
        self.state = state
        self.acknowledged = acknowledged


class Disk:
    """Follows what is durable below `state`, and copies that at chosen steps."""

    def __init__(self, state, cuts_at, target, rng, acknowledged):
        self.state, self.target, self.rng = Path(state), Path(target), rng
        self.cuts = []
        self.acknowledged = acknowledged
        self._follows = False
        self._statements = threading.RLock()  # held while the database writes
        self._cuts_at = set(cuts_at)
        self._step = 0
        self._lock = threading.RLock()
        self._synced = {}  # inode -> bytes that are durable
        self._renames = []  # (source, target) of folders not synced since
        self._unlinks = []  # (path, another name of the same file)
        self._wal = 0  # bytes of the write-ahead log that are durable
        self._grave = self.target / "grave"
        self._grave.mkdir(parents=True)

    # --- what the daemon does ---

    def patch(self, monkeypatch):
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._around(getattr(os, name), getattr(self, name)))
        connect = sqlite3.connect
        monkeypatch.setattr(
            sqlite3, "connect", lambda *names, **more: Counted(connect(*names, **more), self)
        )

    def follow(self):
        """From here on; the tables of a new journal are durable."""
        self._wal = self._size("-wal")
        self._follows = True

    def stop(self):
        """Make no more cuts."""
        self._follows = False

    def _around(self, real, note):
        def step(*arguments, **more):
            self.maybe_cut()
            with self._lock:
                note(real, *arguments, **more)
            self.maybe_cut()

        return step

    def fsync(self, real, handle):
        real(handle)
        found = os.fstat(handle)
        if not stat.S_ISDIR(found.st_mode):
            self._synced[found.st_ino] = found.st_size
            return
        folder = os.readlink(f"/proc/self/fd/{handle}")
        for pending in (self._renames, self._unlinks):
            pending[:] = [pair for pair in pending if os.path.dirname(pair[0]) != folder]
        self._renames[:] = [pair for pair in self._renames if os.path.dirname(pair[1]) != folder]

    def replace(self, real, source, target):
        self._renames.append((str(source), str(target)))
        real(source, target)

    def unlink(self, real, path, **more):
        second = self._grave / str(len(self._unlinks) + self._step * 1000)
        if os.path.exists(path) and str(path).startswith(str(self.state)):
            os.link(path, second)
            self._unlinks.append((str(path), str(second)))
        real(path, **more)

    def execute(self, real, text, *arguments):
        """A statement; the log is durable when COMMIT returns."""
        with self._statements:
            found = real(text, *arguments)
        if not self._follows:
            return found
        self.maybe_cut()
        if text.strip() == "COMMIT":
            self._wal = self._size("-wal")
        return found

    def _size(self, ending):
        path = self.state / (DATABASE + ending)
        return path.stat().st_size if path.exists() else 0

    # --- the cut ---

    def maybe_cut(self):
        with self._lock:
            self._step += 1
            wanted = self._step in self._cuts_at
        if wanted and self._follows:
            acknowledged = dict(self.acknowledged)  # before anything else is
            with self._statements, self._lock:  # no half written page of another thread
                self._cut(acknowledged)

    def _cut(self, acknowledged):
        after = self.target / f"cut-{len(self.cuts)}"
        shutil.copytree(self.state, after, ignore=shutil.ignore_patterns("lock", "journal*"))
        for path in self.state.rglob("*"):
            copy = after / path.relative_to(self.state)
            if copy.is_file():  # one that another thread has opened since is not in the copy
                self._tear(path, copy)
        for source, target in reversed(self._renames):
            if self.rng.random() < 0.5:
                self._undo_rename(after, source, target)
        for path, second in self._unlinks:
            if self.rng.random() < 0.5:
                back = after / Path(path).relative_to(self.state)
                if not back.exists():
                    shutil.copyfile(second, back)
        self._copy_database(after)
        self.cuts.append(Cut(after, acknowledged))

    def _tear(self, path, copy):
        durable = self._synced.get(path.stat().st_ino, 0)
        size = copy.stat().st_size
        if size > durable:
            os.truncate(copy, self.rng.randint(durable, size))

    def _undo_rename(self, after, source, target):
        new, old = (after / Path(name).relative_to(self.state) for name in (target, source))
        if new.exists():
            new.rename(old)

    def _copy_database(self, after):
        for ending in ("", "-wal"):
            path = self.state / (DATABASE + ending)
            if path.exists():
                shutil.copyfile(path, after / path.name)
        log = after / (DATABASE + "-wal")
        if log.exists() and log.stat().st_size > self._wal:
            os.truncate(log, self.rng.randint(self._wal, log.stat().st_size))


class Counted:
    """A database whose statements are steps of the disk."""

    def __init__(self, database, disk):
        self._database, self._disk = database, disk

    def execute(self, text, *arguments):
        return self._disk.execute(self._database.execute, text, *arguments)

    def __getattr__(self, name):
        return getattr(self._database, name)
