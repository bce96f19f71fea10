"""Storage commitment of sent results by a PACS."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from pneumonia.runtime import commitment
from pneumonia.runtime.commitment import CommitmentOutcome, CommitmentReports
from pneumonia.runtime.errors import ConfigError, DataError, os_errors_as
from pneumonia.scoring.network.delivery import COMMITTED, NOT_COMMITTED, Delivery
from pneumonia.scoring.network.dicom_peer import Peer, association

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class CommitmentSettings:
    """How storage commitment is asked for."""

    # port on which the PACS reports in an association of its own; None to take the report on the
    # association of the request only
    port: int | None = None
    wait_seconds: float = WAIT_SECONDS  # how long to wait for the report


class StoredObject(NamedTuple):
    """An object by SOP Class and SOP Instance UID."""

    kind: str
    instance: str


_DETAILS = {
    commitment.NO_ANSWER: "no answer",
    commitment.NO_REPORT: "no report in time",
    commitment.NOT_OFFERED: "storage commitment is not offered",
    commitment.LOST: "no association",
}


def request_commitment(
    objects: Sequence[StoredObject], peer: Peer, own_title: str, options: CommitmentSettings
) -> dict[str, Delivery]:
    """Ask a PACS to commit to the storage of objects that it has accepted.

    Returns:
        SOP Instance UID -> COMMITTED or NOT_COMMITTED, with the PACS's reason as code, or a detail
        where it gave none.

    Raises:
        ConfigError: The port cannot be opened.
    """
    from pynetdicom import build_context, evt

    reports = CommitmentReports()
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.take)]
    found: commitment.Outcomes = {}
    with (
        _listening(own_title, options.port, handlers),
        suppress(DataError, RuntimeError, OSError),
        association(
            peer, own_title, [build_context(commitment.PUSH_MODEL)], handlers=handlers
        ) as opened,
    ):
        found = commitment.ask_for_commitment(
            opened, objects, reports, options.wait_seconds, _pause, options.port is not None
        )
    lost = CommitmentOutcome(commitment.LOST)
    return {item.instance: _delivery(found.get(item.instance, lost)) for item in objects}


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _delivery(outcome: CommitmentOutcome) -> Delivery:
    if outcome.code == commitment.COMMITTED:
        return Delivery(COMMITTED)
    if outcome.code == commitment.NOT_KEPT:
        return Delivery(NOT_COMMITTED, outcome.number)
    if outcome.code == commitment.REFUSED:
        return Delivery(NOT_COMMITTED, None, f"request: status 0x{outcome.number:04X}")
    return Delivery(NOT_COMMITTED, None, _DETAILS[outcome.code])


@contextmanager
def _listening(own_title: str, port: int | None, handlers: Sequence[Any]) -> Iterator[None]:
    if port is None:
        yield
        return
    from pynetdicom import AE

    receiver = AE(own_title)
    # the PACS opens the association, but stays the provider of the service
    receiver.add_supported_context(commitment.PUSH_MODEL, scu_role=True, scp_role=True)
    with os_errors_as(ConfigError, "Port for storage commitment cannot be opened", port):
        server = receiver.start_server(("", port), block=False, evt_handlers=list(handlers))
    try:
        yield
    finally:
        server.shutdown()
