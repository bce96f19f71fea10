"""Annotators and the manager, their tokens and sessions; only hashes are stored."""

import hashlib
import time
from collections import deque
from threading import Lock

from data_prep.annotation.workspace.database import WorkspaceDatabase, new_secret, now
from data_prep.annotation.workspace.records import ANNOTATOR, MANAGER, Annotator, checked_name
from pneumonia.runtime.errors import DataError

SESSION_S = 12 * 3600.0
_MAX_FAILURES, _WINDOW_S = 10, 60.0


def _hash(secret: str) -> str:
    # 192 random bits need no slow hash: a brute-force search is infeasible
    return hashlib.sha256(secret.encode()).hexdigest()


class AnnotatorRegistry:
    """Annotators, tokens and sessions of a workspace."""

    def __init__(self, database: WorkspaceDatabase) -> None:
        self._database = database
        self._failures: dict[str, deque[float]] = {}  # address -> times of wrong tokens
        self._lock = Lock()

    def annotators(self) -> list[Annotator]:
        """The annotators without the manager, by name."""
        rows = self._database.rows(
            "SELECT name, role FROM annotators WHERE role = ? ORDER BY name", ANNOTATOR
        )
        return [Annotator(row["name"], row["role"]) for row in rows]

    def can_log_in(self, name: str) -> bool:
        """Whether an annotator has a valid token."""
        row = self._database.row("SELECT token_hash FROM annotators WHERE name = ?", name)
        return row is not None and row["token_hash"] is not None

    def add(self, name: str) -> str:
        """Add an annotator and return the token, of which only a hash is stored.

        Raises:
            DataError: The name is taken (ignoring case) or not allowed.
        """
        name = checked_name(name)
        token = new_secret()
        with self._database.change() as change:
            taken = change.execute("SELECT name FROM annotators").fetchall()
            if name.casefold() in {row["name"].casefold() for row in taken}:
                raise DataError("An annotator of that name exists already")
            change.execute(
                "INSERT INTO annotators VALUES (?, ?, ?, ?)", (name, ANNOTATOR, _hash(token), now())
            )
        return token

    def renew(self, name: str) -> str:
        """Give an annotator a new token; the old token and all sessions of the annotator end.

        Raises:
            DataError: No such annotator.
        """
        token = new_secret()
        self._set_token(name, _hash(token))
        return token

    def revoke(self, name: str) -> None:
        """Remove an annotator's token and sessions; the readings stay.

        Raises:
            DataError: No such annotator.
        """
        self._set_token(name, None)

    def _set_token(self, name: str, token_hash: str | None) -> None:
        with self._database.change() as change:
            done = change.execute(
                "UPDATE annotators SET token_hash = ? WHERE name = ? AND role = ?",
                (token_hash, name, ANNOTATOR),
            )
            if done.rowcount != 1:
                raise DataError("There is no such annotator")
            change.execute("DELETE FROM sessions WHERE name = ?", (name,))

    def manager_token(self) -> str:
        """A new token for the manager; the former token ends, open sessions stay."""
        token = new_secret()
        with self._database.change() as change:
            change.execute(
                "INSERT INTO annotators VALUES (?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET token_hash = excluded.token_hash",
                (MANAGER, MANAGER, _hash(token), now()),
            )
        return token

    def log_in(self, token: str, origin: str = "") -> str | None:
        """A new session's secret for a token; None when the token is wrong.

        Args:
            origin: Client address; too many wrong tokens delay only this address.
        """
        row = self._database.row("SELECT name FROM annotators WHERE token_hash = ?", _hash(token))
        if row is None:
            with self._lock:
                self._failures.setdefault(origin, deque()).append(time.monotonic())
            return None
        secret = new_secret()
        with self._database.change() as change:
            change.execute("DELETE FROM sessions WHERE expires_s < ?", (time.time(),))
            change.execute(
                "INSERT INTO sessions VALUES (?, ?, ?)",
                (_hash(secret), row["name"], time.time() + SESSION_S),
            )
        return secret

    def must_wait(self, origin: str = "") -> bool:
        """Whether an address sent too many wrong tokens within the last minute."""
        with self._lock:
            old = time.monotonic() - _WINDOW_S
            for address, times in list(self._failures.items()):
                while times and times[0] < old:
                    times.popleft()
                if not times:
                    del self._failures[address]
            return len(self._failures.get(origin, ())) >= _MAX_FAILURES

    def person_of(self, session: str) -> Annotator | None:
        """The person of a session; None when the session is unknown or has expired."""
        row = self._database.row(
            "SELECT a.name, a.role, s.expires_s FROM sessions s JOIN annotators a USING (name) "
            "WHERE s.hash = ?",
            _hash(session),
        )
        if row is None or row["expires_s"] < time.time():
            return None
        return Annotator(row["name"], row["role"])

    def log_out(self, session: str) -> None:
        """End a session."""
        with self._database.change() as change:
            change.execute("DELETE FROM sessions WHERE hash = ?", (_hash(session),))
