"""The child process that opens foreign files: one request in, one image or refusal out.

Run as `python -m pneumonia.scoring.decode_worker MEMORY_MB`. Requests are JSON lines on stdin. An
answer is a 4-byte big-endian length, that many bytes of JSON, then height x width grey bytes.
Nothing is pickled, and a file that crashes a decoder takes only this process with it.
"""

import base64
import hashlib
import json
import logging
import os
import struct
import sys
import time
from typing import Any, BinaryIO

from pneumonia.runtime.dicom_header import ReadLimits, read_codes
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.radiograph import Radiograph, read_radiograph

MAX_HEADER_BYTES = 1 << 19  # an answer has an end
IDENTITY_TAGS = ("StudyInstanceUID", "AccessionNumber", "StudyDate")


def limit_memory(megabytes: int) -> None:
    """Make allocations beyond the limit fail instead of filling the machine."""
    try:
        import resource
    except ImportError:  # not a POSIX system; the file and pixel limits still hold
        return
    size = megabytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def file_digest(path: str) -> tuple[str, int]:
    """SHA-256 (hex) and size of a file's bytes."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def read_identity(path: str, radiograph: Radiograph) -> dict[str, str]:
    """Study UID, accession number and study date; the caller decides what may leave."""
    if radiograph.info["format"] != "dicom":
        return {}
    import pydicom

    tags: list[Any] = list(IDENTITY_TAGS)
    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
    return {tag: str(dataset.get(tag) or "") for tag in IDENTITY_TAGS}


def read_source_header(path: str) -> bytes:
    """The attributes that results take over from the source, as a DICOM file in memory.

    Empty when they cannot be had: that costs the image its DICOM results, not its score.
    """
    import pydicom

    from pneumonia.runtime.results import header_bytes, source_header

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        data = header_bytes(source_header(dataset))
    except Exception:  # parsers of foreign files raise anything
        return b""
    return data if len(data) <= MAX_HEADER_BYTES else b""


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Handle one request.

    Args:
        request: `path`, `limits` (fields of ReadLimits), `known_sha256` (contents that need not
            be decoded again) and `header` (whether results need the source's header).

    Returns:
        The answer's record and the pixels (empty when there is no image).
    """
    started = time.monotonic()
    record: dict[str, Any] = {"status": "read", "sha256": "", "bytes": 0}
    pixels = b""
    path = request["path"]
    try:
        record["sha256"], record["bytes"] = file_digest(path)
        if record["sha256"] == request["known_sha256"]:
            record["status"] = "known"
        else:
            radiograph = read_radiograph(path, ReadLimits(**request["limits"]))
            record.update(_facts(path, radiograph))
            if request["header"] and radiograph.info["format"] == "dicom":
                record["header"] = base64.b64encode(read_source_header(path)).decode("ascii")
            if os.stat(path).st_size != record["bytes"]:
                raise DicomError("File changed while it was read", "failed", "file_changed")
            pixels = radiograph.pixels.tobytes()
    except DicomError as error:
        record.update(status=error.status, reason=error.reason, message=error.what)
        record["info"] = read_codes(path)
    except MemoryError:
        record.update(status="rejected", reason="resource_limit", message="Not enough memory")
    except OSError:
        record.update(status="failed", reason="unreadable", message="File cannot be read")
    record["seconds"] = time.monotonic() - started
    return record, pixels


def _facts(path: str, radiograph: Radiograph) -> dict[str, Any]:
    height, width = radiograph.pixels.shape
    return {
        "height": height,
        "width": width,
        "info": radiograph.info,
        "warnings": list(radiograph.warnings),
        "identity": read_identity(path, radiograph),
    }


def write_answer(stream: BinaryIO, record: dict[str, Any], pixels: bytes) -> None:
    """Send one answer."""
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


def main() -> None:
    """Serve requests until stdin ends."""
    channel = private_output()
    logging.disable(logging.CRITICAL)
    limit_memory(int(sys.argv[1]))
    for line in sys.stdin:
        write_answer(channel, *answer(json.loads(line)))


if __name__ == "__main__":
    main()
