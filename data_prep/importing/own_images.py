"""Import of one's own radiographs and boxes into a dataset folder, all or nothing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.importing.assemble import (
    Candidate,
    DatasetOptions,
    Frame,
    ImportTask,
    LabelledImages,
    Rejections,
    check_folders,
    import_dataset,
    pseudonym,
)
from data_prep.importing.box_files.box_csv import read_box_csv, read_patients
from data_prep.importing.box_files.coco import read_coco
from data_prep.importing.box_files.rows import BoxLabels, BoxRow, PatientRow
from data_prep.importing.box_files.yolo import find_class_file, label_files, read_yolo
from data_prep.importing.image_index import ImageIndex
from data_prep.importing.sources import SourceFolder, SourceImage
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.image_names import printable
from pneumonia.runtime.label_table import LUNG_OPACITY, NO_ID
from pneumonia.runtime.progress import Progress

VERSION = 1  # increase when the same sources give a different dataset
LEAK_FIX = (
    "State them in a column patient_id of the csv, or in a table image,patient_id given with "
    "--patients; of DICOM files the header's PatientID is used"
)
_FAULTS_WITHOUT_IMAGE = ("unknown_image", "malformed_row", NO_ID)
_MAX_LISTED = 12  # categories named in an error


@dataclass(frozen=True)
class OwnImageOptions(DatasetOptions):
    """Settings of `import_own_images`; the fields of `DatasetOptions`, and these.

    Attributes:
        frame: Width and height that boxes refer to; (1, 1) = shares of the image; None = pixels of
            the image, or of the size that a COCO file states for it.
        categories: Whose boxes are lung opacities; () = the only one of the file.
        class_file: Names of YOLO's classes; None = look beside the labels.
        patients: Table of image, patient_id and split; None = none.
        unlabelled_negative: Images that the labels do not name have no opacity; else they are left
            out.
    """

    frame: Frame | None = None
    categories: tuple[str, ...] = ()
    class_file: Path | None = None
    patients: Path | None = None
    unlabelled_negative: bool = False


class _LabelFile:
    """A label file or folder: its format, the files that belong to it, and its reader."""

    def __init__(self, labels: Path, options: OwnImageOptions) -> None:
        suffix = labels.suffix.lower()
        self._labels = labels
        self._class_file: Path | None = None
        self.format = "yolo" if labels.is_dir() else {".json": "coco", ".csv": "csv"}.get(suffix)
        if not labels.exists():
            raise DataError("Labels are missing", where=str(labels))
        if self.format is None:
            raise DataError(
                "Format of the labels is not known",
                expected="COCO (.json), a table (.csv) or a folder of YOLO text files",
                found=repr(labels.name),
            )
        self.files = [labels]
        if self.format == "yolo":
            self._class_file = options.class_file or find_class_file(labels)
            self.files = label_files(labels)
            if self._class_file is not None:
                self.files.append(self._class_file)
            if options.frame is not None:
                raise ConfigError("YOLO boxes are shares of the image", fix="Leave out --frame")
        elif options.class_file is not None:
            raise ConfigError("A file of classes belongs to YOLO labels only", where=str(labels))

    def read(self) -> BoxLabels:
        if self.format == "coco":
            return read_coco(self._labels)
        if self.format == "csv":
            return read_box_csv(self._labels)
        return read_yolo(self._labels, self._class_file)


@dataclass
class _ImageLabels:
    """Labels of one image, collected from rows."""

    boxes: set[tuple[float, ...]] = field(default_factory=set)
    frame: Frame | None = None
    class_names: set[str] = field(default_factory=set)
    negative: bool = False
    labelled: bool = False
    faults: list[str] = field(default_factory=list)
    prefixes: set[str] = field(default_factory=set)
    patients: set[str] = field(default_factory=set)
    splits: set[str] = field(default_factory=set)

    def fault(self) -> str:
        """Reason to reject the image; empty when its labels can be used."""
        if len(self.prefixes) > 1:
            return "ambiguous_name"
        if self.faults:
            return self.faults[0]
        if len(self.patients) > 1 or len(self.splits) > 1:
            return "patient_conflict"
        if len(self.class_names) > 1:
            return "class_conflict"
        return "target_mismatch" if self.negative and self.boxes else ""


def import_own_images(
    images: str | Path,
    labels: str | Path,
    out: str | Path,
    options: OwnImageOptions | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> bool:
    """Write the dataset folder of labelled images; an image with a faulty label is rejected.

    Args:
        images: Folder of DICOM, PNG or JPEG files, with subfolders; never written to.
        labels: COCO (`.json`), a table of boxes (`.csv`), or a folder of YOLO text files.
        out: New folder, or a dataset to replace; it is created only when complete.
        options: Frame and categories of the boxes, patients, split.
        workers: Processes; None = one per core.
        progress: Called with (done, total, note).

    Returns:
        False when `out` is up to date with the same files and options and nothing was done.

    Raises:
        DataError: No images, malformed labels, or no image that can be used.
        ConfigError: An option is out of range or missing, or a source and out overlap.
        OutputError: `out` holds something else or cannot be written.
    """
    options = options or OwnImageOptions()
    images, labels, out = Path(images), Path(labels), Path(out)
    check_folders([images, *([labels] if labels.is_dir() else [])], out, options)
    index = ImageIndex(images)
    file = _LabelFile(labels, options)
    tables = [*file.files, *([options.patients] if options.patients else [])]
    found = [SourceImage(name, "full", path) for name, path in index.paths.items()]
    source = SourceFolder(str(file.format), labels, None, found, tables, index.rejected)

    def read() -> LabelledImages:
        content = file.read()
        rows, given = content.rows, options.patients
        patients = [*content.patients, *(read_patients(given) if given else [])]
        rejections, adjusted = Rejections(), Counter[str]()
        for name, reason in index.rejected:
            rejections.add(reason, name)
        chosen = _choose_categories(rows, options.categories)
        collected = _collect(rows, index, chosen, rejections, adjusted)
        _add_patients(collected, patients, index)
        candidates = _candidates(index, collected, content, options, rejections)
        origin = {"type": f"own-{file.format}", "categories": sorted(chosen)}
        return LabelledImages(candidates, rejections, adjusted, origin)

    settings = (options.frame, options.categories, options.unlabelled_negative)
    task = ImportTask(images, [source], VERSION, settings, read, LEAK_FIX)
    return import_dataset(task, out, options, workers, progress)


def _choose_categories(rows: Iterable[BoxRow], wanted: Sequence[str]) -> set[str]:
    """Categories of lung opacities.

    Raises:
        ConfigError: The file has several and none was named, or has not one that was named.
    """
    counts = Counter(row.category for row in rows if row.box_xyxy is not None)
    listed = ", ".join(f"{name!r}: {n}" for name, n in counts.most_common(_MAX_LISTED))
    if not wanted:
        if len(counts) > 1:
            raise ConfigError(
                "Labels have several categories",
                found=listed,
                fix="Name those that are lung opacities with --category, once for each",
            )
        return {*counts}
    folded = {name.strip().casefold() for name in wanted}
    chosen = {name for name in counts if name.strip().casefold() in folded}
    missing = folded - {name.strip().casefold() for name in chosen}
    if missing:
        raise ConfigError(
            f"No box has the category {sorted(missing)[0]!r}", found=listed or "no box"
        )
    return chosen


def _collect(
    rows: Iterable[BoxRow],
    index: ImageIndex,
    chosen: set[str],
    rejections: Rejections,
    adjusted: Counter[str],
) -> dict[str, _ImageLabels]:
    """image_id -> its labels; rejects rows of images that are not there, once per name."""
    collected: dict[str, _ImageLabels] = {}
    rejected: set[tuple[str, str]] = set()
    for row in rows:
        match = index.find(row.image)
        if match.image_id is None:
            reason = row.fault if row.fault in _FAULTS_WITHOUT_IMAGE else match.fault
            if (row.image, reason) not in rejected:
                rejected.add((row.image, reason))
                rejections.add(reason, printable(row.image))
            continue
        labels = collected.setdefault(match.image_id, _ImageLabels())
        adjusted["image_has_other_suffix"] += match.other_suffix and not labels.prefixes
        labels.prefixes.add(match.prefix)
        _add_row(labels, row, chosen, adjusted)
    return collected


def _add_row(labels: _ImageLabels, row: BoxRow, chosen: set[str], adjusted: Counter[str]) -> None:
    labels.labelled = True
    if row.category and row.category not in chosen and (row.box_xyxy or row.fault):
        adjusted["box_of_other_category"] += 1
        return
    if row.fault:
        labels.faults.append(row.fault)
    elif row.box_xyxy is not None:
        if row.box_xyxy in labels.boxes:
            adjusted["repeated_row"] += 1
            return
        labels.boxes.add(row.box_xyxy)
        labels.frame = row.frame
    elif row.negative:
        if row.category and row.category in chosen:
            labels.faults.append("category_without_box")
        labels.negative = True
        labels.class_names.update({row.class_name} - {""})


def _add_patients(
    collected: dict[str, _ImageLabels], patients: Iterable[PatientRow], index: ImageIndex
) -> None:
    for row in patients:
        image_id = index.find(row.image).image_id
        if image_id is not None:
            labels = collected.setdefault(image_id, _ImageLabels())
            labels.patients.update({row.patient} - {""})
            labels.splits.update({row.split} - {""})


def _candidates(
    index: ImageIndex,
    collected: dict[str, _ImageLabels],
    content: BoxLabels,
    options: OwnImageOptions,
    rejections: Rejections,
) -> list[Candidate]:
    candidates = []
    for image_id, path in sorted(index.paths.items()):
        labels = collected.get(image_id, _ImageLabels())
        fault = labels.fault()
        if not fault and not labels.labelled and not options.unlabelled_negative:
            fault = "no_label"
        if fault:
            rejections.add(fault, image_id)
            continue
        patient = next(iter(labels.patients), "")
        image = SourceImage(
            image_id,
            "full",
            path,
            split=next(iter(labels.splits), ""),
            patient_id=pseudonym(patient, image_id) if patient else "",
        )
        stated = options.frame is None
        candidates.append(
            Candidate(
                image,
                np.array(sorted(labels.boxes), dtype=np.float64).reshape(-1, 4),
                LUNG_OPACITY if labels.boxes else next(iter(labels.class_names), ""),
                labels.frame if stated else options.frame,
                stated and content.frame_is_image_size and labels.frame is not None,
            )
        )
    return candidates
