"""Storage commitment of sent results: the peer promises to keep them (DICOM PS3.4 J)."""

import threading
import uuid
from typing import Any, Callable, Dict, List, Optional, Tuple

from pydicom.dataset import Dataset

PUSH_MODEL, PUSH_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
REQUEST = 1  # action type: request storage commitment
SUCCESS, INVALID_ARGUMENT = 0x0000, 0x0115
SAME_ASSOCIATION_S = 5.0  # some peers report only once the association of the request has ended
POLL_S = 0.2
COMMITTED = ""
NO_REPORT, NOT_OFFERED = "no_commitment_report", "commitment_refused"
Objects = List[Tuple[str, str]]  # SOP Class and SOP Instance UID


class CommitmentReports:
    """Reports that are waited for; they come on any association."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited = {}  # type: Dict[str, Optional[Dict[str, str]]]

    def expect(self) -> str:
        """A new transaction UID, whose report is taken from now on."""
        transaction = "2.25.{}".format(uuid.uuid4().int)
        with self._lock:
            self._awaited[transaction] = None
        return transaction

    def take(self, event: Any) -> Tuple[int, None]:
        """Take an N-EVENT-REPORT; returns its status. Unknown and late transactions: 0x0115."""
        try:
            information = event.event_information
            transaction = str(information.get("TransactionUID", ""))
            found = _outcomes(information)
        except Exception:  # a data set of a peer holds anything
            return INVALID_ARGUMENT, None
        with self._lock:
            if transaction not in self._awaited:
                return INVALID_ARGUMENT, None
            self._awaited[transaction] = found
        return SUCCESS, None

    def wait(
        self, transaction: str, seconds: float, pause: Callable[[float], bool]
    ) -> Optional[Dict[str, str]]:
        """The report as SOP Instance UID -> COMMITTED or the peer's reason; None without one.

        Args:
            transaction: Its UID.
            seconds: Longest wait.
            pause: Waits for some seconds; True ends the wait.
        """
        left = seconds
        while True:
            with self._lock:
                found = self._awaited.get(transaction)
            if found is not None or left <= 0 or pause(min(left, POLL_S)):
                return found
            left -= POLL_S

    def forget(self, transaction: str) -> None:
        """Take no report about it any more."""
        with self._lock:
            self._awaited.pop(transaction, None)


def _outcomes(information: Dataset) -> Dict[str, str]:
    found = {}
    for item in information.get("ReferencedSOPSequence") or ():
        found[str(item.ReferencedSOPInstanceUID)] = COMMITTED
    for item in information.get("FailedSOPSequence") or ():  # what is in both has failed
        reason = item.get("FailureReason")
        code = NO_REPORT if reason is None else "{:04X}".format(int(reason))
        found[str(item.ReferencedSOPInstanceUID)] = code
    return found


def ask_for_commitment(
    association: Any,
    objects: Objects,
    reports: CommitmentReports,
    seconds: float,
    pause: Callable[[float], bool],
) -> Dict[str, str]:
    """Ask a peer to keep objects that it has accepted; the association is released.

    Args:
        association: An open one, on which storage commitment was proposed.
        objects: Which ones.
        reports: Get the report.
        seconds: Longest wait for it.
        pause: See `CommitmentReports.wait`.

    Returns:
        SOP Instance UID -> COMMITTED, the peer's failure reason or status as `0112`, or a code.
    """
    transaction = reports.expect()
    code = NO_REPORT
    found = None  # type: Optional[Dict[str, str]]
    try:
        status, _ = association.send_n_action(
            _request(objects, transaction), REQUEST, PUSH_MODEL, PUSH_INSTANCE
        )
        answer = status.get("Status")
        if answer == SUCCESS:
            here = min(seconds, SAME_ASSOCIATION_S)
            found = reports.wait(transaction, here, pause)
            if found is None and association.is_established:
                association.release()
            found = reports.wait(transaction, seconds - here, pause)
        elif answer is not None:
            code = "{:04X}".format(int(answer))
    except ValueError:  # no accepted presentation context
        code = NOT_OFFERED
    except RuntimeError:  # the association broke
        code = "association_lost"
    finally:
        reports.forget(transaction)
    return {uid: (found or {}).get(uid, code) for _, uid in objects}


def _request(objects: Objects, transaction: str) -> Dataset:
    asked = Dataset()
    asked.TransactionUID = transaction
    asked.ReferencedSOPSequence = []
    for kind, uid in objects:
        reference = Dataset()
        reference.ReferencedSOPClassUID = kind
        reference.ReferencedSOPInstanceUID = uid
        asked.ReferencedSOPSequence.append(reference)
    return asked
