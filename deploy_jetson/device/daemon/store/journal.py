"""The journal of acknowledged images and their states: SQLite that survives a power cut.

WAL with synchronous=FULL: NORMAL may lose the last commits when the power goes. One connection
behind one lock; every change is one transaction.
"""

import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pneumonia.runtime.errors import OutputError

RECEIVED, RUNNING, DONE = "received", "running", "done"
REJECTED, SKIPPED, FAILED, QUARANTINED = "rejected", "skipped", "failed", "quarantined"
ANSWERED = (DONE, REJECTED, SKIPPED, FAILED, QUARANTINED)
STATES = (RECEIVED, RUNNING) + ANSWERED
PENDING, SENT, SENT_WITH_WARNING, UNSENT = "pending", "sent", "sent_with_warning", "failed"
DELIVERY_STATES = (PENDING, SENT, SENT_WITH_WARNING, UNSENT)
VERSION = 1
LOCK_WAIT_S = 5.0  # for another program's transaction
MOST_FORGOTTEN = 500  # jobs in one transaction
MOST_DUE = 50  # deliveries sent over one association
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    sop_uid TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    model_hash TEXT NOT NULL,
    source TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    received_at REAL NOT NULL,
    changed_at REAL NOT NULL
);
CREATE INDEX jobs_state ON jobs (state, number);
CREATE INDEX jobs_uid ON jobs (sop_uid, sha256);
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL,
    destination TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0,
    code TEXT NOT NULL DEFAULT '',
    UNIQUE (job, destination, kind)
);
CREATE INDEX deliveries_due ON deliveries (state, destination, next_try);
"""


class DaemonJob(NamedTuple):
    """One image."""

    number: int  # order of arrival
    key: str  # name in spool, results and interface; not derived from the patient
    sop_uid: str  # SOP Instance UID, empty for pictures. Never logged
    sha256: str  # of the data set (of the file, for pictures)
    model_hash: str  # model it is for
    source: str  # `dicom`, `rest`, `watch` or `recovered`
    bytes: int  # size of the file
    state: str  # one of STATES
    reason: str  # machine-readable, empty when done
    attempts: int  # how often it was begun
    received_at: float  # seconds since 1970
    changed_at: float  # seconds since 1970 of the last change of state


class ResultDelivery(NamedTuple):
    """One object for one destination; `code` is the peer's last status or our failure code."""

    number: int
    job: str
    destination: str
    kind: str
    state: str
    attempts: int
    next_try: float
    code: str


TABLES = (("jobs", DaemonJob._fields), ("deliveries", ResultDelivery._fields))
SELECT_JOB = "SELECT {} FROM jobs".format(", ".join(DaemonJob._fields))
SELECT_DELIVERY = "SELECT {} FROM deliveries".format(", ".join(ResultDelivery._fields))


class JournalDamaged(Exception):  # noqa: N818 - a condition the service repairs, not a user's error
    """The file is not a journal, or its contents are inconsistent."""


class JournalError(OutputError):
    """The journal cannot be read or written at present.

    Attributes:
        reason: `journal_locked`, `disk_full` or `journal_not_usable`.
    """

    def __init__(self, what: str, error: sqlite3.Error, path: str) -> None:
        text = str(error)  # SQLite's own: it quotes no value
        self.reason, fix = "journal_not_usable", None
        if "locked" in text:
            self.reason = "journal_locked"
            fix = "Another program has it open for writing: close it"
        elif "full" in text:
            self.reason, fix = "disk_full", "Free space on its disk"
        super().__init__(what, found=text[:120], where=path, fix=fix)


