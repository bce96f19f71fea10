"""Storage commitment: a PACS promises to keep objects (DICOM PS3.4 J)."""

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydicom.dataset import Dataset

from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.image.attributes import first_text
from pneumonia.scoring.network.delivery import COMMITTED, NOT_COMMITTED, Delivery
from pneumonia.scoring.network.dicom_peer import Peer, association

PUSH_MODEL, PUSH_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
REQUEST = 1  # action type: request storage commitment
SUCCESS, INVALID_ARGUMENT = 0x0000, 0x0115
WAIT_SECONDS = 60.0
SAME_ASSOCIATION_SECONDS = 5.0


@dataclass(frozen=True)
class CommitmentOptions:
    """How storage commitment is asked for.

    Attributes:
        port: Port on which the PACS reports in an association of its own; None to take the report
            on the association of the request only.
        wait_seconds: How long to wait for the report.
    """

    port: int | None = None
    wait_seconds: float = WAIT_SECONDS


class StoredObject(NamedTuple):
    """An object by SOP Class and SOP Instance UID."""

    kind: str
    instance: str


class _Report:
    """The report about one transaction, which may come over any association."""

    def __init__(self) -> None:
        self.transaction = f"2.25.{uuid.uuid4().int}"
        self.found: dict[str, Delivery] = {}
        self.arrived = threading.Event()

    def take(self, event: Any) -> tuple[int, None]:
        """Take N-EVENT-REPORT; returns its status (PS3.4 J.3.3)."""
        information = event.event_information
        if first_text(information, "TransactionUID") != self.transaction:
            return INVALID_ARGUMENT, None
        for item in information.get("ReferencedSOPSequence") or ():
            self.found[first_text(item, "ReferencedSOPInstanceUID")] = Delivery(COMMITTED)
        for item in information.get("FailedSOPSequence") or ():
            code = item.get("FailureReason")
            self.found[first_text(item, "ReferencedSOPInstanceUID")] = Delivery(
                NOT_COMMITTED, None if code is None else int(code)
            )
        self.arrived.set()
        return SUCCESS, None


def request_commitment(
    objects: Sequence[StoredObject], peer: Peer, own_title: str, options: CommitmentOptions
) -> dict[str, Delivery]:
    """Ask a PACS to commit to the storage of objects that it has accepted.

    Args:
        objects: Which ones.
        peer: The PACS.
        own_title: Our AE title.
        options: How.

    Returns:
        SOP Instance UID -> COMMITTED or NOT_COMMITTED, with the PACS's reason as code, or a detail
        where it gave none.

    Raises:
        ConfigError: The port cannot be opened.
    """
    from pynetdicom import build_context, evt

    report = _Report()
    handlers = [(evt.EVT_N_EVENT_REPORT, report.take)]
    detail = "no report in time"
    with _listening(own_title, options.port, handlers):
        try:
            with association(
                peer, own_title, [build_context(PUSH_MODEL)], handlers=handlers
            ) as opened:
                status, _ = opened.send_n_action(
                    _request(objects, report.transaction), REQUEST, PUSH_MODEL, PUSH_INSTANCE
                )
                code = status.get("Status")
                left = options.wait_seconds if code == SUCCESS else 0.0
                here = left if options.port is None else min(left, SAME_ASSOCIATION_SECONDS)
                report.arrived.wait(here)
            if code != SUCCESS:
                detail = "no answer" if code is None else f"request: status 0x{code:04X}"
            # some PACS report only once the association of the request has ended
            report.arrived.wait(left - here)
        except ValueError:
            detail = "storage commitment is not offered"
        except (DataError, RuntimeError, OSError):
            detail = "no association"
    missing = Delivery(NOT_COMMITTED, None, detail)
    return {item.instance: report.found.get(item.instance, missing) for item in objects}


@contextmanager
def _listening(own_title: str, port: int | None, handlers: Sequence[Any]) -> Iterator[None]:
    if port is None:
        yield
        return
    from pynetdicom import AE

    receiver = AE(own_title)
    # the PACS opens the association, but stays the provider of the service
    receiver.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    try:
        server = receiver.start_server(("", port), block=False, evt_handlers=list(handlers))
    except OSError as error:
        raise ConfigError(
            "Port for storage commitment cannot be opened",
            found=error.strerror,
            where=str(port),
        ) from None
    try:
        yield
    finally:
        server.shutdown()


def _request(objects: Sequence[StoredObject], transaction: str) -> Dataset:
    asked = Dataset()
    asked.TransactionUID = transaction
    asked.ReferencedSOPSequence = []
    for item in objects:
        reference = Dataset()
        reference.ReferencedSOPClassUID = item.kind
        reference.ReferencedSOPInstanceUID = item.instance
        asked.ReferencedSOPSequence.append(reference)
    return asked
