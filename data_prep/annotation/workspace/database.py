"""The workspace's SQLite file: opened once, every change durable before the response.

Write-ahead log with full sync: a killed process or a power cut loses no answered change.
"""

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pneumonia.runtime.errors import DataError, OutputError, os_errors_as

SCHEMA = "pneumonia.annotations/1"
FILE = "annotations.sqlite"
LOCK = "annotate.lock"
_BUSY_MS = 5000

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE studies (
  key INTEGER PRIMARY KEY, relative TEXT NOT NULL UNIQUE, image_id TEXT NOT NULL UNIQUE,
  width INTEGER NOT NULL, height INTEGER NOT NULL, view TEXT NOT NULL, reason TEXT NOT NULL,
  stamp TEXT NOT NULL, present INTEGER NOT NULL
);
CREATE TABLE annotators (
  name TEXT PRIMARY KEY, role TEXT NOT NULL, token_hash TEXT UNIQUE, created_at TEXT NOT NULL
);
CREATE TABLE sessions (
  hash TEXT PRIMARY KEY, name TEXT NOT NULL REFERENCES annotators(name), expires_s REAL NOT NULL
);
CREATE TABLE assignments (
  study INTEGER NOT NULL REFERENCES studies(key), name TEXT NOT NULL REFERENCES annotators(name),
  PRIMARY KEY (study, name)
);
CREATE TABLE revisions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, study INTEGER NOT NULL REFERENCES studies(key),
  name TEXT NOT NULL, parent INTEGER NOT NULL, body TEXT NOT NULL, saved_at TEXT NOT NULL
);
CREATE INDEX children ON revisions (study, name, parent);
CREATE TABLE heads (
  study INTEGER NOT NULL REFERENCES studies(key), name TEXT NOT NULL, revision INTEGER NOT NULL,
  active_s REAL NOT NULL, changed_at TEXT NOT NULL, PRIMARY KEY (study, name)
);
"""
# Added later: a workspace of an earlier version gets it when it is opened.
_ADDED = """
CREATE TABLE IF NOT EXISTS changes (
  study INTEGER NOT NULL REFERENCES studies(key), name TEXT NOT NULL, change_id TEXT NOT NULL,
  revision INTEGER NOT NULL, PRIMARY KEY (study, name, change_id)
);
CREATE TABLE IF NOT EXISTS details (
  study INTEGER PRIMARY KEY REFERENCES studies(key), stamp TEXT NOT NULL,
  patient TEXT NOT NULL, taken TEXT NOT NULL, row_mm REAL, column_mm REAL
);
CREATE TABLE IF NOT EXISTS repeats (
  study INTEGER NOT NULL REFERENCES studies(key), name TEXT NOT NULL REFERENCES annotators(name),
  PRIMARY KEY (study, name)
);
"""


class WorkspaceDatabase:
    """One connection, one writer at a time. Use `open_database`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on disk when the block ends, or none of it.

        Raises:
            OutputError: The file cannot be written (disk full, read-only, locked by a program).
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise self._fault("Annotations cannot be saved", error) from None
                raise

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query.

        Raises:
            OutputError: The file cannot be read (locked by a program, disk fault).
        """
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                raise self._fault("Annotations cannot be read", error) from None

    def _fault(self, what: str, error: sqlite3.OperationalError) -> OutputError:
        return OutputError(what, found=str(error), where=str(self.path), fix=_fix(error))

    def row(self, query: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        found = self.rows(query, *values)
        return found[0] if found else None

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        with self._lock:
            self._connection.close()


@contextmanager
def workspace_lock(work: Path) -> Iterator[None]:
    """Lock a workspace for this process; a new, still empty workspace is removed at the end.

    Raises:
        OutputError: Another process has it, or the folder cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no lock against a second process
        yield
        return
    is_new = not work.exists()
    with os_errors_as(OutputError, "Cannot open workspace", work):
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = (work / LOCK).open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                "Workspace is in use", found="another `pneumonia annotate`", where=str(work),
                fix="Stop it, or choose another --work",
            ) from None  # fmt: skip
        try:
            yield
        finally:
            if is_new and [path.name for path in work.iterdir()] == [LOCK]:
                (work / LOCK).unlink()
                work.rmdir()


def open_database(work: Path) -> WorkspaceDatabase:
    """Open the workspace's file, or make it; readable by its owner only.

    Raises:
        OutputError: The folder cannot be made or written.
        DataError: The file is damaged, or of another program or version.
    """
    path = work / FILE
    try:
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise OutputError("Cannot open workspace", found=reason, where=str(work)) from None
    connection.row_factory = sqlite3.Row
    try:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _check_schema(connection, path)
    except sqlite3.OperationalError as error:
        connection.close()
        raise OutputError("Cannot open workspace", found=str(error), where=str(path)) from None
    except sqlite3.DatabaseError as error:
        connection.close()
        raise DataError(
            "Workspace file is damaged", found=str(error), where=str(path),
            fix="Put back a copy; `sqlite3 FILE .recover` may save what is left",
        ) from None  # fmt: skip
    except DataError:
        connection.close()
        raise
    return WorkspaceDatabase(connection, path)


def _fix(error: sqlite3.OperationalError) -> str:
    """Advice for an SQLite error, shown on the reader's page."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return "Another program has the workspace's database open; close it"
    if "full" in text:
        return "The disk is full; free some space"
    if "readonly" in text:
        return "The workspace is read-only; make it writable"
    return "See the application's log"


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        schema = f"INSERT INTO meta VALUES ('schema', '{SCHEMA}');"
        connection.executescript("BEGIN IMMEDIATE;" + _TABLES + _ADDED + schema + "COMMIT;")
        return
    row = None
    if "meta" in tables:
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if row is None or row["value"] != SCHEMA:
        raise DataError(
            "Workspace has another schema", expected=repr(SCHEMA),
            found=repr(row["value"] if row else None), where=str(path),
        )  # fmt: skip
    connection.executescript(_ADDED)
    state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise sqlite3.DatabaseError("quick_check failed")


def now() -> str:
    """UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_secret() -> str:
    """A token of 192 random bits, safe in a URL's fragment."""
    return secrets.token_urlsafe(24)
