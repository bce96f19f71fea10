"""Messages between the child that opens files and its caller.

The caller writes JSON lines: the options once, then one request per file. An answer is a 4-byte
big-endian length, that many bytes of JSON, and the binary parts which its `parts` lists as
[name, bytes].

Pixels do not fit into a pipe, so that the child would wait until the caller reads them. The two
have memory files open instead (`pixel_files` of the options); a request names the one that the
answer's pixels go to, and `pixel_bytes` of the answer says how many there are.
"""

import json
import struct
from typing import IO, Any, Dict, List, NamedTuple, Sequence, Tuple

MAX_RECORD_BYTES = 1 << 20
MAX_LIST_BYTES = 64 << 20  # 100,000 long names
MAX_HEADER_BYTES = 1 << 19


class Wanted(NamedTuple):
    """What the caller needs of each image besides its facts and pixels."""

    # the attributes that results take over from the source (results.source_header)
    header: bool = False
    # see `selection.word_against`; without them, descriptions are not searched
    words_against: Sequence[str] = ()
    words_wanted: Sequence[str] = ()  # likewise


Parts = List[Tuple[str, Any]]  # name and a contiguous buffer


def write_line(stream: IO[bytes], document: Dict[str, Any]) -> None:
    """Send options or a request."""
    stream.write(json.dumps(document).encode("ascii") + b"\n")
    stream.flush()


def write_answer(stream: IO[bytes], record: Dict[str, Any], parts: Parts) -> None:
    """Send an answer."""
    buffers = [(name, memoryview(data).cast("B")) for name, data in parts]
    sizes = [[name, len(buffer)] for name, buffer in buffers]
    head = json.dumps(dict(record, parts=sizes)).encode("ascii")
    stream.write(struct.pack(">I", len(head)) + head)
    for _, buffer in buffers:
        stream.write(buffer)
    stream.flush()


def read_answer(stream: IO[bytes], max_bytes: Dict[str, int]) -> Tuple[Dict[str, Any], Any]:
    """Receive an answer.

    Args:
        stream: The child's output.
        max_bytes: Largest size of each part that is accepted, by name.

    Returns:
        The record, and its parts as name -> bytes.

    Raises:
        ValueError, KeyError, TypeError: It ends early, is too long or is not an answer.
    """
    size = struct.unpack(">I", _exactly(stream, 4))[0]
    if size > MAX_RECORD_BYTES:
        raise ValueError("answer is too long")
    record = json.loads(_exactly(stream, size).decode("ascii"))
    parts = {}
    for name, n_bytes in record["parts"]:
        if not 0 <= n_bytes <= max_bytes[name]:
            raise ValueError("answer is too long")
        parts[name] = _exactly(stream, n_bytes)
    return record, parts


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("the child ended")
    return data