class JobJournal:
    """Jobs and deliveries.

    Args:
        path: The database; created when missing.

    Raises:
        JournalDamaged: It is not a journal any more.
        OutputError: It cannot be opened, is locked, of another version, or the disk is full.
    """

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(
                self.path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise JournalError("Journal cannot be opened", error, self.path) from None
        try:
            os.chmod(self.path, 0o600)
            self._prepare()
        except sqlite3.OperationalError as error:
            self._database.close()
            raise JournalError("Journal cannot be opened", error, self.path) from None
        except sqlite3.DatabaseError:
            self._database.close()
            raise JournalDamaged(path) from None
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=200"):
            self._database.execute("PRAGMA " + pragma)
        if self._database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            script = "BEGIN IMMEDIATE;{}PRAGMA user_version={};COMMIT;".format(SCHEMA, VERSION)
            self._database.executescript(script)
        elif version != VERSION:
            raise OutputError(
                "Journal is of another version", str(VERSION), str(version), self.path,
                "Use the release that wrote it, or move the state folder away",
            )  # fmt: skip
        for table, fields in TABLES:
            rows = self._database.execute("PRAGMA table_info({})".format(table)).fetchall()
            missing = [name for name in fields if name not in [row[1] for row in rows]]
            if missing:
                raise OutputError(
                    "Journal lacks columns", ", ".join(fields),
                    "{} without {}".format(table, ", ".join(missing)), self.path,
                    "Another program changed it: restore it, or move it away to have it rebuilt",
                )  # fmt: skip

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable when the block ends.

        Raises:
            JournalError: It is locked or cannot be written; nothing was changed.
        """
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                raise JournalError("Journal cannot be written", error, self.path) from None
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def _rows(self, query: str, values: Sequence[Any] = ()) -> List[Any]:
        with self._lock:
            try:
                return self._database.execute(query, tuple(values)).fetchall()
            except sqlite3.Error as error:
                raise JournalError("Journal cannot be read", error, self.path) from None

    # --- jobs ---

    def add(self, job: DaemonJob) -> DaemonJob:
        """Insert a new job, durable on return; the database assigns its number.

        Returns:
            The job as it stands: an earlier one of the same key, if there is one.
        """
        with self.transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO jobs (key, sop_uid, sha256, model_hash, source, bytes,"
                " state, reason, attempts, received_at, changed_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                tuple(job)[1:],
            )
            row = database.execute(SELECT_JOB + " WHERE key=?", (job.key,)).fetchone()
        return DaemonJob(*row)

    def job(self, key: str) -> Optional[DaemonJob]:
        """A job by its key."""
        rows = self._rows(SELECT_JOB + " WHERE key=?", (key,))
        return DaemonJob(*rows[0]) if rows else None

    def jobs(self, states: Sequence[str] = STATES, limit: int = 1000) -> List[DaemonJob]:
        """Jobs in some states, oldest first for those that wait, newest first otherwise."""
        order = "ASC" if set(states) <= {RECEIVED, RUNNING} else "DESC"
        query = SELECT_JOB + " WHERE state IN ({}) ORDER BY number {} LIMIT ?".format(
            ",".join("?" * len(states)), order
        )
        return [DaemonJob(*row) for row in self._rows(query, list(states) + [limit])]

    def job_of_image(self, sop_uid: str, sha256: str, model_hash: str) -> Optional[DaemonJob]:
        """The job of an image for a model."""
        query = SELECT_JOB + " WHERE sop_uid=? AND sha256=? AND model_hash=? LIMIT 1"
        rows = self._rows(query, (sop_uid, sha256, model_hash))
        return DaemonJob(*rows[0]) if rows else None

    def contradicting_keys(self, job: DaemonJob) -> List[str]:
        """Keys of the jobs that were read and hold other contents under the SOP Instance UID.

        What could not be read may have been a broken transfer of this very image, and what still
        waits may turn out to be one: neither counts.
        """
        if not job.sop_uid:
            return []
        query = (
            "SELECT key FROM jobs WHERE sop_uid=? AND sha256<>? AND model_hash=?"
            " AND state IN (?,?) ORDER BY number"
        )
        values = (job.sop_uid, job.sha256, job.model_hash, DONE, SKIPPED)
        return [row[0] for row in self._rows(query, values)]

    def wait_for_model(self, model_hash: str) -> None:
        """Assign all received and running jobs to this model, whichever was served before."""
        with self.transaction() as database:
            database.execute(
                "UPDATE jobs SET model_hash=? WHERE state IN (?,?) AND model_hash<>?",
                (model_hash, RECEIVED, RUNNING, model_hash),
            )

    def take(self) -> Optional[DaemonJob]:
        """Set the oldest waiting job to `running`, add one attempt, and return it."""
        with self.transaction() as database:
            row = database.execute(
                SELECT_JOB + " WHERE state=? ORDER BY number LIMIT 1", (RECEIVED,)
            ).fetchone()
            if row is None:
                return None
            job = DaemonJob(*row)
            job = job._replace(state=RUNNING, attempts=job.attempts + 1, changed_at=time.time())
            database.execute(
                "UPDATE jobs SET state=?, attempts=?, changed_at=? WHERE key=?",
                (job.state, job.attempts, job.changed_at, job.key),
            )
        return job

    def give_back(self, key: str, attempts: int) -> None:
        """Set a job back to waiting with this number of attempts."""
        with self.transaction() as database:
            database.execute(
                "UPDATE jobs SET state=?, reason='', attempts=?, changed_at=? WHERE key=?",
                (RECEIVED, attempts, time.time(), key),
            )

    def mark_answered(
        self, key: str, state: str, reason: str, deliveries: Sequence[Tuple[str, str]] = ()
    ) -> None:
        """Record that a job is answered; `deliveries` are (destination, kind) still to be sent."""
        with self.transaction() as database:
            database.execute(
                "UPDATE jobs SET state=?, reason=?, changed_at=? WHERE key=?",
                (state, reason, time.time(), key),
            )
            database.executemany(
                "INSERT OR IGNORE INTO deliveries (job, destination, kind, state) VALUES (?,?,?,?)",
                [(key, destination, kind, PENDING) for destination, kind in deliveries],
            )

    def waiting(self) -> Tuple[int, int, float]:
        """Images that wait or run, their bytes, and seconds since the oldest came."""
        query = "SELECT count(*), coalesce(sum(bytes), 0), min(received_at) FROM jobs"
        row = self._rows(query + " WHERE state IN (?,?)", (RECEIVED, RUNNING))[0]
        oldest = max(0.0, time.time() - row[2]) if row[2] is not None else 0.0
        return int(row[0]), int(row[1]), oldest

    def counts(self) -> Dict[str, int]:
        """Jobs per state."""
        rows = self._rows("SELECT state, count(*) FROM jobs GROUP BY state")
        return dict(dict.fromkeys(STATES, 0), **dict(rows))

    def forget(self, before: float) -> List[str]:
        """Remove answered jobs older than `before` (seconds since 1970) with nothing left to send.

        Returns:
            Their keys; what lies on disk under them can go.
        """
        query = (
            "SELECT key FROM jobs WHERE state IN ({}) AND changed_at<? AND NOT EXISTS (SELECT 1"
            " FROM deliveries WHERE job=key AND deliveries.state=?) ORDER BY number LIMIT ?"
        ).format(",".join("?" * len(ANSWERED)))
        with self.transaction() as database:
            found = database.execute(query, ANSWERED + (before, PENDING, MOST_FORGOTTEN)).fetchall()
            keys = [row[0] for row in found]
            for table, column in (("deliveries", "job"), ("jobs", "key")):
                database.executemany(
                    "DELETE FROM {} WHERE {}=?".format(table, column), [(key,) for key in keys]
                )
        return keys

    def redate(self, unset_before: float, now: float) -> None:
        """Set times from before the clock was set to `now`: the age of these rows is unknown.

        Args:
            unset_before: Seconds since 1970; a clock that says less was never set.
            now: Seconds since 1970.
        """
        with self.transaction() as database:
            for column in ("received_at", "changed_at"):
                database.execute(
                    "UPDATE jobs SET {0}=? WHERE {0}<?".format(column), (now, unset_before)
                )

    # --- deliveries ---

    def due(self, destination: str, now: float, longest_s: float) -> List[ResultDelivery]:
        """Deliveries whose time has come, or lies beyond the longest wait: the clock was set back.

        Args:
            now: Seconds since 1970.
            longest_s: No delivery was put off for longer than this.
        """
        query = (
            SELECT_DELIVERY + " WHERE state=? AND destination=?"
            " AND (next_try<=? OR next_try>?) ORDER BY number LIMIT ?"
        )
        values = (PENDING, destination, now, now + longest_s, MOST_DUE)
        return [ResultDelivery(*row) for row in self._rows(query, values)]

    def deliveries_of(self, key: str) -> List[ResultDelivery]:
        """All deliveries of a job."""
        query = SELECT_DELIVERY + " WHERE job=? ORDER BY number"
        return [ResultDelivery(*row) for row in self._rows(query, (key,))]

    def update_delivery(self, delivery: ResultDelivery) -> None:
        """Update a delivery: its state, attempts, next_try and code."""
        with self.transaction() as database:
            database.execute(
                "UPDATE deliveries SET state=?, attempts=?, next_try=?, code=? WHERE number=?",
                (delivery.state, delivery.attempts, delivery.next_try, delivery.code,
                 delivery.number),
            )  # fmt: skip

    def delivery_counts(self) -> Dict[str, int]:
        """Deliveries per state."""
        rows = self._rows("SELECT state, count(*) FROM deliveries GROUP BY state")
        return dict(dict.fromkeys(DELIVERY_STATES, 0), **dict(rows))
