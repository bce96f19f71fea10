"""Channel of a child that decodes foreign files: answers of JSON and pixels, nothing pickled."""

import json
import os
import struct
import sys
from typing import Any, BinaryIO, Dict


def write_answer(stream: BinaryIO, record: Dict[str, Any], pixels: bytes) -> None:
    """Send one answer: a 4-byte big-endian length, that many bytes of JSON, then the pixels."""
    head = json.dumps(record).encode("ascii")
    stream.write(struct.pack(">I", len(head)) + head)
    stream.write(pixels)
    stream.flush()


def private_output() -> BinaryIO:
    """The answers' channel; stdout and stderr go nowhere, since decoders print into them."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)
    return channel
