"""Files, folders, zip archives and DICOMDIRs."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pneumonia.runtime.child import DecodingChild
from pneumonia.runtime.child.archives import DICOMDIR, is_unsafe
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image_names import printable
from pneumonia.runtime.progress import Progress
from pneumonia.scoring.image.find import FoundFile, walk
from pneumonia.scoring.inputs import IsDone
from pneumonia.scoring.settings import ScoreSettings

ZIP_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True)
class FileInput:
    """A file or a folder."""

    source: Path  # the path; never written to
    kind: str = "files"
    endpoint: str = ""

    def check(self, out: Path) -> None:
        """Refuse an output folder inside of the input."""
        is_directory = self.source.name.upper() == DICOMDIR and self.source.is_file()
        _check_apart(self.source.parent if is_directory else self.source, out)

    def query(self, settings: ScoreSettings) -> list[FoundFile]:
        """Every file, with the members of archives in place of the archives."""
        entries = walk(self.source)
        with DecodingChild(settings.limits) as worker:
            if not self.source.is_dir() and entries[0].relative.upper() == DICOMDIR:
                return _of_dicomdir(entries[0], worker)
            found: list[FoundFile] = []
            for entry in entries:
                found += _expanded(entry, worker)
            return found + _missing(entries, worker)

    def fetch(
        self, entries: list[FoundFile], folder: Path, is_done: IsDone, progress: Progress | None
    ) -> list[FoundFile]:
        """Return the entries unchanged: files need no fetching."""
        return entries


def _check_apart(source: Path, out: Path) -> None:
    """Refuse to write into the input folder; raises ConfigError."""
    if not os.path.lexists(source):
        raise ConfigError("Input does not exist", expected="a file or folder", where=str(source))
    inside, outside = out.resolve(), source.resolve()
    if outside.is_dir() and (inside == outside or outside in inside.parents):
        raise ConfigError(
            "Output folder is inside the input folder",
            expected="a folder outside of " + str(source),
            found=str(out),
            fix="The input folder is never written to; choose another OUTPUT",
        )


def _is_archive(entry: FoundFile) -> bool:
    if entry.relative.lower().endswith(".zip") or "/" in entry.relative:
        return entry.relative.lower().endswith(".zip")
    try:
        with open(entry.path, "rb") as stream:
            return stream.read(4) == ZIP_SIGNATURE
    except OSError:
        return False


def _expanded(entry: FoundFile, worker: DecodingChild) -> list[FoundFile]:
    """The members of an archive, or the entry itself."""
    if entry.status or not _is_archive(entry):
        return [entry]
    answer = worker.list_archive(entry.path)
    if answer.status != "listed":
        return [replace(entry, status=answer.status, reason=answer.reason)]
    if not answer.listed:
        return [replace(entry, status="skipped", reason="empty_archive")]
    return [
        FoundFile(entry.path, f"{entry.relative}/{printable(name)}", status, reason, index)
        for index, name, status, reason in answer.listed
    ]


def _of_dicomdir(entry: FoundFile, worker: DecodingChild) -> list[FoundFile]:
    """The images that a DICOMDIR given as INPUT lists."""
    answer = worker.list_dicomdir(entry.path)
    if answer.status != "listed":
        return [replace(entry, status=answer.status, reason=answer.reason)]
    root = os.path.dirname(entry.path)
    return [_referenced(root, "", name) for name in answer.listed]


def _missing(entries: Iterable[FoundFile], worker: DecodingChild) -> list[FoundFile]:
    """Images that a DICOMDIR below the input lists but that do not exist."""
    missing = []
    for entry in entries:
        if entry.status or os.path.basename(entry.relative).upper() != DICOMDIR:
            continue
        folder = entry.relative[: -len(DICOMDIR)]
        for name in worker.list_dicomdir(entry.path).listed:
            found = _referenced(os.path.dirname(entry.path), folder, name)
            missing += [found] if found.status else []
    return missing


def _referenced(root: str, folder: str, name: str) -> FoundFile:
    relative = folder + printable(name)
    if is_unsafe(name):
        return FoundFile(os.path.join(root, DICOMDIR), relative, "rejected", "unsafe_path")
    path = _resolved(root, name.split("/"))
    if path is None:
        return FoundFile(os.path.join(root, name), relative, "failed", "missing_file")
    return FoundFile(path, relative)


def _resolved(root: str, parts: list[str]) -> str | None:
    """A file by its name in a DICOMDIR; media are mounted in upper or lower case."""
    path = root
    for part in parts:
        exact = os.path.join(path, part)
        if not os.path.lexists(exact):
            try:
                names = os.listdir(path)
            except OSError:
                return None
            same = [name for name in sorted(names) if name.upper() == part.upper()]
            if not same:
                return None
            exact = os.path.join(path, same[0])
        path = exact
    return path if os.path.isfile(path) else None
