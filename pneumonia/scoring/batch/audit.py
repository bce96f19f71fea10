"""audit.jsonl: which runs were made, when and by which user, as a hash chain of lines.

A changed, removed or inserted line breaks the chain. run.json holds the number of lines and the
last hash, so that a truncated log is noticed as well. The line of the last finished run holds the
digests of its outputs. A user with write access to the folder can make a whole new chain: keep
the last hash outside the folder where that matters.
"""

import getpass
import hashlib
import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pneumonia import __version__
from pneumonia.runtime.errors import ArtefactError, os_errors_as
from pneumonia.scoring.batch.append_log import AppendLog, whole_lines

AUDIT = "audit.jsonl"
START = "0" * 64
TABLES = ("manifest.jsonl", "predictions.csv", "worklist.csv")
STUDIES = "studies"
STARTED, FINISHED, FAILED = "run_started", "run_finished", "run_failed"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return "unknown"


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


class AuditLog:
    """Appends to the audit log of an output folder. The folder must be locked.

    Raises:
        OutputError: The log cannot be read or repaired.
    """

    def __init__(self, out: Path) -> None:
        self._log = AppendLog(out / AUDIT, "Audit log")
        self._count = len(self._log.lines)
        self._head = _digest(self._log.lines[-1]) if self._log.lines else START
        self._torn_bytes = self._log.torn_bytes

    @property
    def state(self) -> dict[str, Any]:
        """Number of lines and hash of the last line, for run.json."""
        return {"lines": self._count, "last_sha256": self._head}

    def append(self, event: str, **facts: Any) -> None:
        """Append one line and sync it.

        Args:
            facts: JSON values without identifiers of patients.

        Raises:
            OutputError: The line cannot be written.
        """
        if self._torn_bytes:
            facts["torn_bytes_cut"], self._torn_bytes = self._torn_bytes, 0
        record = {
            "previous_sha256": self._head,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "event": event,
            "user": _user(),
            "host": platform.node(),
            "version": __version__,
            **facts,
        }
        self._head = _digest(self._log.append(record))
        self._count += 1


def output_digests(out: Path) -> dict[str, str]:
    """SHA-256 of the tables of a finished batch, and one over all of its study documents."""
    digests = {name: _digest((out / name).read_bytes()) for name in TABLES}
    digests[STUDIES] = _studies_digest(out / STUDIES)
    return digests


def _studies_digest(folder: Path) -> str:
    """One SHA-256 over names and contents, sorted by name."""
    lines = [f"{path.name} {_digest(path.read_bytes())}" for path in sorted(folder.glob("*.json"))]
    return _digest("\n".join(lines).encode("utf-8"))


@dataclass(frozen=True)
class AuditResult:
    """What verification found."""

    lines: int  # number of lines in the verified chain
    last_sha256: str  # hash of the last line; compare it with one kept elsewhere
    runs: int  # number of runs that were started


def _damaged(what: str, where: str) -> ArtefactError:
    return ArtefactError(what, where=where, fix="Do not rely on this folder; score into a new one")


def verify_audit(out: Path) -> AuditResult:
    """Check the chain, its end against run.json, and the outputs against the last run.

    Raises:
        ArtefactError: A line was changed, removed or added, an output is not the one written, or
            the last run did not finish, so that its outputs cannot be checked.
    """
    path = out / AUDIT
    with os_errors_as(ArtefactError, "Audit log cannot be read", path):
        lines, torn = whole_lines(path.read_bytes())
    records = _checked_chain(lines, path)
    if torn:
        raise _damaged("Last line of the audit log is not whole", f"{path}, line {len(lines) + 1}")
    digests = [_digest(line) for line in lines]
    last = _last_run(records, path)
    _check_end(out, digests)
    _check_outputs(out, last)
    runs = sum(record.get("event") == STARTED for record in records)
    return AuditResult(len(lines), digests[-1], runs)


def _checked_chain(lines: list[bytes], path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    previous = START
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            matches = record["previous_sha256"] == previous
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _damaged("Line of the audit log is malformed", f"{path}, line {number}") from None
        if not matches:
            raise _damaged(
                "Audit log is broken: this line does not follow the one before it",
                f"{path}, line {number}",
            )
        records.append(record)
        previous = _digest(line)
    return records


def _last_run(records: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """The line of the last finished run; refuses a log with a later, unfinished run."""
    ends = [record for record in records if record["event"] in (STARTED, FINISHED, FAILED)]
    if not ends:
        raise _damaged("Audit log records no run", str(path))
    if ends[-1]["event"] != FINISHED:
        raise ArtefactError(
            "Last run did not finish: its outputs cannot be checked",
            where=str(path),
            fix="Run the batch again into the same folder, then verify",
        )
    return ends[-1]


def _check_end(out: Path, digests: list[str]) -> None:
    where = out / "run.json"
    try:
        recorded = json.loads(where.read_text(encoding="utf-8"))["audit"]
        lines, last = int(recorded["lines"]), str(recorded["last_sha256"])
    except FileNotFoundError:
        raise _damaged("run.json of the last run is missing", str(where)) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(
            "run.json lacks the number of lines and last hash of the audit log", str(where)
        ) from None
    # sending adds lines after the ones run.json knows
    if lines > len(digests) or lines < 1 or digests[lines - 1] != last:
        raise _damaged("End of the audit log differs from the one in run.json", str(out / AUDIT))


def _check_outputs(out: Path, last: dict[str, Any]) -> None:
    recorded = last.get("outputs_sha256")
    for name in (*TABLES, STUDIES):
        try:
            path = out / name
            found = _studies_digest(path) if name == STUDIES else _digest(path.read_bytes())
        except OSError:
            found = ""
        if not isinstance(recorded, dict) or found != recorded.get(name):
            raise _damaged("Output is not the one the last run wrote", str(out / name))
