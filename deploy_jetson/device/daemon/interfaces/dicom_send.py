"""Sends results by C-STORE with back-off; every status is recorded in the journal.

If the process is killed between a peer's Success and the record of it, the object is sent again
with the same UIDs, which an archive stores as the same object.
"""

import contextlib
import logging
import random
import ssl
import threading
import time
from typing import Any, Callable, List, Optional

import pydicom
import pynetdicom
from pynetdicom import AE, evt

from deploy_jetson.device.daemon import logs
from deploy_jetson.device.daemon.health.metrics import DaemonMetrics
from deploy_jetson.device.daemon.settings import ResultDestination, RetrySettings
from deploy_jetson.device.daemon.store.journal import (
    PENDING,
    SENT,
    SENT_WITH_WARNING,
    UNSENT,
    JobJournal,
    ResultDelivery,
)
from deploy_jetson.device.daemon.store.spool import ImageSpool
from pneumonia.runtime.commitment import (
    COMMITTED,
    LOST,
    NO_REPORT,
    NOT_OFFERED,
    PUSH_MODEL,
    CommitmentOutcome,
    CommitmentReports,
    ask_for_commitment,
)
from pneumonia.runtime.connections import client_context
from pneumonia.runtime.errors import OutputError
from pneumonia.runtime.results import SOP_CLASSES, SYNTAXES

POLL_S = 1.0
SUCCESS = 0x0000
NOT_REACHED = ("rejected", "no_association")


def backoff_s(attempts: int, settings: RetrySettings, share: float) -> float:
    """Seconds before the next try: doubling, bounded, with jitter.

    Args:
        attempts: Failed so far, 1 or more.
        share: Random number in 0..1 (jitter).
    """
    whole = min(settings.longest_s, settings.first_s * 2.0 ** min(attempts - 1, 30))
    return whole * (0.5 + 0.5 * share)


def _is_success(code: str) -> bool:
    """Whether a status of C-STORE says that the peer took the object (PS3.4 B.2.3)."""
    return code == "{:04X}".format(SUCCESS) or (len(code) == 4 and code.startswith("B"))


def _refusal_reason(outcome: CommitmentOutcome) -> str:
    """Why a peer does not promise to keep an object, as the journal has it; empty when it does."""
    if outcome.number is not None:
        return "{:04X}".format(outcome.number)
    return outcome.code if outcome.code in (COMMITTED, NOT_OFFERED, LOST) else NO_REPORT


