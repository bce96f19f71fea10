"""Find the radiographs of a folder and record why some cannot be read."""

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from data_prep.annotation.workspace.database import WorkspaceDatabase
from pneumonia.runtime.errors import ConfigError, DataError, DicomError
from pneumonia.runtime.image.attributes import first_text
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.image_names import IMAGE_SUFFIXES, image_ids, printable

_DICM_AT = 128
_TAKEN = re.compile(r"\d{8}(\d{6})?")


class StudyFile(NamedTuple):
    """A file that is, or should be, a radiograph."""

    relative: str  # path below the folder, with `/`, printable
    image_id: str  # same as in `pneumonia score`; see `image_names.image_ids`
    path: Path  # the file
    stamp: str  # size and modification time; a different stamp means that the file changed


class RadiographCheck(NamedTuple):
    """Properties of a radiograph that the workspace stores."""

    width: int = 0  # columns in pixels
    height: int = 0  # rows in pixels
    view: str = ""  # view position such as `PA`; empty when unknown
    reason: str = ""  # code for why the file cannot be read; empty when it can
    patient: str = ""  # hash of PatientID; empty without one
    # date and time of the study, `YYYYMMDD` with or without `HHMMSS`; empty when unknown
    taken: str = ""
    row_mm: float | None = None  # row spacing in mm from the header; None when unknown
    column_mm: float | None = None  # column spacing in mm; None when unknown


def find_studies(folder: Path) -> list[StudyFile]:
    """Radiographs below a folder, sorted by path: DICOM by content, PNG and JPEG by suffix.

    Raises:
        ConfigError: No such folder.
        DataError: Nothing in it is a radiograph.
    """
    if not folder.is_dir():
        raise ConfigError("Studies are not a folder", where=str(folder))
    paths = list(_walk(folder))
    relatives = [printable(path.relative_to(folder).as_posix()) for path in paths]
    found = []
    for path, relative, image_id in zip(paths, relatives, image_ids(relatives), strict=True):
        status = path.stat()
        found.append(
            StudyFile(
                relative,
                image_id,
                path,
                f"{status.st_size} {status.st_mtime_ns}",
            )
        )
    if not found:
        raise DataError(
            "Folder holds no radiograph", expected="DICOM, PNG or JPEG files", where=str(folder)
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root) / name
            if not name.startswith(".") and path.is_file() and _is_radiograph(path):
                yield path


def _has_image_suffix(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_radiograph(path: Path) -> bool:
    if _has_image_suffix(path):
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(_DICM_AT + 4)[_DICM_AT:] == b"DICM"
    except OSError:
        return False


def check_radiograph(path: Path) -> RadiographCheck:
    """Read a radiograph and its properties; a failure is returned as `reason`, not raised."""
    try:
        image = read_radiograph(str(path))
    except DicomError as error:
        return RadiographCheck(reason=error.reason)
    except (DataError, OSError):
        return RadiographCheck(reason="unreadable")
    height, width = image.pixels.shape
    row_mm, column_mm = image.info.get("spacing_mm") or (None, None)
    made = RadiographCheck(
        width, height, str(image.info.get("view") or ""), row_mm=row_mm, column_mm=column_mm
    )
    if image.header is None:
        return made
    patient = first_text(image.header, "PatientID").strip()
    taken = first_text(image.header, "StudyDate") + first_text(image.header, "StudyTime")[:6]
    hashed = hashlib.sha256(patient.encode("utf-8", "replace")).hexdigest() if patient else ""
    return made._replace(patient=hashed, taken=taken if _TAKEN.fullmatch(taken) else "")


class PriorStudy(NamedTuple):
    """An earlier study of the same patient."""

    key: int  # key of the study in this workspace
    view: str  # view position; empty when unknown
    days: int | None  # days between the two studies; None when a date is not valid


def spacing_mm(database: WorkspaceDatabase, key: int) -> tuple[float, float] | None:
    """Row and column spacing of a study's pixels in mm; None when the header has none."""
    row = database.row("SELECT row_mm, column_mm FROM details WHERE study = ?", key)
    return (row[0], row[1]) if row and row[0] and row[1] else None


def priors(database: WorkspaceDatabase, key: int) -> list[PriorStudy]:
    """Earlier readable studies of the same patient, the latest first."""
    rows = database.rows(
        "SELECT s.key, s.view, p.taken, d.taken AS now FROM details d "
        "JOIN details p ON p.patient = d.patient AND p.taken < d.taken AND p.taken <> '' "
        "JOIN studies s ON s.key = p.study WHERE d.study = ? AND d.patient <> '' "
        "AND s.present = 1 AND s.reason = '' ORDER BY p.taken DESC, s.key",
        key,
    )
    return [PriorStudy(row["key"], row["view"], _days(row["taken"], row["now"])) for row in rows]


def _days(earlier: str, later: str) -> int | None:
    try:
        first, last = (datetime.strptime(text[:8], "%Y%m%d").date() for text in (earlier, later))
    except ValueError:
        return None
    return (last - first).days
