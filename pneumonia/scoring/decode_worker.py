"""The child process that opens foreign files: one request in, one image or refusal out.

Run as `python -m pneumonia.scoring.decode_worker MEMORY_MB`. Requests are JSON lines on stdin. An
answer is a 4-byte big-endian length, that many bytes of JSON, then `payload` bytes: the pixels, or
a list as JSON.
Nothing is pickled, and a file that crashes a decoder takes only this process with it.
"""

import base64
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pneumonia.runtime.attributes import joined_text, sequence_items
from pneumonia.runtime.child_channel import private_output, write_answer
from pneumonia.runtime.dicom_header import ReadLimits, header_facts, read_codes, read_header
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.radiograph import Radiograph, read_radiograph, unknown_format
from pneumonia.runtime.raster import raster_format
from pneumonia.scoring.archives import (
    MAX_LIST_BYTES,
    list_archive,
    list_dicomdir,
    member_file,
)

MAX_HEADER_BYTES = 1 << 19  # an answer has an end
IDENTITY_TAGS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "AccessionNumber",
    "StudyDate",
)
DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "AcquisitionDeviceProcessingDescription",
)


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


def read_told(path: str) -> Any:
    """The few attributes that rules are taken from, as a pydicom Dataset."""
    import pydicom

    tags: list[Any] = [*DESCRIPTIONS, "ViewCodeSequence"]
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)


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
        request: `task` (`read`, `look`, `archive` or `dicomdir`), `path`, `member` (index in a
            zip, or -1), `limits` (fields of ReadLimits), `words` (see `told_word`); for `read`
            also `known_sha256` (contents that need not be decoded again) and `header` (whether
            results need the source's header).

    Returns:
        The answer's record and the pixels or the list (empty when there is none).
    """
    started = time.monotonic()
    record: dict[str, Any] = {"status": "read", "sha256": "", "bytes": 0}
    payload = b""
    try:
        with _file_of(request) as path:
            payload = TASKS[request["task"]](path, request, record)
    except DicomError as error:
        record.update(status=error.status, reason=error.reason, message=error.what)
    except MemoryError:
        record.update(status="rejected", reason="resource_limit", message="Not enough memory")
    except OSError:
        record.update(status="failed", reason="unreadable", message="File cannot be read")
    record["payload"] = len(payload)
    record["seconds"] = time.monotonic() - started
    return record, payload


def _file_of(request: dict[str, Any]) -> AbstractContextManager[str]:
    path, member = request["path"], request["member"]
    if member < 0:
        return nullcontext(path)
    return member_file(path, member, ReadLimits(**request["limits"]).max_file_bytes)


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def read(path: str, request: dict[str, Any], record: dict[str, Any]) -> bytes:
    """Hash and decode a file; its facts go into the record."""
    before = _state(path)
    record["sha256"], record["bytes"] = file_digest(path)
    if record["sha256"] == request["known_sha256"]:
        record["status"] = "known"
        return b""
    try:
        told: list[Any] = []
        radiograph = read_radiograph(path, ReadLimits(**request["limits"]), told.append)
        if _state(path) != before:
            raise DicomError("File changed while it was read", "failed", "file_changed")
    except DicomError:
        record["info"] = read_codes(path)
        raise
    record.update(_facts(told, radiograph, request["words"]))
    if request["header"] and radiograph.info["format"] == "dicom":
        record["header"] = base64.b64encode(read_source_header(path)).decode("ascii")
    return radiograph.pixels.tobytes()


def look(path: str, request: dict[str, Any], record: dict[str, Any]) -> bytes:
    """Read the header only; whether the pixels can be decoded stays open."""
    limits = ReadLimits(**request["limits"])
    record["bytes"] = os.stat(path).st_size
    with open(path, "rb") as stream:
        head = stream.read(132)
    has_preamble = head[128:132] == b"DICM"
    name = "" if has_preamble else raster_format(head)
    try:
        if record["bytes"] > limits.max_file_bytes:
            raise DicomError("File is too large", "rejected", "resource_limit")
        if name:
            record["info"] = {"format": name}
        elif has_preamble or (limits.force_read and head):
            info = header_facts(read_header(path, limits, has_preamble))
            word = told_word(read_told(path), request["words"])
            record["info"] = {**info, "word_against": word}
        else:
            raise unknown_format(head)
    except (DicomError, OSError, MemoryError):
        record["info"] = read_codes(path)
        raise
    except Exception:  # parsers of foreign files raise anything
        raise DicomError("File is damaged", "failed", "unreadable") from None
    return b""


def list_members(path: str, request: dict[str, Any], record: dict[str, Any]) -> bytes:
    """The members of a zip as JSON."""
    found = list_archive(path, ReadLimits(**request["limits"]).max_file_bytes)
    return _listing(found, record)


def list_directory(path: str, request: dict[str, Any], record: dict[str, Any]) -> bytes:
    """The images a DICOMDIR names as JSON."""
    return _listing(list_dicomdir(path), record)


def _listing(found: Sequence[Any], record: dict[str, Any]) -> bytes:
    record["status"] = "listed"
    data = json.dumps(found).encode("ascii")
    if len(data) > MAX_LIST_BYTES:
        raise DicomError("Archive has too many members", "rejected", "resource_limit")
    return data


TASKS = {"read": read, "look": look, "archive": list_members, "dicomdir": list_directory}


def told_word(told: Any, words: dict[str, list[str]]) -> str:
    """The rules' word against an image that its descriptions tell, empty when none does.

    Only the rules' own word leaves, never the text it was found in. Descriptions that tell a word
    for it as well ("PA and lateral") tell nothing about this image.

    Args:
        told: Data set of a header.
        words: `against` and `wanted`, lower case.
    """
    if not words["against"]:
        return ""
    texts = [joined_text(told, tag) for tag in DESCRIPTIONS]
    texts += [
        joined_text(item, "CodeMeaning") for item in sequence_items(told, "ViewCodeSequence") or ()
    ]
    found = set(re.findall(r"[^\W\d_]+", " ".join(texts).lower()))
    if found & set(words["wanted"]):
        return ""
    return next((word for word in words["against"] if word in found), "")


def _facts(told: list[Any], radiograph: Radiograph, words: dict[str, list[str]]) -> dict[str, Any]:
    height, width = radiograph.pixels.shape
    info = dict(radiograph.info)
    identity: dict[str, str] = {}
    for header in told:  # none for a picture
        # the caller decides what of it may leave
        identity = {tag: joined_text(header, tag) for tag in IDENTITY_TAGS}
        try:
            info["word_against"] = told_word(header, words)
        except Exception:  # an odd description says nothing about the image
            info["word_against"] = ""
    return {
        "height": height,
        "width": width,
        "info": info,
        "warnings": list(radiograph.warnings),
        "identity": identity,
    }


def main() -> None:
    """Serve requests until stdin ends."""
    channel = private_output()
    logging.disable(logging.CRITICAL)
    limit_memory(int(sys.argv[1]))
    for line in sys.stdin:
        write_answer(channel, *answer(json.loads(line)))


if __name__ == "__main__":
    main()
