"""Zip archives and DICOMDIRs, read in the child process; no member is unpacked under its name.

Members are addressed by their index in the archive, so that neither `../../etc/passwd` nor two
members of one name can do harm. Both are refused as well, since a regular export has none.
"""

import os
import re
import stat
import tempfile
import zipfile
import zlib
from contextlib import contextmanager, suppress
from typing import IO, Any, Iterator, List, Tuple

from pneumonia.runtime.child.memory_file import memory_file
from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.attributes import all_values, first_text

MAX_MEMBERS = 100000
BLOCK = 1 << 20
# Deflate reaches 1,032 : 1 on zeros; radiographs stay below 20 : 1, blank images aside.
MAX_RATIO, RATIO_FROM_BYTES = 200, 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
DICOMDIR = "DICOMDIR"
_ENCRYPTED = 0x1 | 0x40

Listed = Tuple[int, str, str, str]  # index (-1: not in the archive), name, status, reason


def is_unsafe(name: str) -> bool:
    """Whether a path leads out of the folder it is unpacked into."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or name.startswith(("/", "\\")) or bool(re.match(r"^[A-Za-z]:", name))


def _verdict(info: zipfile.ZipInfo, max_bytes: int) -> Tuple[str, str]:
    """Status and reason of a member that are known without reading it."""
    ratio = info.file_size / max(1, info.compress_size)
    rules = (
        (is_unsafe(info.orig_filename), "rejected", "unsafe_path"),
        (stat.S_ISLNK(info.external_attr >> 16), "skipped", "not_a_file"),
        (info.filename.lower().endswith(".zip"), "skipped", "nested_archive"),
        (bool(info.flag_bits & _ENCRYPTED), "rejected", "encrypted"),
        (info.compress_type not in METHODS, "rejected", "archive_compression"),
        (info.file_size > max_bytes, "rejected", "resource_limit"),
        (info.file_size > RATIO_FROM_BYTES and ratio > MAX_RATIO, "rejected", "resource_limit"),
    )
    return next(((status, reason) for holds, status, reason in rules if holds), ("", ""))


def list_archive(path: str, max_bytes: int) -> List[Listed]:
    """The members of a zip, with a status where it is known without reading.

    Args:
        max_bytes: Larger members are refused.

    Raises:
        DicomError: The archive as a whole is refused.
    """
    size = os.stat(path).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            files = [(index, info) for index, info in enumerate(infos) if not info.is_dir()]
            if len(files) > MAX_MEMBERS:
                raise DicomError("Archive has too many members", "rejected", "resource_limit")
            if sum(info.compress_size for _, info in files) > size:
                # members that overlap: a bomb that grows with the square of its size
                raise DicomError("Members of the archive overlap", "rejected", "resource_limit")
            found = [(i, info.filename, *_verdict(info, max_bytes)) for i, info in files]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError, EOFError):
        raise DicomError("Archive is damaged", "rejected", "archive_damaged") from None
    return found + _missing_members(path, found, max_bytes)


def _missing_members(path: str, found: List[Listed], max_bytes: int) -> List[Listed]:
    """Files that a DICOMDIR in the archive lists and the archive lacks."""
    missing: List[Listed] = []
    present = {name.upper() for _, name, _, _ in found}
    for index, name, status, _ in found:
        if status or os.path.basename(name).upper() != DICOMDIR:
            continue
        with suppress(DicomError), member_file(path, index, max_bytes) as unpacked:
            folder = name[: -len(DICOMDIR)]
            missing += [
                (-1, folder + image, "failed", "missing_file")
                for image in list_dicomdir(unpacked)
                if not is_unsafe(image) and (folder + image).upper() not in present
            ]
    return missing


def list_dicomdir(path: str) -> List[str]:
    """Paths of the images a DICOMDIR names, relative to it, with `/`.

    Raises:
        DicomError: It cannot be read.
    """
    import pydicom

    try:
        records = pydicom.dcmread(path, force=False).DirectoryRecordSequence
        names = [_referenced(record) for record in records]
    except Exception:  # parsers of foreign files raise anything
        raise DicomError("DICOMDIR is damaged", "rejected", "dicomdir_damaged") from None
    images = list(dict.fromkeys(name for name in names if name))
    if len(images) > MAX_MEMBERS:
        raise DicomError("DICOMDIR names too many files", "rejected", "resource_limit")
    return images


def _referenced(record: Any) -> str:
    """Path of the file that an image record refers to, empty for other records."""
    if first_text(record, "DirectoryRecordType") != "IMAGE":
        return ""
    return "/".join(str(part).strip() for part in all_values(record, "ReferencedFileID"))


@contextmanager
def _anonymous_file() -> Iterator[Tuple[IO[bytes], str]]:
    """A temporary file and its path; it is deleted on exit."""
    if os.path.isdir("/proc/self/fd"):
        with memory_file("member") as stream:
            yield stream, f"/proc/self/fd/{stream.fileno()}"
        return
    with tempfile.NamedTemporaryFile(prefix="pneumonia-member-") as stream:
        yield stream, stream.name


_last: List[Tuple[Tuple[str, int, int], zipfile.ZipFile]] = []


def _opened(path: str) -> zipfile.ZipFile:
    """The archive; the last one stays open, since reading its directory again is slow."""
    status = os.stat(path)
    key = (path, status.st_mtime_ns, status.st_size)
    if not _last or _last[0][0] != key:
        while _last:
            _last.pop()[1].close()
        _last.append((key, zipfile.ZipFile(path)))
    return _last[0][1]


@contextmanager
def member_file(path: str, index: int, max_bytes: int) -> Iterator[str]:
    """A member as a file of its own.

    Args:
        index: Index of the member, from `list_archive`.
        max_bytes: Most bytes read; the size that the archive states is not trusted.

    Yields:
        A path that can be opened while the context lasts.

    Raises:
        DicomError: The member is encrypted, damaged or too large.
    """
    with _anonymous_file() as (stream, name):
        try:
            archive = _opened(path)
            with archive.open(archive.infolist()[index]) as source:
                left = max_bytes
                block = source.read(BLOCK)
                while block:
                    left -= len(block)
                    if left < 0:
                        raise DicomError("Member is too large", "rejected", "resource_limit")
                    stream.write(block)
                    block = source.read(BLOCK)
        except (zipfile.BadZipFile, zlib.error, EOFError, IndexError, ValueError):
            raise DicomError("Member is damaged", "failed", "archive_damaged") from None
        except NotImplementedError:
            raise DicomError(
                "Compression method of the member is not supported",
                "rejected",
                "archive_compression",
            ) from None
        except RuntimeError:  # what zipfile raises without a password
            raise DicomError("Member is encrypted", "rejected", "encrypted") from None
        stream.flush()
        yield name
