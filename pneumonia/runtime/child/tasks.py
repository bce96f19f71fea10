"""Tasks of the child: read a file, read only its header, or list an archive."""

import gc
import hashlib
import io
import json
import os
import time
from contextlib import contextmanager
from typing import Any, BinaryIO, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from pneumonia.runtime.atomic import file_state
from pneumonia.runtime.child.archives import list_archive, list_dicomdir, member_file
from pneumonia.runtime.child.memory_file import put_bytes
from pneumonia.runtime.child.messages import MAX_HEADER_BYTES, MAX_LIST_BYTES, Parts, Wanted
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.attributes import OBJECT_UIDS, first_text, joined_text
from pneumonia.runtime.image.dicom_header import header_facts, read_codes, read_header
from pneumonia.runtime.image.radiograph import (
    check_file,
    parse_radiograph,
    refusals_of,
    unknown_format,
)
from pneumonia.runtime.image.raster import raster_format
from pneumonia.runtime.image.read_limits import ReadLimits
from pneumonia.runtime.image.selection import word_against

BLOCK = 1 << 20
STUDY = ("AccessionNumber", "StudyDate")
Record = Dict[str, Any]


class FileReader:
    """Answers requests about files, one at a time.

    Args:
        pixel_files: File descriptors that pixels are written to.
    """

    def __init__(self, limits: ReadLimits, wanted: Wanted, pixel_files: Sequence[int]) -> None:
        self._limits = limits
        self._wanted = wanted
        self._pixel_files = pixel_files
        self._tasks = {
            "read": self._read,
            "look": self._read_header,
            "archive": self._archive,
            "dicomdir": self._dicomdir,
        }

    def answer(self, request: Record) -> Tuple[Record, Parts]:
        """Handle one request.

        Args:
            request: `task` (`read`, `look`, `archive` or `dicomdir`), `path`, `member` (index in a
                zip, or -1), `known_sha256` (contents that need not be decoded again), `pixel_file`
                (index in `pixel_files`).

        Returns:
            The answer's record and its binary parts.
        """
        started = time.monotonic()
        record: Record = {"status": "read", "sha256": "", "bytes": 0}
        parts: Parts = []
        try:
            with self._file_of(request) as path:
                parts = self._tasks[request["task"]](path, request, record)
        except DicomError as error:
            record.update(status=error.status, reason=error.reason, message=error.what)
        except MemoryError:
            record.update(status="rejected", reason="resource_limit", message="Not enough memory")
        except OSError:
            record.update(status="failed", reason="unreadable", message="File cannot be read")
        if record.get("reason") == "resource_limit":
            gc.collect()  # the exception's frames hold what was read of the file
        record["seconds"] = time.monotonic() - started
        return record, parts

    @contextmanager
    def _file_of(self, request: Record) -> Iterator[str]:
        path, member = request["path"], request["member"]
        if member < 0:
            yield path
            return
        with member_file(path, member, self._limits.max_file_bytes) as unpacked:
            yield unpacked

    # --- read ---

    def _read(self, path: str, request: Record, record: Record) -> Parts:
        """Hash and decode a file; its facts go into the record."""
        before = file_state(path)
        data, record["sha256"], record["bytes"] = _contents(path, self._limits.max_file_bytes)
        if record["sha256"] == request["known_sha256"]:
            record["status"] = "known"
            return []
        try:
            with refusals_of(path):
                check_file(path, self._limits)
                radiograph = parse_radiograph(data, self._limits)
            if file_state(path) != before:
                raise DicomError("File changed while it was read", "failed", "file_changed")
        except DicomError:
            record["info"] = read_codes(io.BytesIO(data))
            raise
        pixels, info = radiograph.pixels, dict(radiograph.info)
        record.update(height=pixels.shape[0], width=pixels.shape[1])
        record.update(info=info, warnings=list(radiograph.warnings))
        parts: Parts = []
        if radiograph.header is not None:
            # the caller decides which of them may be written to a file
            record["identity"] = _identity(radiograph.header)
            record["content_sha256"] = radiograph.content_sha256
            info["word_against"] = self._word_against(radiograph.header)
            if self._wanted.header:
                header, codes = _source_header(radiograph.header, data)
                parts.append(("header", header))
                record["warnings"] = sorted(set(record["warnings"]) | set(codes))
        handle = self._pixel_files[request["pixel_file"]]
        put_bytes(handle, np.ascontiguousarray(pixels).data.cast("B"))
        record["pixel_bytes"] = pixels.size
        return parts

    def _word_against(self, dataset: Any) -> str:
        return word_against(dataset, self._wanted.words_against, self._wanted.words_wanted)

    # --- look ---

    def _read_header(self, path: str, request: Record, record: Record) -> Parts:
        """Read the header only; does not check whether the pixels can be decoded."""
        record["bytes"] = os.stat(path).st_size
        with io.open(path, "rb") as stream:
            try:
                with refusals_of(path):
                    check_file(path, self._limits)
                    record["info"] = self._facts(stream)
            except DicomError:
                record["info"] = read_codes(stream)
                raise
        return []

    def _facts(self, stream: BinaryIO) -> Record:
        head = stream.read(132)
        has_preamble = head[128:132] == b"DICM"
        name = "" if has_preamble else raster_format(head)
        if name:
            return {"format": name}
        if not has_preamble and not (self._limits.force_read and head):
            raise unknown_format(head)
        header = read_header(stream, self._limits, has_preamble)
        return dict(header_facts(header), word_against=self._word_against(header.dataset))

    # --- lists ---

    def _archive(self, path: str, request: Record, record: Record) -> Parts:
        return _listing(list_archive(path, self._limits.max_file_bytes), record)

    def _dicomdir(self, path: str, request: Record, record: Record) -> Parts:
        return _listing(list_dicomdir(path), record)


def _identity(dataset: Any) -> Dict[str, str]:
    uids = {keyword: first_text(dataset, keyword) for keyword in OBJECT_UIDS}
    return dict(uids, **{keyword: joined_text(dataset, keyword) for keyword in STUDY})


def _contents(path: str, max_bytes: int) -> Tuple[bytes, str, int]:
    """The first `max_bytes` bytes of a file; SHA-256 (hex) and size of the whole file."""
    with io.open(path, "rb") as stream:
        # read() takes as much memory as it is asked for, however small the file
        data = stream.read(min(max_bytes, os.fstat(stream.fileno()).st_size))
        digest = hashlib.sha256(data)
        size = len(data)
        block = stream.read(BLOCK)
        while block:
            digest.update(block)
            size += len(block)
            block = stream.read(BLOCK)
    return data, digest.hexdigest(), size


def _source_header(dataset: Any, file_data: bytes) -> Tuple[bytes, List[str]]:
    """The attributes that results take over, as a DICOM file in memory, and warnings about them.

    Empty when they cannot be read: the image is scored but gets no DICOM results.
    """
    from pneumonia.runtime.results import header_bytes, header_warnings, source_header

    try:
        header = source_header(dataset, file_data)
        data = header_bytes(header)
        codes = header_warnings(dataset, header)
    except Exception:  # foreign headers hold anything
        return b"", []
    return (data, codes) if len(data) <= MAX_HEADER_BYTES else (b"", codes)


def _listing(found: Sequence[Any], record: Record) -> Parts:
    record["status"] = "listed"
    data = json.dumps(found).encode("ascii")
    if len(data) > MAX_LIST_BYTES:
        raise DicomError("Archive has too many members", "rejected", "resource_limit")
    return [("listed", data)]
