"""Which files an input holds, in a fixed order, and the name each image gets."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pneumonia.runtime.errors import ConfigError

IMAGE_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class FoundFile:
    """A directory entry that is not a folder.

    Attributes:
        path: Where it is, as the system names it.
        relative: Path below the input, as printable text with `/`.
        image_id: Name of the image in predictions.csv; unique in the input.
        skipped: Why it cannot be an image (`not_a_file`, `broken_link`, ...), or empty.
    """

    path: str
    relative: str
    image_id: str
    skipped: str = ""


def printable(name: str) -> str:
    """A path as text, with undecodable bytes and control characters as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def stem(name: str) -> str:
    """File name without an image suffix; other dots stay, since DICOM names are often UIDs."""
    base, suffix = os.path.splitext(name)
    return base if base and suffix.lower() in IMAGE_SUFFIXES else name


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


def find_files(source: Path) -> list[FoundFile]:
    """Every file below a folder (or the file itself), each exactly once.

    Symbolic links are followed unless they lead back; FIFOs, sockets and devices are never opened.
    An image is named by its file's stem; files that would share a name get their relative path.

    Raises:
        ConfigError: The input does not exist.
    """
    if not os.path.lexists(source):
        raise ConfigError("Input does not exist", expected="a file or folder", where=str(source))
    if source.is_dir():
        entries = list(_walk(str(source), frozenset()))
        relatives = [Path(path).relative_to(source).as_posix() for path, _ in entries]
    else:
        kind = _kind(str(source))
        entries = [(str(source), "" if kind == "file" else kind)]
        relatives = [source.name]
    shown = [printable(relative) for relative in relatives]
    names = _image_ids(shown)
    return [
        FoundFile(path, relative, name, reason)
        for (path, reason), relative, name in zip(entries, shown, names, strict=True)
    ]


def _image_ids(relatives: list[str]) -> list[str]:
    """The shortest of stem, relative path without suffix, relative path that nobody shares."""
    candidates = []
    for path in relatives:
        folder, base = os.path.split(path)
        candidates.append((stem(base), os.path.join(folder, stem(base)), path))
    shared = Counter(name for triple in candidates for name in set(triple))
    names = []
    for triple in candidates:
        free = [name for name in triple if shared[name] == 1]
        names.append(free[0] if free else triple[-1])
    # What still collides (a name made of another's path) is told apart by its place in the order.
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name}#{seen[name]}"
    return names
