"""SHA-256 and size of the files of a checkpoint, as a bundle's manifest has them.

`checksums.json` lies in `best/` and `last/`, written with them at once. A
checkpoint without one is not checked.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pneumonia.runs.names import CHECKSUMS_FILE
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.json_files import find_json_object
from pneumonia.runtime.storage.bundle import file_record, file_sha256

SCHEMA = "pneumonia.checksums/1"


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` of every file that is in a folder."""
    files = {
        path.name: file_record(str(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != CHECKSUMS_FILE
    }
    write_json(str(folder / CHECKSUMS_FILE), {"schema": SCHEMA, "files": files})


def check_files(folder: Path, names: Collection[str] | None = None) -> None:
    """Compare files of a checkpoint with their checksums; nothing without `checksums.json`.

    Args:
        names: Files to compare, of those that are listed; None = all that are listed.

    Raises:
        ArtefactError: A listed file is missing or changed, or the list is damaged.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return
    for name, entry in _listed(path).items():
        if names is not None and name not in names:
            continue
        file = folder / name
        digest = file_sha256(str(file))
        if digest != entry.get("sha256"):
            raise ArtefactError(
                "File of the run differs from its checksum",
                expected=f"{entry.get('bytes')} bytes, sha256 {str(entry.get('sha256'))[:12]}...",
                found=f"{file.stat().st_size} bytes, sha256 {digest[:12]}...",
                where=str(file),
                fix="Bring the file back from a copy, use the other checkpoint, or train again",
            )


def _listed(path: Path) -> dict[str, dict[str, Any]]:
    try:
        files = find_json_object(str(path))["files"]
        if all(
            isinstance(entry, dict) and Path(name).name == name for name, entry in files.items()
        ):
            return dict(files)
    except (KeyError, TypeError, AttributeError):
        pass
    raise ArtefactError("Checksums of the run are damaged", where=str(path))
