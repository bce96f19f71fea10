"""Storage commitment: a peer promises to keep objects that it has accepted (DICOM PS3.4 J).

Works on associations of any pynetdicom, which this module does not import.
"""

import threading
import uuid
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from pydicom.dataset import Dataset

PUSH_MODEL, PUSH_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
REQUEST = 1  # action type: request storage commitment
SUCCESS, INVALID_ARGUMENT = 0x0000, 0x0115
SAME_ASSOCIATION_S = 5.0  # some peers report only once the association of the request has ended
POLL_S = 0.2
COMMITTED = ""
NOT_KEPT = "not_kept"  # the report says so
NO_REPORT, NOT_OFFERED = "no_commitment_report", "commitment_refused"
NO_ANSWER, REFUSED, LOST = "no_answer", "request_refused", "association_lost"
Objects = Sequence[Tuple[str, str]]  # SOP Class and SOP Instance UID


class CommitmentOutcome(NamedTuple):
    """Whether a peer promises to keep an object."""

    code: str  # COMMITTED, or why it does not
    # failure reason of the object (NOT_KEPT) or status of the request (REFUSED); None where the
    # peer gave none
    number: Optional[int] = None


Outcomes = Dict[str, CommitmentOutcome]  # by SOP Instance UID


class CommitmentReports:
    """Collects the expected reports, on whichever association they arrive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: Dict[str, Optional[Outcomes]] = {}

    def new_transaction(self) -> str:
        """A new transaction UID; its report is accepted from now on."""
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
    ) -> Optional[Outcomes]:
        """The report: COMMITTED or NOT_KEPT for each object; None without one.

        Args:
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
        """Stop expecting the report of a transaction."""
        with self._lock:
            self._awaited.pop(transaction, None)


def _outcomes(information: Dataset) -> Outcomes:
    found = {}
    for item in information.get("ReferencedSOPSequence") or ():
        found[str(item.ReferencedSOPInstanceUID)] = CommitmentOutcome(COMMITTED)
    for item in information.get("FailedSOPSequence") or ():  # an object in both lists has failed
        reason = item.get("FailureReason")
        number = None if reason is None else int(reason)
        found[str(item.ReferencedSOPInstanceUID)] = CommitmentOutcome(NOT_KEPT, number)
    return found


def ask_for_commitment(
    association: Any,
    objects: Objects,
    reports: CommitmentReports,
    seconds: float,
    pause: Callable[[float], bool],
    is_listening: bool = True,
) -> Outcomes:
    """Ask a peer to keep objects that it has accepted.

    Args:
        association: An open one, on which storage commitment was proposed.
        seconds: Longest wait for it.
        pause: See `CommitmentReports.wait`.
        is_listening: Whether the report may come on another association: this one is released when
            it does not come soon.

    Returns:
        The outcome of each object.
    """
    transaction = reports.new_transaction()
    missing = CommitmentOutcome(NO_REPORT)
    found: Optional[Outcomes] = None
    try:
        status, _ = association.send_n_action(
            _request(objects, transaction), REQUEST, PUSH_MODEL, PUSH_INSTANCE
        )
        answer = status.get("Status")
        if answer == SUCCESS:
            here = min(seconds, SAME_ASSOCIATION_S) if is_listening else seconds
            found = reports.wait(transaction, here, pause)
            if found is None and association.is_established:
                association.release()
            found = reports.wait(transaction, seconds - here, pause)
        elif answer is None:
            missing = CommitmentOutcome(NO_ANSWER)
        else:
            missing = CommitmentOutcome(REFUSED, int(answer))
    except ValueError:  # no accepted presentation context
        missing = CommitmentOutcome(NOT_OFFERED)
    except RuntimeError:  # the association broke
        missing = CommitmentOutcome(LOST)
    finally:
        reports.forget(transaction)
    return {uid: (found or {}).get(uid, missing) for _, uid in objects}


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
