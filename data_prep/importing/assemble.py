"""Labelled image files to a dataset folder: decode, place the boxes, split by patient, write."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dataset.reader import DatasetImage
from data_prep.dataset.splits import DEFAULT_FRACTIONS, SplitImage, assign_splits
from data_prep.dataset.writer import (
    DatasetFacts,
    DatasetWriter,
    RejectedFile,
    is_up_to_date,
    new_dataset,
)
from data_prep.importing.decode import ImportedImage, dataset_record, decode_image, parse_age
from data_prep.importing.reasons import reason_detail
from data_prep.importing.sources import SourceFolder, SourceImage
from data_prep.parallel import ordered_map
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.label_table import LABEL_FRAME
from pneumonia.runtime.progress import Progress

DEFAULT_CACHE_SIZE = 512
MIN_CACHE_SIZE, MAX_CACHE_SIZE = 32, 4096
_MAX_ASPECT_ERROR = 0.02  # of width / height between a stated image size and the file's
_SHOWN_NAMES = 3  # of each reason, in an error

Frame = tuple[float, float]  # width and height of the frame of boxes


@dataclass(frozen=True)
class DatasetOptions:
    """Settings that change the result of every import.

    Attributes:
        cache_size: Longest side of a cached image in pixels.
        seed: Of the patient split, where the source gives no split.
        fractions: Shares of train, val and test, where no split is given.
    """

    cache_size: int = DEFAULT_CACHE_SIZE
    seed: int = 0
    fractions: tuple[float, ...] = DEFAULT_FRACTIONS


class Candidate(NamedTuple):
    """A labelled image before decoding."""

    image: SourceImage  # the file, with what tables state about it
    boxes: npt.NDArray[np.float64]  # float64 (n, 4) xyxy in pixels of `frame`
    class_name: str  # class of the image, or empty
    # width and height of the frame that the whole image is scaled to; None = the pixels of the
    # image
    frame: Frame | None = (LABEL_FRAME, LABEL_FRAME)
    # whether `frame` is meant as the size of the image file; then an image of another shape is
    # rejected
    is_image_size: bool = False


class Rejections:
    """Files and label entries that were left out, each with its reason."""

    def __init__(self) -> None:
        self.files: list[RejectedFile] = []

    def add(self, reason: str, name: str, detail: str = "") -> None:
        """Add a file or an entry by its name; `detail` is a sentence for people."""
        self.files.append(RejectedFile(name, reason, detail or reason_detail(reason)))

    def summary(self) -> str:
        """Counts and the first names by reason, for an error."""
        names: dict[str, list[str]] = {}
        for file in self.files:
            names.setdefault(file.reason, []).append(file.name)
        parts = [
            f"{reason}: {len(found)} ({', '.join(found[:_SHOWN_NAMES])}"
            + (", ...)" if len(found) > _SHOWN_NAMES else ")")
            for reason, found in sorted(names.items(), key=lambda item: -len(item[1]))
        ]
        return ", ".join(parts) or "none"


def check_folders(sources: Iterable[Path], out: Path, options: DatasetOptions) -> None:
    """Check the cache size, and that the output lies beside the source folders.

    Raises:
        ConfigError: Out of range, or a source and the output overlap.
    """
    if not MIN_CACHE_SIZE <= options.cache_size <= MAX_CACHE_SIZE:
        raise ConfigError(
            "Cache size is out of range",
            expected=f"{MIN_CACHE_SIZE} to {MAX_CACHE_SIZE} pixels",
            found=repr(options.cache_size),
        )
    there = out.resolve()
    for source in sources:
        here = source.resolve()
        if here == there or there in here.parents or here in there.parents:
            raise ConfigError(
                "Source and output overlap", expected="two separate folders", where=str(out)
            )


def source_key(sources: Sequence[SourceFolder], settings: Sequence[Any]) -> str:
    """Hash over settings and over name, size and time of every source file."""
    digest = hashlib.sha256()
    digest.update(json.dumps(settings).encode())
    for source in sources:
        digest.update(f"\n{source.layout}".encode())
        for path in [*source.tables, *(image.path for image in source.images)]:
            try:
                stat = path.stat()
            except OSError:
                raise DataError(
                    "File disappeared during the import", where=str(path.parent)
                ) from None
            line = f"\n{path.parent.name}/{path.name} {stat.st_size} {stat.st_mtime_ns}"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class LabelledImages(NamedTuple):
    """What the label files of an import state about its images."""

    candidates: Sequence[Candidate]
    rejections: Rejections
    adjusted: Counter[str]  # repaired label rows by kind of repair
    source: dict[str, Any]  # `source` of dataset.json


class ImportTask(NamedTuple):
    """One import."""

    folder: Path  # folder of the images, for errors
    sources: Sequence[SourceFolder]  # files that it depends on
    version: int  # higher where the same sources give a different dataset
    settings: Sequence[Any]  # those besides DatasetOptions that change its result
    read: Callable[[], LabelledImages]  # reads the label files
    leak_fix: str  # how a user states the patients of images, for the leak warning


def import_dataset(
    task: ImportTask,
    out: Path,
    options: DatasetOptions,
    workers: int | None = None,
    progress: Progress | None = None,
) -> bool:
    """Write a dataset folder, all or nothing; False when it is up to date already.

    Raises:
        DataError: Malformed labels, or no image that can be used.
        OutputError: `out` holds something else or cannot be written.
    """
    own = [task.version, options.cache_size, options.seed, list(options.fractions)]
    key = source_key(task.sources, [*own, *task.settings])
    if is_up_to_date(out, key):
        return False
    labelled = task.read()
    if not labelled.candidates:
        raise DataError(
            "No image has both a file and a usable label",
            found=labelled.rejections.summary(),
            where=str(task.folder),
        )
    kind = str(labelled.source["type"]).partition("-")[0]
    with new_dataset(out, kind) as writer:
        split = _write_images(writer, labelled, options, task.leak_fix, workers, progress)
        facts = DatasetFacts(
            labelled.source,
            key,
            options.cache_size,
            split,
            labelled.rejections.files,
            dict(+labelled.adjusted),
        )
        writer.finish(facts)
    return True


def _write_images(
    writer: DatasetWriter,
    labelled: LabelledImages,
    options: DatasetOptions,
    leak_fix: str,
    workers: int | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Decode, split and write; pixels stream to disk, only records stay in memory.

    Returns:
        `split` of dataset.json.
    """
    candidates, rejections, adjusted, _ = labelled
    decode = partial(decode_image, cache_size=options.cache_size)
    guessed = 0  # images whose patient is unknown
    members: list[SplitImage] = []
    paths = [candidate.image.path for candidate in candidates]
    results = ordered_map(decode, paths, workers, progress)
    for candidate, decoded in zip(candidates, results, strict=True):
        name = candidate.image.image_id
        if decoded.cached is None:
            rejections.add(decoded.reason, name, decoded.detail)
            continue
        boxes, fault = _placed(candidate, decoded, adjusted)
        if fault:
            rejections.add(fault, name)
            continue
        record = _record(candidate, decoded, adjusted)
        writer.add(record, decoded.cached, boxes)
        members.append(SplitImage(record.patient_id, len(boxes) > 0, candidate.image.split))
        guessed += not candidate.image.split and record.patient_id == record.image_id
    if not members:
        raise DataError("No image could be used", found=rejections.summary())
    split = assign_splits(members, options.seed, options.fractions)
    writer.set_splits(split.splits)
    return {
        "method": split.method,
        "seed": None if split.method == "given" else options.seed,
        "fractions": list(options.fractions),
        "leak_warning": _leak_warning(guessed, split.straddling, leak_fix),
    }


