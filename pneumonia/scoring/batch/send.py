"""`--send`: send the DICOM results of a batch to a PACS; records the status of each object."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info

from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.scoring.batch.append_log import AppendLog
from pneumonia.scoring.batch.audit import AuditLog
from pneumonia.scoring.batch.folder import locked_folder
from pneumonia.scoring.network.c_store import StoreSender
from pneumonia.scoring.network.commitment import (
    CommitmentSettings,
    StoredObject,
    request_commitment,
)
from pneumonia.scoring.network.delivery import (
    COMMITTED,
    NOT_COMMITTED,
    NOT_SENT,
    REFUSED,
    SENT,
    STATUSES,
    WITH_WARNING,
    Delivery,
    ObjectSender,
)
from pneumonia.scoring.network.dicom_peer import OWN_TITLE, Peer
from pneumonia.scoring.network.dicomweb_service import DicomwebService
from pneumonia.scoring.network.stow import StowSender
from pneumonia.scoring.outputs.dicom import FOLDER

SENT_LOG = "sent.jsonl"
ARRIVED = (SENT, WITH_WARNING)
PAUSES_SECONDS = (1.0, 4.0)  # before the second and the third attempt at one object
MAX_COMMITMENT = 500  # objects of one request


@dataclass(frozen=True)
class Destination:
    """Where results are sent."""

    server: Peer | DicomwebService  # a PACS (C-STORE) or a DICOMweb service (STOW-RS)
    own_title: str = OWN_TITLE  # our AE title, for a PACS
    # how to ask a PACS for storage commitment; None for not at all
    commitment: CommitmentSettings | None = None


@dataclass(frozen=True)
class SendSummary:
    """Result of sending the DICOM results of a folder."""

    destination: str  # TITLE@HOST:PORT, or the address of a DICOMweb service
    counts: dict[str, int]  # number of objects by STATUSES, in this run
    earlier: int  # number of objects that had arrived before

    @property
    def missing(self) -> int:
        """Objects that are not in the PACS, or that it does not promise to keep."""
        return self.counts[REFUSED] + self.counts[NOT_SENT] + self.counts[NOT_COMMITTED]


@dataclass
class _Sent:
    """(file, SHA-256) of the objects that have arrived at a destination, and of those it keeps."""

    delivered: set[tuple[str, str]]
    committed: set[tuple[str, str]]


def send_results(
    out: Path,
    to: Destination,
    progress: Progress | None = None,
    pauses_seconds: Sequence[float] = PAUSES_SECONDS,
) -> SendSummary:
    """Send `dicom/` of an output folder; objects that arrived there before are not sent again.

    Each outcome is recorded as a line of sent.jsonl. Only status 0x0000, and 0xBxxx as
    `sent_with_warning`, count as arrived (PS3.4 B.2.3). With storage commitment, an object that
    the PACS says it does not have is sent again next time.

    Args:
        out: Output folder of a batch.
        pauses_seconds: Waits before further attempts at an object.

    Raises:
        ConfigError: The port for storage commitment cannot be opened.
        OutputError: The folder is in use or cannot be written.
    """
    with locked_folder(out):
        audit = AuditLog(out)
        log = _SentLog(out, str(to.server))
        before = log.before()
        files = sorted((out / FOLDER).glob("*.dcm"))
        marks = {path: _mark(path) for path in files}
        waiting = [path for path in files if marks[path] not in before.delivered]
        counts: Counter[str] = Counter()
        try:
            for number, (path, delivery) in enumerate(
                _sent(waiting, _sender(to), pauses_seconds), start=1
            ):
                log.append(marks[path], delivery)
                counts[delivery.status] += 1
                if delivery.status in ARRIVED:
                    before.delivered.add(marks[path])
                report_progress(progress, number, len(waiting), delivery.status)
            here = [path for path in files if marks[path] in before.delivered - before.committed]
            for path, delivery in _committed(here, to):
                log.append(marks[path], delivery)
                counts[delivery.status] += 1
        finally:
            totals = {status: counts[status] for status in STATUSES}
            audit.append("results_sent", destination=str(to.server), totals=totals)
    return SendSummary(str(to.server), totals, len(files) - len(waiting))


class _SentLog:
    """sent.jsonl: one line for each outcome."""

    def __init__(self, out: Path, destination: str) -> None:
        self._log = AppendLog(out / SENT_LOG, "Log of sent results")
        self._destination = destination

    def append(self, mark: tuple[str, str], delivery: Delivery) -> None:
        """Record an outcome.

        Raises:
            OutputError: The disk is full or broken.
        """
        code = delivery.code
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "destination": self._destination,
            "file": mark[0],
            "sha256": mark[1],
            "status": delivery.status,
            "code": None if code is None else f"0x{code:04X}",
        }
        if delivery.detail:
            line["detail"] = delivery.detail
        self._log.append(line)

    def before(self) -> _Sent:
        """What earlier runs achieved; unreadable lines are ignored."""
        found = _Sent(set(), set())
        for line in self._log.lines:
            try:
                record = json.loads(line)
                if record["destination"] != self._destination:
                    continue
                mark = (str(record["file"]), str(record["sha256"]))
                status, code = record["status"], record["code"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if status in ARRIVED:
                found.delivered.add(mark)
            elif status == COMMITTED:
                found.committed.add(mark)
            elif status == NOT_COMMITTED and code is not None:  # the PACS does not have it
                found.delivered.discard(mark)
                found.committed.discard(mark)
        return found


def _mark(path: Path) -> tuple[str, str]:
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def _sender(to: Destination) -> ObjectSender:
    if isinstance(to.server, DicomwebService):
        return StowSender(to.server)
    return StoreSender(to.server, to.own_title)


def _sent(
    files: Sequence[Path], sender: ObjectSender, pauses_seconds: Sequence[float]
) -> Iterator[tuple[Path, Delivery]]:
    """Each file with its outcome; the rest is not tried once the peer cannot be reached again."""
    lost: Delivery | None = None
    try:
        for path in files:
            delivery = lost or _send_with_retries(path, sender, pauses_seconds)
            lost = delivery if delivery.status == NOT_SENT else None
            yield path, delivery
    finally:
        sender.close()


def _send_with_retries(
    path: Path, sender: ObjectSender, pauses_seconds: Sequence[float]
) -> Delivery:
    """Send one object, with retries."""
    delivery = sender.attempt(path)
    for pause in pauses_seconds:
        if delivery.status != NOT_SENT:
            break
        sender.close()
        time.sleep(pause)
        delivery = sender.attempt(path)
    return delivery


def _committed(files: Sequence[Path], to: Destination) -> Iterator[tuple[Path, Delivery]]:
    """Ask for storage commitment of objects that have arrived."""
    if to.commitment is None or not isinstance(to.server, Peer):
        return
    for start in range(0, len(files), MAX_COMMITMENT):
        some = {path: _stored(path) for path in files[start : start + MAX_COMMITMENT]}
        found = request_commitment(list(some.values()), to.server, to.own_title, to.commitment)
        for path, item in some.items():
            yield path, found[item.instance]


def _stored(path: Path) -> StoredObject:
    meta = read_file_meta_info(path)
    return StoredObject(str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID))
