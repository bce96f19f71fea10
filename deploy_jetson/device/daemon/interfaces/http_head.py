"""The head of an HTTP request, parsed strictly (RFC 9112): what can be read in two ways is refused.

h11 is not used: the last version for Python 3.6 (0.13, with the chunked-body flaw CVE-2025-43859)
takes Transfer-Encoding beside Content-Length, needs two more wheels on the board, and would replace
the thirty lines of `parse_head`, not sockets, places, deadlines or TLS. The tests compare with h11.
"""

import re
from typing import Dict, List, NamedTuple, Optional

MAX_HEAD_BYTES = 16384
MAX_TARGET_BYTES = 8192
LENGTH_REQUIRED = ("length_required", "Content-Length")
END = b"\r\n\r\n"
_METHOD = re.compile(rb"[A-Z]{1,20}")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\x20-\x7e\t]*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
# fields that mean something here, or would if they came twice: never merged, never chosen among
SINGLE = ("authorization", "content-length", "content-type", "expect", "host", "transfer-encoding")


class RequestRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The request is answered with an error.

    Attributes:
        status: Of HTTP.
        reason: A code for metrics and for the body.
        expected: What would have been accepted, empty for nothing to say.
    """

    def __init__(self, status: int, reason: str, expected: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.expected = expected


class RequestHead(NamedTuple):
    """Request line and header fields."""

    method: str  # for example `GET`
    path: str  # target up to the question mark, ASCII, not decoded
    query: str  # target behind it
    version: str  # `HTTP/1.0` or `HTTP/1.1`
    fields: Dict[str, str]  # values by lower-case name, printable ASCII; of repeated names the last
    length: Optional[int]  # Content-Length, None without one


def _malformed() -> RequestRefused:
    return RequestRefused(400, "bad_request")


def _fields(lines: List[bytes]) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise _malformed()
        name = match.group(1).decode("ascii").lower()
        if name in SINGLE and name in found:
            raise _malformed()
        found[name] = match.group(2).strip(b" \t").decode("ascii")
    return found


def parse_head(data: bytes) -> RequestHead:
    """Parse a head.

    Args:
        data: Everything before the empty line that ends it.

    Raises:
        RequestRefused: It is malformed, ambiguous, too long or of another version of HTTP.
    """
    lines = data.split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or not _METHOD.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[2]):
        raise _malformed()
    if not parts[2].startswith(b"HTTP/1."):
        raise RequestRefused(505, "bad_request", "HTTP/1.1")
    if len(parts[1]) > MAX_TARGET_BYTES:
        raise RequestRefused(414, "bad_request")
    if not _TARGET.fullmatch(parts[1]):
        raise _malformed()
    fields = _fields(lines[1:])
    length = fields.get("content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise _malformed()
    if "transfer-encoding" in fields:  # beside Content-Length, two readers differ about the end
        raise _malformed() if length is not None else RequestRefused(411, *LENGTH_REQUIRED)
    path, _, query = parts[1].decode("ascii").partition("?")
    return RequestHead(
        parts[0].decode("ascii"), path, query, parts[2].decode("ascii"), fields,
        None if length is None else int(length),
    )  # fmt: skip
