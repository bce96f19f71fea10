"""Rails in one line of tegrastats, whatever the board and the release: keyed on names."""

import re
from collections import OrderedDict
from typing import Dict, Optional

# `NAME cur/avg[/more]`, milliwatts with or without the unit. Not `RAM 1/2MB`: MB follows.
RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) +(\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)*(?=\s|$)")
MEMORY = re.compile(r"(?<!\S)RAM \d+/\d+MB")
UNCONNECTED = ("NC",)


def parse_rails(line: str) -> Optional[Dict[str, int]]:
    """Rail -> milliwatts now; None when it is not a line of tegrastats.

    A rail whose numbers are cut off is left out, never guessed.
    """
    if MEMORY.search(line) is None:
        return None
    found = RAIL.findall(line)
    return OrderedDict((name, int(now)) for name, now in found if name not in UNCONNECTED)
