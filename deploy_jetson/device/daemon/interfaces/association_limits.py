"""Bounds on the DICOM protocol units of a peer, checked before pynetdicom parses them (PS3.8 9.3).

pynetdicom makes objects of every item: a request of one megabyte that names 190,000 transfer
syntaxes costs seconds. Counting items costs milliseconds.
"""

import contextlib
import struct
from typing import Any, Callable, Iterator, Tuple

MAX_PDU_BYTES = 1 << 20  # of any kind
MAX_ASSOCIATION_BYTES = 1 << 18  # 128 contexts with every syntax of the standard have half of it
MAX_CONTEXTS = 128  # identifiers are odd, 1 to 255
MAX_SYNTAXES = 64  # of one context; the standard has about 50
MAX_USER_ITEMS = 512
MAX_ITEMS = 8 + MAX_CONTEXTS
ASSOCIATE = (0x01, 0x02)  # request, accept
CONTEXTS, USER_INFORMATION = (0x20, 0x21), 0x50
FIXED_BYTES = 68  # of a request, before its items
CONTEXT_BYTES = 4  # of a context, before its items
# A-ABORT by the service provider: invalid PDU parameter value
ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"


class PduLimitError(OSError):
    """A peer's unit is larger than anything needed; to pynetdicom the connection has ended."""


def _items(data: bytes, start: int, end: int) -> Iterator[Tuple[int, int, int]]:
    """Type, first byte and end of each item; ends at the first that does not fit."""
    while start + 4 <= end:
        kind, length = data[start], struct.unpack_from(">H", data, start + 2)[0]
        start += 4
        if start + length > end:
            return
        yield kind, start, start + length
        start += length


def check_association(data: bytes) -> None:
    """Count the items of an association request or its answer.

    Args:
        data: The unit behind its six bytes of type and length.

    Raises:
        PduLimitError: There are too many.
    """
    items = list(_items(data, FIXED_BYTES, len(data)))
    for kind, start, end in items[: MAX_ITEMS + 1]:
        limit, first = 0, start
        if kind in CONTEXTS:
            limit, first = MAX_SYNTAXES + 1, start + CONTEXT_BYTES
        elif kind == USER_INFORMATION:
            limit = MAX_USER_ITEMS
        if limit and sum(1 for _ in _items(data, first, end)) > limit:
            raise PduLimitError("too many items")
    if len(items) > MAX_ITEMS:
        raise PduLimitError("too many items")


def bounded(link: Any, refused: Callable[[], None]) -> Callable[[int], bytes]:
    """A `recv` for a connection of pynetdicom that ends it at units beyond the limits.

    Args:
        link: Its AssociationSocket, which reads a unit as six bytes and then the rest.
        refused: Called before the connection is aborted.
    """
    read = link.recv
    kind = [0]  # of the unit whose rest is read next; 0 for none

    def recv(size: int) -> bytes:
        try:
            is_association = kind[0] in ASSOCIATE
            if size > (MAX_ASSOCIATION_BYTES if is_association else MAX_PDU_BYTES):
                raise PduLimitError("the unit is too long")
            data = read(size)  # type: bytes
            if is_association:
                check_association(bytes(data))
            kind[0] = data[0] if size == 6 and kind[0] == 0 and data else 0
        except PduLimitError:
            refused()
            with contextlib.suppress(OSError):
                link.socket.sendall(ABORT)
            raise
        return data

    return recv
