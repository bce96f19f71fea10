"""audit.jsonl: what was run when by whom, every line bound to the one before by its hash.

A changed, removed or inserted line breaks the chain; run.json holds its end, so that a missing end
is noticed as well. Somebody who can write the folder can make a whole new chain: keep the last
hash elsewhere where that matters.
"""

import getpass
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pneumonia import __version__
from pneumonia.runtime.errors import ArtefactError, OutputError

AUDIT = "audit.jsonl"
START = "0" * 64
TABLES = ("manifest.jsonl", "predictions.csv", "worklist.csv")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return "unknown"


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _whole_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Lines that end in a newline, and what a crash left of one."""
    *lines, torn = data.split(b"\n")
    return lines, torn


class AuditLog:
    """Appends to the audit log of an output folder. The folder must be locked.

    Args:
        out: The output folder.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / AUDIT
        self._cut_torn_line()

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise OutputError(
                "Audit log cannot be read", found=error.strerror, where=str(self._path)
            ) from None

    def _cut_torn_line(self) -> None:
        """A line without end was never finished: nothing after it has been promised."""
        data = self._read()
        lines, torn = _whole_lines(data)
        self._count = len(lines)
        self._head = _digest(lines[-1]) if lines else START
        self._torn_bytes = len(torn)
        if torn:
            try:
                os.truncate(self._path, len(data) - len(torn))
            except OSError as error:
                raise OutputError(
                    "Audit log cannot be written", found=error.strerror, where=str(self._path)
                ) from None

    @property
    def state(self) -> dict[str, Any]:
        """Number of lines and hash of the last, for run.json."""
        return {"lines": self._count, "last_sha256": self._head}

    def append(self, event: str, **facts: Any) -> None:
        """Append one line and sync it.

        Args:
            event: What happened.
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
        line = json.dumps(record, ensure_ascii=True, allow_nan=False).encode("ascii")
        try:
            with self._path.open("ab") as stream:
                stream.write(line + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(
                "Audit log cannot be written", found=error.strerror, where=str(self._path)
            ) from None
        self._count += 1
        self._head = _digest(line)


def table_digests(out: Path) -> dict[str, str]:
    """SHA-256 of the tables of a finished batch."""
    return {name: _digest((out / name).read_bytes()) for name in TABLES}


@dataclass(frozen=True)
class AuditResult:
    """What verification found.

    Attributes:
        lines: Number of lines, all of them bound together.
        last_sha256: Hash of the last; compare it with one kept elsewhere.
        runs: Number of runs that were started.
    """

    lines: int
    last_sha256: str
    runs: int


def _damaged(what: str, where: str) -> ArtefactError:
    return ArtefactError(what, where=where, fix="Do not rely on this folder; score into a new one")


def verify_audit(out: Path) -> AuditResult:
    """Check the chain, its end against run.json, and the tables against the last finished run.

    Raises:
        ArtefactError: A line was changed, removed or added, or a table is not the one written.
    """
    path = out / AUDIT
    try:
        lines, torn = _whole_lines(path.read_bytes())
    except OSError as error:
        raise ArtefactError(
            "Audit log cannot be read", found=error.strerror, where=str(path)
        ) from None
    records = _checked_chain(lines, path)
    digests = [_digest(line) for line in lines]
    _check_end(out, digests)
    if torn:
        raise _damaged("Last line of the audit log is not whole", f"{path}, line {len(lines) + 1}")
    _check_tables(out, records)
    runs = sum(record.get("event") == "run_started" for record in records)
    return AuditResult(len(lines), digests[-1] if digests else START, runs)


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


def _check_end(out: Path, digests: list[str]) -> None:
    try:
        told = json.loads((out / "run.json").read_text(encoding="utf-8"))["audit"]
        lines, last = int(told["lines"]), str(told["last_sha256"])
    except FileNotFoundError:
        return  # no batch has ended in this folder yet
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(
            "run.json does not tell the end of the audit log", str(out / "run.json")
        ) from None
    # a run that was killed, or sending afterwards, adds lines after the ones run.json knows
    if lines > len(digests) or lines < 1 or digests[lines - 1] != last:
        raise _damaged("End of the audit log is not the one run.json tells", str(out / AUDIT))


def _check_tables(out: Path, records: list[dict[str, Any]]) -> None:
    ends = [record for record in records if record.get("event") == "run_finished"]
    unfinished = records and records[-1].get("event") == "run_started"
    if not ends or unfinished:
        return  # a run is at work or was killed: the tables may be of either
    told = ends[-1].get("tables", {})
    for name, digest in told.items():
        try:
            found = _digest((out / name).read_bytes()) if name in TABLES else ""
        except OSError:
            found = ""
        if found != digest:
            raise _damaged("Table is not the one the last run wrote", str(out / name))
