"""Find images, labels, patients and given splits in the supported source folders."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data_prep.dataset.reader import KINDS, SPLITS
from data_prep.importing.decode import SEXES, VIEWS, one_of
from pneumonia.runtime.csv_tables import read_table
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.image_names import IMAGE_SUFFIXES
from pneumonia.runtime.label_table import NORMAL

_MAX_MAPPING_BYTES = 200_000_000
_NO_FINDING = "No Finding"
_OPACITIES = frozenset({"Pneumonia", "Consolidation"})  # NIH labels of an opacity of the lung


class SourceImage(NamedTuple):
    """An image file with its entries in the source's tables; absent entries are empty strings."""

    image_id: str  # the id that labels use
    kind: str  # `full`, `lungs`, `nih` or `phantom`
    path: Path  # the file
    split: str = ""  # given split
    patient_id: str = ""  # given patient
    class_name: str = ""  # given class; only for images without a row in the label csv
    view: str = ""  # `AP`, `PA` or empty
    sex: str = ""  # `F`, `M` or empty
    age: str = ""  # text, for example `56` or `056Y`
    # `labels` (from the label csv), `negative`, or `none` (no boxes are known)
    truth: str = "labels"
    weak_opacity: str = ""  # `yes` when a text-mined label names an opacity; see DatasetImage


class SourceFolder(NamedTuple):
    """A recognised source folder."""

    layout: str  # `kaggle`, `curated` or `plain`
    labels_csv: Path  # the official csv
    class_csv: Path | None  # the class csv, or None
    images: list[SourceImage]  # in a fixed order
    tables: list[Path]  # every table that was read; they are part of the source key
    rejected: list[tuple[str, str]]  # (name, reason) of listed or found files that are not usable


def open_source(folder: Path, mapping: Path | None = None) -> SourceFolder:
    """Recognise the layout of a source folder and read its tables.

    * `kaggle`: stage_2_train_labels.csv, stage_2_detailed_class_info.csv, stage_2_train_images/
    * `curated`: labels.csv, class_info.csv, images.csv that lists kind, file, split and patient
    * `plain`: labels.csv, class_info.csv and a folder dicom/ or images/, as phantoms are written

    Args:
        folder: The folder.
        mapping: RSNA's json from patientId to NIH image; None = any *mapping*.json in the folder.

    Raises:
        DataError: None of these, or a table is malformed.
    """
    if not folder.is_dir():
        raise DataError("Source is not a folder", where=str(folder))
    if (folder / "stage_2_train_labels.csv").is_file():
        return _listed_by_folder(
            folder,
            "kaggle",
            ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"),
            "stage_2_train_images",
            mapping,
        )
    if (folder / "labels.csv").is_file() and (folder / "images.csv").is_file():
        return _curated(folder)
    for images in ("dicom", "images"):
        if (folder / "labels.csv").is_file() and (folder / images).is_dir():
            return _listed_by_folder(
                folder, "plain", ("labels.csv", "class_info.csv"), images, mapping
            )
    raise DataError(
        "Source has none of the known layouts",
        expected="stage_2_train_labels.csv + stage_2_train_images/, or labels.csv + images.csv, "
        "or labels.csv + dicom/ or images/",
        where=str(folder),
        fix="Point to the unpacked challenge folder, or get it with `pneumonia data fetch-rsna`",
    )


def _listed_by_folder(
    folder: Path, layout: str, tables: tuple[str, str], images: str, mapping: Path | None
) -> SourceFolder:
    """Read a layout where the files of a folder are the images and their stems are the ids."""
    if not (folder / images).is_dir():
        raise DataError("Image folder is missing", expected=images + "/", where=str(folder))
    used = [folder / tables[0]]
    class_csv = folder / tables[1] if (folder / tables[1]).is_file() else None
    if class_csv is not None:
        used.append(class_csv)
    mapping = mapping or next(iter(sorted(folder.glob("*mapping*.json"))), None)
    patients: Mapping[str, str] = {}
    if mapping is not None:
        patients = read_mapping(mapping)
        used.append(mapping)
    kind = "phantom" if _is_phantom(folder) else "full"
    found: dict[str, SourceImage] = {}
    rejected: list[tuple[str, str]] = []
    for path in files_below(folder / images):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            rejected.append((path.name, "not_an_image_name"))
        elif not path.is_file():
            rejected.append((path.name, "dangling_link" if path.is_symlink() else "not_a_file"))
        elif path.stem in found:
            rejected.append((path.name, "second_file_of_id"))
        else:
            found[path.stem] = SourceImage(
                path.stem, kind, path, patient_id=patients.get(path.stem, "")
            )
    return SourceFolder(layout, folder / tables[0], class_csv, list(found.values()), used, rejected)


