"""Which files an input holds, in a fixed order, and the name each image gets."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image_names import image_ids, printable
from pneumonia.scoring.image.expected import ExpectedObject

# Suffixes no radiograph has: export folders contain such files; they are not failures.
OTHER_FILES = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".htm", ".md", ".pdf", ".log",
    ".ini", ".yaml", ".yml", ".db", ".exe", ".inf", ".css", ".js", ".dll", ".u8",
)  # fmt: skip


@dataclass(frozen=True)
class FoundFile:
    """Something that may be an image: a file, a member of a zip, an object of an archive."""

    path: str  # path in the file system; empty when a server's image is not fetched
    relative: str  # path below the input, as printable text with `/`
    # status known without reading it (`skipped`, `rejected`, `failed`), else empty
    status: str = ""
    reason: str = ""  # reason of the status (`not_a_file`, `encrypted`, ...)
    member: int = -1  # index in the zip at `path`; -1 for a file of its own
    # coded facts from a server's answer to the query
    codes: dict[str, str | None] = field(default_factory=dict)
    detail: str = ""  # what a server answered when it did not deliver the file, such as `HTTP 404`
    # what a file from a server must hold; None for local files
    expected: ExpectedObject | None = None
    # set by `assign_names`: name of the image in predictions.csv, unique in the input
    image_id: str = ""
    has_unscored_type: bool = False  # whether the name is that of a file type which is never scored


def _kind(path: str) -> str:
    """`folder`, `file`, or the reason to skip it."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "broken_link" if os.path.islink(path) else "unreadable"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "not_a_file"


def _walk(folder: str, parents: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """(path, reason to skip or empty) of everything below a folder, sorted by name."""
    try:
        status = os.stat(folder)
        names = sorted(os.listdir(folder))
    except OSError:
        yield folder, "unreadable"
        return
    here = parents | {(status.st_dev, status.st_ino)}
    for name in names:
        path = os.path.join(folder, name)
        kind = _kind(path)
        if kind != "folder":
            yield path, "" if kind == "file" else kind
            continue
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in here:
            yield path, "symlink_loop"
        else:
            yield from _walk(path, here)


def walk(source: Path) -> list[FoundFile]:
    """Every file below a folder (or the file itself), each exactly once, in a fixed order.

    Symbolic links are followed unless they lead back; FIFOs, sockets and devices are never opened.

    Raises:
        ConfigError: The input does not exist.
    """
    if not os.path.lexists(source):
        raise ConfigError("Input does not exist", expected="a file or folder", where=str(source))
    if source.is_dir():
        found = list(_walk(str(source), frozenset()))
        relatives = [Path(path).relative_to(source).as_posix() for path, _ in found]
    else:
        kind = _kind(str(source))
        found = [(str(source), "" if kind == "file" else kind)]
        relatives = [source.name]
    return [
        FoundFile(path, printable(relative), "skipped" if reason else "", reason)
        for (path, reason), relative in zip(found, relatives, strict=True)
    ]


def assign_names(entries: list[FoundFile]) -> list[FoundFile]:
    """Give each entry a unique path, by which results refer to it, and the name of its image.

    The name is the path's stem, or the relative path where several files share a stem.
    """
    relatives = _made_unique([entry.relative for entry in entries])
    names = image_ids(relatives)
    return [
        replace(
            entry,
            relative=relative,
            image_id=name,
            has_unscored_type=_has_unscored_type(entry.relative),
        )
        for entry, relative, name in zip(entries, relatives, names, strict=True)
    ]


def _numbered(relative: str) -> Iterator[str]:
    return (f"{relative}#{number}" for number in count(2))


def _made_unique(relatives: list[str]) -> list[str]:
    """Make repeated paths unique by appending `#2`, `#3`.

    A zip may hold a name twice, and names with different control characters may be equal once
    they are printable.
    """
    taken = set(relatives)
    numbered: dict[str, Iterator[str]] = {}
    found = []
    for relative in relatives:
        if relative not in numbered:
            numbered[relative] = _numbered(relative)
            found.append(relative)
        else:
            found.append(next(path for path in numbered[relative] if path not in taken))
            taken.add(found[-1])
    return found


def _has_unscored_type(relative: str) -> bool:
    name = relative.rsplit("/", 1)[-1].lower()
    return name.startswith(".") or name.endswith(OTHER_FILES)


def find_files(source: Path) -> list[FoundFile]:
    """`walk` with names; zip archives stay closed (see `scoring.inputs`)."""
    return assign_names(walk(source))
