"""Download the RSNA challenge with the user's own Kaggle client.

The competition's rules do not allow redistribution: every user accepts them and downloads with
their own account. This module reads and stores no credentials.
"""

import shutil
import subprocess
import zipfile
from pathlib import Path

from pneumonia.runtime.errors import DataError, OutputError, os_errors_as

COMPETITION = "rsna-pneumonia-detection-challenge"
RULES_URL = f"https://www.kaggle.com/c/{COMPETITION}/rules"
NEEDED_BYTES = 8_000_000_000  # the archive and its unpacked content
LABELS = "stage_2_train_labels.csv"

# (parts of the client's message in lower case, error, fix)
_CLIENT_ERRORS = (
    (
        ("could not find kaggle.json", "401", "unauthorized", "unauthenticated", "authenticate",
         "missing username"),
        "Kaggle login failed",
        "Create an API token on https://www.kaggle.com/settings and store it as described there",
    ),
    (
        ("403", "forbidden", "accept", "rules"),
        "Kaggle refuses the download",
        f"Log in, join the competition and accept its rules once on {RULES_URL}",
    ),
    (
        ("404", "not found"),
        "The competition was not found on Kaggle",
        "Update the client: python -m pip install --upgrade kaggle",
    ),
    (
        ("connection", "resolve", "timed out", "proxy", "ssl", "max retries"),
        "Kaggle cannot be reached",
        "Check network and proxy, then repeat: the client continues where it stopped",
    ),
)  # fmt: skip


def fetch_rsna(out: Path, client: str = "kaggle") -> Path:
    """Download and unpack the challenge.

    Args:
        out: Folder for the archive and its contents.
        client: Name or path of the Kaggle client.

    Returns:
        The folder to import.

    Raises:
        DataError: No client, no token, rules not accepted, no network, or a damaged archive.
        OutputError: Not enough space, or the folder cannot be written.
    """
    if (out / LABELS).is_file() and (out / "stage_2_train_images").is_dir():
        return out
    program = shutil.which(client)
    if program is None:
        raise DataError(
            "The Kaggle client is not installed",
            expected=f"a program {client!r} on the PATH",
            fix="python -m pip install kaggle, then store an API token as its README describes",
        )
    with os_errors_as(OutputError, "Cannot create folder", out):
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
    if free < NEEDED_BYTES:
        raise OutputError(
            "Not enough space for the challenge",
            expected=f"{NEEDED_BYTES / 1e9:.0f} GB",
            found=f"{free / 1e9:.1f} GB",
            where=str(out),
        )
    _download(program, out)
    _unpack(out / f"{COMPETITION}.zip", out)
    return out


def _download(program: str, out: Path) -> None:
    command = [program, "competitions", "download", "-c", COMPETITION, "-p", str(out)]
    with os_errors_as(DataError, "The Kaggle client cannot be started", program):
        # errors may be written to either stream
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        text, _ = process.communicate()
    if process.returncode == 0:
        return
    lowered = text.lower()
    for words, what, fix in _CLIENT_ERRORS:
        if any(word in lowered for word in words):
            raise DataError(what, fix=fix)
    lines = [line for line in text.splitlines() if line.strip()]
    raise DataError(
        "The Kaggle client failed",
        found=repr(lines[-1][:200]) if lines else f"exit code {process.returncode}",
        fix=f"Try it by hand: {' '.join(command)}",
    )


def _unpack(archive: Path, out: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(out)  # zipfile itself keeps members inside the folder
    except FileNotFoundError:
        raise DataError(
            "The Kaggle client wrote no archive", expected=archive.name, where=str(out)
        ) from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            "Archive is damaged",
            found=str(error),
            where=str(archive),
            fix="Delete it and fetch again",
        ) from None
    except OSError as error:
        raise OutputError(
            "Cannot unpack", found=error.strerror or str(error), where=str(out)
        ) from None
    archive.unlink()
