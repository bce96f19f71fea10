"""`--send`: send the DICOM results of a batch to a PACS; records the status of each object."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pneumonia.runtime.errors import DataError
from pneumonia.runtime.progress import Progress
from pneumonia.scoring.batch.append_log import AppendLog
from pneumonia.scoring.batch.audit import AuditLog
from pneumonia.scoring.batch.folder import locked_folder
from pneumonia.scoring.network.dicom_peer import OWN_TITLE, Peer, association
from pneumonia.scoring.outputs.dicom import FOLDER

SENT_LOG = "sent.jsonl"
CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("88.33", "11.1", "7")
)  # Comprehensive SR, Grayscale Softcopy Presentation State, Secondary Capture
STATUSES = ("sent", "sent_with_warning", "refused", "not_sent")
ARRIVED = ("sent", "sent_with_warning")
CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.2
PAUSES_SECONDS = (1.0, 4.0)  # before the second and the third attempt at one object


@dataclass(frozen=True)
class SendSummary:
    """Result of sending the DICOM results of a folder.

    Attributes:
        destination: TITLE@HOST:PORT.
        counts: Number of objects by STATUSES, in this run.
        earlier: Number of objects that had arrived before.
    """

    destination: str
    counts: dict[str, int]
    earlier: int

    @property
    def missing(self) -> int:
        """Objects that are not in the PACS."""
        return self.counts["refused"] + self.counts["not_sent"]


def send_results(
    out: Path,
    peer: Peer,
    own_title: str = OWN_TITLE,
    progress: Progress | None = None,
    pauses_seconds: Sequence[float] = PAUSES_SECONDS,
) -> SendSummary:
    """Send `dicom/` of an output folder; objects that arrived there before are not sent again.

    Each outcome is recorded as a line of sent.jsonl. Only status 0x0000, and 0xBxxx as
    `sent_with_warning`, count as arrived (PS3.4 B.2.3).

    Args:
        out: Output folder of a batch.
        peer: The PACS.
        own_title: Our AE title.
        progress: Called with (objects done, objects, a short note).
        pauses_seconds: Waits before further attempts at an object whose association broke.

    Raises:
        OutputError: The folder is in use or cannot be written.
    """
    with locked_folder(out):
        audit = AuditLog(out)
        log = AppendLog(out / SENT_LOG, "Log of sent results")
        files = sorted((out / FOLDER).glob("*.dcm"))
        before = _arrived(log.lines, str(peer))
        digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        waiting = [path for path in files if (path.name, digests[path]) not in before]
        counts: Counter[str] = Counter()
        try:
            for number, (path, status, code) in enumerate(
                _sent(waiting, _Sender(peer, own_title, pauses_seconds)), start=1
            ):
                log.append(
                    {
                        "time": datetime.now(UTC).isoformat(timespec="seconds"),
                        "destination": str(peer),
                        "file": path.name,
                        "sha256": digests[path],
                        "status": status,
                        "code": None if code is None else f"0x{code:04X}",
                    }
                )
                counts[status] += 1
                if progress is not None:
                    progress(number, len(waiting), status)
        finally:
            told = {status: counts[status] for status in STATUSES}
            audit.append("results_sent", destination=str(peer), totals=told)
    return SendSummary(str(peer), told, len(files) - len(waiting))


def _arrived(lines: list[bytes], destination: str) -> set[tuple[str, str]]:
    """(file, SHA-256) of the objects a destination has; unreadable lines are ignored."""
    found = set()
    for line in lines:
        try:
            record = json.loads(line)
            if record["destination"] == destination and record["status"] in ARRIVED:
                found.add((str(record["file"]), str(record["sha256"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


class _Sender:
    """Keeps one association open and opens another when it breaks."""

    def __init__(self, peer: Peer, own_title: str, pauses_seconds: Sequence[float]) -> None:
        self._peer = peer
        self._own_title = own_title
        self._pauses = tuple(pauses_seconds)
        self._stack = ExitStack()
        self._open: Any = None

    def close(self) -> None:
        """Release the association."""
        self._open = None
        self._stack.close()

    def store(self, path: Path) -> tuple[str, int | None]:
        """Send one object, with retries; its status and DIMSE status code.

        Raises:
            DataError: No association could be established.
        """
        for pause in (*self._pauses, None):
            code = self._attempt(path)
            if code is not None:
                return _meaning(code), code
            self.close()
            if pause is not None:
                time.sleep(pause)
        return "not_sent", None

    def _attempt(self, path: Path) -> int | None:
        try:
            if self._open is None or not self._open.is_established:
                self._stack.close()
                self._open = self._stack.enter_context(self._associate())
            status = self._open.send_c_store(path)
        except ValueError:  # the peer takes no objects of this class
            return CLASS_NOT_SUPPORTED
        except (DataError, RuntimeError, OSError):  # no answer, or the association broke
            return None
        code = status.get("Status")
        return None if code is None else int(code)

    def _associate(self) -> Any:
        from pynetdicom import build_context

        contexts = [build_context(kind) for kind in CLASSES]
        return association(self._peer, self._own_title, contexts)


def _meaning(code: int) -> str:
    if code == 0:
        return "sent"
    return "sent_with_warning" if code & 0xF000 == 0xB000 else "refused"


def _sent(files: Sequence[Path], sender: _Sender) -> Iterator[tuple[Path, str, int | None]]:
    """Each file with its outcome; the rest is not tried once the peer cannot be reached again."""
    is_gone = False
    try:
        for path in files:
            status, code = ("not_sent", None) if is_gone else sender.store(path)
            is_gone = is_gone or status == "not_sent"
            yield path, status, code
    finally:
        sender.close()
