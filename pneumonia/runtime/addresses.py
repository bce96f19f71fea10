"""Network addresses as text: HOST:PORT, an IPv6 address in brackets."""

import re
from typing import Optional, Tuple

# without brackets the last group of an IPv6 address would be taken for the port
_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[^\[\]]*:[^\[\]]*)\]|(?P<name>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})"
)


def address_text(host: str, port: int) -> str:
    """HOST:PORT, or [HOST]:PORT of an IPv6 address."""
    return "{}:{}".format("[{}]".format(host) if ":" in host else host, port)


def split_address(text: str) -> Optional[Tuple[str, int]]:
    """Host without brackets and port of an address; None where it does not name both."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found.group("port")) < 65536:
        return None
    return found.group("ipv6") or found.group("name"), int(found.group("port"))