def _pynetdicom_context(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """A client's context that the installed pynetdicom can use.

    Version 1.5, the last for Python 3.6, blocks on the session tickets of TLS 1.3: it gets TLS 1.2.
    """
    if version.startswith("1."):
        context.options |= getattr(ssl, "OP_NO_TLSv1_3", 0)
    return context


class ResultSender:
    """Sends the due objects of one destination in its own thread.

    Args:
        name: The destination's name in the configuration.
    """

    def __init__(
        self,
        name: str,
        peer: ResultDestination,
        retry: RetrySettings,
        spool: ImageSpool,
        journal: JobJournal,
        metrics: DaemonMetrics,
        reports: Optional[CommitmentReports] = None,
    ) -> None:
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs identifiers
        self._name = name
        self._peer = peer
        self._retry = retry
        self._spool = spool
        self._journal = journal
        self._metrics = metrics
        self._reports = reports or CommitmentReports()
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._tls = None
        if peer.tls_ca:
            context = client_context(peer.tls_cert, peer.tls_key, peer.tls_ca)
            self._tls = _pynetdicom_context(context, pynetdicom.__version__)

    def start(self) -> None:
        """Send in a thread."""
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current object."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._peer.timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                busy = self.send_due()
            except OutputError:
                busy = False  # the journal cannot be written: the worker logs it
            except Exception:
                logs.broken("send_internal_error", destination=self._name)
                busy = False
            if not busy:
                self._stop.wait(POLL_S)

    def send_due(self) -> bool:
        """Send the due objects; False when there was none.

        Raises:
            OutputError: The journal cannot be read or written.
        """
        due = self._journal.due(self._name, time.time(), 2 * self._retry.longest_s)
        if not due:
            return False
        association, code = self._associate({delivery.kind for delivery in due})
        if association is None:
            logs.warning("not_reached", destination=self._name, code=code, objects=len(due))
            for delivery in due:
                self._record_outcome(delivery, code)
            return True
        uncommitted: List[Any] = []  # (delivery, code, (class, instance)), not yet committed to
        try:
            for delivery in due:
                if self._stop.is_set():
                    break
                if not association.is_established:
                    break  # the remaining objects are due at once, on a new association
                code, stored = self._store(association, delivery)
                if self._peer.commit_s > 0 and stored is not None:
                    uncommitted.append((delivery, code, stored))
                else:
                    self._record_outcome(delivery, code)
            self._record_committed(association, uncommitted)
        finally:
            if association.is_established:
                association.release()
        return True

    def _record_committed(self, association: Any, uncommitted: List[Any]) -> None:
        """Ask for storage commitment; what the peer does not promise to keep is sent again."""
        if not uncommitted:
            return
        found = ask_for_commitment(
            association, [stored for _, _, stored in uncommitted], self._reports,
            self._peer.commit_s, self._stop.wait,
        )  # fmt: skip
        for delivery, code, (_, uid) in uncommitted:
            lack = _refusal_reason(found[uid])
            self._record_outcome(delivery, lack or code, is_stored=not lack)

    def _associate(self, kinds: Any) -> Any:
        """An association and an empty string, or None and the reason code."""
        entity = AE(ae_title=self._peer.calling_aet)
        for name in ("acse_timeout", "dimse_timeout", "network_timeout", "connection_timeout"):
            setattr(entity, name, self._peer.timeout_s)
        for kind in sorted(kinds):
            entity.add_requested_context(SOP_CLASSES[kind], SYNTAXES)
        if self._peer.commit_s > 0:
            entity.add_requested_context(PUSH_MODEL, SYNTAXES)
        tls = (self._tls, self._peer.host) if self._tls is not None else None
        association = entity.associate(
            self._peer.host, self._peer.port, ae_title=self._peer.aet, tls_args=tls,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._limit), (evt.EVT_N_EVENT_REPORT, self._reports.take)
            ],
        )  # fmt: skip
        if association.is_established:
            return association, ""
        return None, NOT_REACHED[0] if association.is_rejected else NOT_REACHED[1]

    def _limit(self, event: Any) -> None:
        """Set a socket timeout: pynetdicom waits without one for the rest of a PDU."""
        with contextlib.suppress(AttributeError):
            event.assoc.dul.socket.socket.settimeout(self._peer.timeout_s)

    def _store(self, association: Any, delivery: ResultDelivery) -> Any:
        """The peer's status as `0000`, or the code of a failure on this side; and what it has.

        Returns:
            The code, and (SOP Class UID, SOP Instance UID) if the peer accepted the object or None.
        """
        try:
            dataset = pydicom.dcmread(self._spool.dicom(delivery.job, delivery.kind))
        except (OSError, pydicom.errors.InvalidDicomError):
            return "file_missing", None
        try:
            status = association.send_c_store(dataset)
        except ValueError:  # no accepted presentation context
            return "class_refused", None
        except RuntimeError:
            return "association_lost", None
        if "Status" not in status:
            return "association_lost", None
        code = "{:04X}".format(int(status.Status))
        stored = (str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
        return code, stored if _is_success(code) else None

    def _record_outcome(self, delivery: ResultDelivery, code: str, is_stored: bool = True) -> None:
        attempts = delivery.attempts + 1
        wait = 0.0
        if is_stored and _is_success(code):
            state = SENT_WITH_WARNING if code.startswith("B") else SENT
        elif code == "file_missing" or attempts >= self._retry.max_attempts:
            state = UNSENT
        else:
            state = PENDING
            wait = backoff_s(attempts, self._retry, random.random())
        self._journal.update_delivery(
            delivery._replace(
                state=state, attempts=attempts, code=code, next_try=time.time() + wait
            )
        )
        self._metrics.count("deliveries_total", state=state, destination=self._name)
        if state == PENDING and code in NOT_REACHED:
            return  # one line for all of them stands there
        note: Callable[..., None] = logs.info if state == SENT else logs.warning
        note(
            "delivery", job=delivery.job, destination=self._name, kind=delivery.kind,
            state=state, code=code, attempt=attempts, wait_s=round(wait, 1),
        )  # fmt: skip


def open_senders(
    peers: Any,
    retry: RetrySettings,
    spool: ImageSpool,
    journal: JobJournal,
    metrics: DaemonMetrics,
    reports: CommitmentReports,
) -> List[ResultSender]:
    """A sender per destination."""
    return [
        ResultSender(name, peer, retry, spool, journal, metrics, reports)
        for name, peer in peers.items()
    ]
