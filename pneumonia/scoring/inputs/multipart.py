"""Bodies of type multipart/related as WADO-RS answers with them (RFC 2046 5.1, PS3.18 8.7.3)."""

import re
from collections.abc import Iterator
from email.message import Message

MAX_PART_HEAD = 16 << 10


def boundary_of(content_type: str) -> bytes:
    """The boundary of a multipart answer; empty when the answer is the object itself.

    Raises:
        ValueError: The type is multipart without a valid boundary.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return b""
    boundary = header.get_boundary() or ""
    if not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise ValueError("multipart without boundary")
    return boundary.encode("ascii")


def parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """The contents of all parts.

    Raises:
        ValueError: The closing delimiter is missing, or a part has no end of its header.
    """
    delimiter = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    before = delimiter.search(body)
    while before is not None and not before.group(1):
        # the line break that ends a delimiter may be the one that begins the next
        after = delimiter.search(body, before.end())
        head = body.find(b"\r\n\r\n", before.end())
        if after is None or not 0 <= head <= after.start() or head - before.end() > MAX_PART_HEAD:
            raise ValueError("multipart is cut off or malformed")
        yield body[head + 4 : after.start()]
        before = after
    if before is None:
        raise ValueError("multipart is cut off or malformed")
