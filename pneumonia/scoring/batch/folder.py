"""The output folder of a scoring run: checked and locked before anything is scored."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.errors import OutputError, os_errors_as
from pneumonia.runtime.output_folders import refuse_other_kinds

SALT = ".salt"
LOCK = ".lock"
FETCHED = "fetched"  # images of a server, kept during the batch only: they contain patient data
AUDIT_LOG = "audit.jsonl"
# What a batch writes, and what marks a dataset, a bundle and a run of `train` or `prune`.
_OWN_NAMES = (
    "run.json", "manifest.jsonl", "worklist.csv", "predictions.csv", "report.html", "report.pdf",
    "report", "studies", "overlay", "dicom", "fhir",
)  # fmt: skip
_OTHER_FOLDERS = ("dataset.json", "spec.json", "config.yaml")


def refuse_other_files(out: Path) -> None:
    """Refuse an output folder that holds a dataset, a model, a run, or files that we would replace.

    Raises:
        OutputError: One of them is there, and the folder is not the output of an earlier batch.
    """
    if (out / SALT).is_file() or (out / AUDIT_LOG).is_file():
        return
    refuse_other_kinds(str(out), (*_OTHER_FOLDERS, *_OWN_NAMES), "that of an earlier batch")


class FolderInUse(OutputError):  # noqa: N818 - the condition's name
    """Another run writes to the output folder; try again when it has ended."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


@contextmanager
def locked_folder(out: Path) -> Iterator[str]:
    """Create and lock the output folder.

    Yields:
        The folder's salt: keys made with it cannot be matched with those of another folder.

    Raises:
        FolderInUse: Another run uses it.
        OutputError: It cannot be created or written, or holds other files.
    """
    refuse_other_files(out)
    with os_errors_as(OutputError, "Output folder cannot be written", out):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(handle, out)
        yield _salt(out)
    finally:
        os.close(handle)


def _lock(handle: int, out: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: two runs on one folder are not noticed there
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FolderInUse(
            "Another run writes to this output folder", where=str(out), fix="Wait for it to end"
        ) from None


def _salt(out: Path) -> str:
    path = out / SALT
    try:
        salt = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        salt = ""
    if not re.fullmatch(r"[0-9a-f]{32}", salt):
        salt = secrets.token_hex(16)
        write_text(str(path), salt + "\n")
    return salt


def remove_parts(out: Path) -> None:
    """Delete partly written files of killed runs, here and one folder below, by their names."""
    for folder in (out, *(path for path in out.iterdir() if path.is_dir())):
        if folder.is_symlink():
            continue
        for part in folder.glob(".part-*"):
            with suppress(OSError):  # a part that stays is never read as a result
                part.unlink() if part.is_file() else shutil.rmtree(part)


def remove_fetched(out: Path) -> None:
    """Delete images that were fetched from a server.

    Raises:
        OutputError: They cannot be deleted; reported because they contain patient data.
    """
    try:
        shutil.rmtree(out / FETCHED)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            "Fetched images cannot be removed", found=error.strerror, where=str(out / FETCHED)
        ) from None