def _curated(folder: Path) -> SourceFolder:
    """Read a layout whose images.csv lists every file with its kind, split and patient."""
    listing = folder / "images.csv"
    used = [folder / "labels.csv", listing]
    class_csv = folder / "class_info.csv" if (folder / "class_info.csv").is_file() else None
    if class_csv is not None:
        used.append(class_csv)
    lists = [path for path in sorted(folder.glob("*.txt")) if path.stem.split("_")[0] in SPLITS]
    given = _given_splits(lists)
    used.extend(lists)
    found: dict[tuple[str, str], SourceImage] = {}
    rejected: list[tuple[str, str]] = []
    for _, row in read_table(str(listing), ("patientId", "kind", "file")):
        image_id, kind = row["patientId"].strip(), row["kind"].strip()
        path = _inside(folder, row["file"])
        split = row.get("split", "")
        if kind not in KINDS:
            rejected.append((image_id, "unknown_kind"))
        elif (image_id, kind) in found:
            rejected.append((image_id, "listed_twice"))
        elif path is None:
            rejected.append((image_id, "file_missing"))
        elif given.get(row["file"], split) != split and split:
            rejected.append((image_id, "given_splits_differ"))
        else:
            found[image_id, kind] = SourceImage(
                image_id,
                kind,
                path,
                split=one_of(given.get(row["file"], split), SPLITS),
                patient_id=row.get("nih_patient", "").strip(),
                view=one_of(row.get("ViewPosition", ""), VIEWS),
                sex=one_of(row.get("PatientSex", ""), SEXES),
                age=row.get("PatientAge", ""),
            )
    return SourceFolder(
        "curated", folder / "labels.csv", class_csv, list(found.values()), used, rejected
    )


def open_nih(folder: Path) -> SourceFolder:
    """Whole NIH ChestX-ray14 frames: images.csv with image, nih_patient, split, nih_labels, file.

    Frames without finding are negatives. Findings are known for the image only, mined from its
    report, so frames with one have no truth for a detector; where they name an opacity the frame
    is weakly positive. Frames that RSNA labelled are left to RSNA's labels.

    Raises:
        DataError: No such folder or table.
    """
    listing = folder / "images.csv"
    found: dict[str, SourceImage] = {}
    rejected: list[tuple[str, str]] = []
    columns = ("image", "nih_patient", "split", "nih_labels", "file")
    for _, row in read_table(str(listing), columns):
        image_id = Path(row["image"]).stem
        path = _inside(folder, row["file"])
        if image_id in found:
            rejected.append((image_id, "listed_twice"))
        elif row.get("in_rsna", "").strip().lower() == "true":
            rejected.append((image_id, "nih_frame_is_in_rsna"))
        elif path is None:
            rejected.append((image_id, "file_missing"))
        else:
            findings = {name.strip() for name in row["nih_labels"].split("|")}
            negative = findings == {_NO_FINDING}
            found[image_id] = SourceImage(
                image_id,
                "nih",
                path,
                split=one_of(row["split"], SPLITS),
                patient_id=row["nih_patient"].strip(),
                class_name=NORMAL if negative else "",
                view=one_of(row.get("view", ""), VIEWS),
                truth="negative" if negative else "none",
                weak_opacity="yes" if findings & _OPACITIES else "",
            )
    return SourceFolder("nih", listing, None, list(found.values()), [listing], rejected)


def read_mapping(path: Path) -> dict[str, str]:
    """RSNA's published mapping: patientId -> NIH patient number.

    The file is a list of objects with `subset_img_id` (patientId) and `img_id`, for example
    `00013118_008.png`, whose first part is the patient.

    Raises:
        DataError: Unreadable, too large, or another structure.
    """
    try:
        if path.stat().st_size > _MAX_MAPPING_BYTES:
            raise ValueError("too large")
        entries = json.loads(path.read_text(encoding="utf-8"))
        mapping = {
            str(entry["subset_img_id"]): str(entry["img_id"]).split("_")[0] for entry in entries
        }
        if not mapping:
            raise ValueError("empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "Patient mapping cannot be used",
            expected="a JSON list of {subset_img_id, img_id}",
            found=type(error).__name__,
            where=str(path),
        ) from None
    return mapping


def _given_splits(lists: list[Path]) -> dict[str, str]:
    given: dict[str, str] = {}
    for path in lists:
        split = path.stem.split("_")[0]
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and given.setdefault(line.strip(), split) != split:
                raise DataError("A file is listed in two splits", where=str(path))
    return given


def _is_phantom(folder: Path) -> bool:
    try:
        info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return bool(info["source"]["type"] == "phantom")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def files_below(folder: Path) -> Iterator[Path]:
    """Files of a folder and its subfolders in a fixed order; links to folders are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(root) / name


def _inside(folder: Path, name: str) -> Path | None:
    """Path of a listed file if it exists and lies inside the folder."""
    path = folder / name
    parts = Path(name).parts
    if not name or Path(name).is_absolute() or ".." in parts or not path.is_file():
        return None
    return path
