"""The outcome of sending one object, and the interface of senders."""

from pathlib import Path
from typing import NamedTuple, Protocol

SENT, WITH_WARNING, REFUSED, NOT_SENT = "sent", "sent_with_warning", "refused", "not_sent"
COMMITTED, NOT_COMMITTED = "committed", "not_committed"
STATUSES = (SENT, WITH_WARNING, REFUSED, NOT_SENT, COMMITTED, NOT_COMMITTED)


class Delivery(NamedTuple):
    """The outcome of one object."""

    status: str  # one of STATUSES
    code: int | None = None  # the DICOM status that the peer answered; None when it gave none
    detail: str = ""  # the error, where the peer gave no code


class ObjectSender(Protocol):
    """Sends objects to one destination."""

    def attempt(self, path: Path) -> Delivery:
        """Send one object; NOT_SENT when it may succeed later."""

    def close(self) -> None:
        """Close the connection; `attempt` opens another."""


def status_of(code: int) -> str:
    """The meaning of a C-STORE status (PS3.4 B.2.3): only 0x0000 and 0xBxxx are a success."""
    if code == 0:
        return SENT
    return WITH_WARNING if code & 0xF000 == 0xB000 else REFUSED