def leak_warning(images: int, fix: str) -> str:
    """Warning that the patients of some images are not known, so that splits may leak."""
    return (
        f"{images} images: The patients of these images are not known: images of one patient may "
        f"be in several splits, and results may be too optimistic. {fix}"
    )


def pseudonym(patient: str, image_id: str) -> str:
    """Pseudonym of a patient number; the image id without one, or where both are equal (RSNA)."""
    if not patient or patient == image_id:
        return image_id
    # a hospital's patient number must not get into a dataset folder
    return "dicom-" + hashlib.sha256(patient.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _placed(
    candidate: Candidate, decoded: ImportedImage, adjusted: Counter[str]
) -> tuple[npt.NDArray[np.float32], str]:
    """Boxes in pixels of the image, clipped to it; or the reason why the image is rejected."""
    none = np.zeros((0, 4), np.float32)
    if not len(candidate.boxes):
        return none, ""
    size = np.array([decoded.width, decoded.height], dtype=np.float64)
    frame = size if candidate.frame is None else np.array(candidate.frame, dtype=np.float64)
    if candidate.is_image_size:
        if abs(np.log(frame[0] / frame[1] * size[1] / size[0])) > _MAX_ASPECT_ERROR:
            return none, "image_shape_differs"
        adjusted["boxes_scaled_to_image"] += int((frame != size).any())
    if candidate.frame != (LABEL_FRAME, LABEL_FRAME) and decoded.rotated:
        return none, "picture_stored_rotated"
    boxes = candidate.boxes * np.tile(size / frame, 2)
    clipped = np.clip(boxes, 0.0, np.tile(size, 2))
    # less than a pixel of the frame of labels.csv, with room for rounding
    sides = (clipped[:, 2:] - clipped[:, :2]) * LABEL_FRAME / size
    if (sides < 1 - 1e-6).any():
        return none, "box_outside_image"
    # half a pixel of rounding is not worth a note
    adjusted["box_clipped_to_image"] += int((np.abs(clipped - boxes) > 0.5).any(axis=1).sum())
    return clipped.astype(np.float32), ""


def _leak_warning(guessed: int, straddling: int, fix: str) -> str | None:
    """Warning about the split: images of unknown patients, patients in two given splits."""
    warnings = []
    if guessed:
        warnings.append(leak_warning(guessed, fix))
    if straddling:
        warnings.append(f"{straddling} patients lie in several of the given splits")
    return "; ".join(warnings) or None


def _record(candidate: Candidate, decoded: ImportedImage, adjusted: Counter[str]) -> DatasetImage:
    image = candidate.image
    age_text = image.age or decoded.age
    age = parse_age(age_text)
    if age is None and age_text.strip():
        adjusted["age_not_plausible"] += 1
    patient = image.patient_id or pseudonym(decoded.patient_id, image.image_id)
    return dataset_record(decoded, image.image_id, image.kind, patient)._replace(
        class_name=candidate.class_name,
        view=image.view or decoded.view,
        sex=image.sex or decoded.sex,
        age=age,
        labelled=image.truth != "none",
        weak_opacity=image.weak_opacity,
    )
