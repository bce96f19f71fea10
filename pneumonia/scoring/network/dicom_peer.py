"""Another DICOM application: its address, and an association with it."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pneumonia.runtime.connections import address_text, split_address
from pneumonia.runtime.errors import ConfigError, DataError

OWN_TITLE = "PNEUMONIA"
CONNECT_SECONDS, ANSWER_SECONDS = 15, 60
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]{0,15}")


@dataclass(frozen=True)
class Peer:
    """A DICOM application entity."""

    title: str  # its AE title, at most 16 characters
    host: str  # name or address of its computer
    port: int  # TCP port

    def __str__(self) -> str:
        return f"{self.title}@{address_text(self.host, self.port)}"


def checked_title(text: str) -> str:
    """An AE title (PS3.5 6.2: 1 to 16 characters without backslash) or a ConfigError."""
    if not _TITLE.fullmatch(text):
        raise ConfigError("AE title is not valid", expected="1 to 16 characters", found=repr(text))
    return text


def parse_peer(text: str) -> Peer:
    """`TITLE@HOST:PORT` as a Peer.

    Raises:
        ConfigError: The text does not have that form.
    """
    title, at, address = text.rpartition("@")
    place = split_address(address)
    if not at or place is None:
        raise ConfigError(
            "Not a DICOM peer",
            expected="TITLE@HOST:PORT, an IPv6 address as [ADDRESS]",
            found=repr(text),
        )
    return Peer(checked_title(title), *place)


@contextmanager
def association(
    peer: Peer,
    own_title: str,
    contexts: Sequence[Any],
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
) -> Iterator[Any]:
    """An association with a peer, released at the end, or aborted by an exception.

    Args:
        contexts: Presentation contexts.
        roles: SCP/SCU role selection items.
        handlers: pynetdicom's event handlers.

    Raises:
        DataError: The peer is not reached, or refuses.
    """
    from pynetdicom import AE

    # its log would hold received data sets with patient names; failures are raised or returned
    logging.getLogger("pynetdicom").propagate = False
    entity = AE(own_title)
    entity.connection_timeout = entity.acse_timeout = CONNECT_SECONDS
    entity.dimse_timeout = entity.network_timeout = ANSWER_SECONDS
    opened = entity.associate(
        peer.host,
        peer.port,
        contexts=list(contexts),
        ae_title=peer.title,
        ext_neg=list(roles),
        evt_handlers=list(handlers),
    )
    if not opened.is_established:
        refused = "refused" if opened.is_rejected else "no association"
        raise DataError(
            "DICOM peer does not answer",
            found=refused,
            where=str(peer),
            fix=f"Check address and titles; the peer must know {own_title!r}",
        )
    try:
        yield opened
    except BaseException:
        # a peer in the middle of an exchange answers no release: that would wait CONNECT_SECONDS
        if opened.is_established:
            opened.abort()
        raise
    if opened.is_established:
        opened.release()
