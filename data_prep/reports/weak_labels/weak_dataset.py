"""Radiographs with weak labels as a dataset folder, alone or beside one with boxes."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.dataset.reader import Dataset, DatasetImage
from data_prep.dataset.writer import (
    CachedImage,
    DatasetFacts,
    DatasetWriter,
    RejectedFile,
    new_dataset,
)
from data_prep.importing.assemble import DEFAULT_CACHE_SIZE, pseudonym
from data_prep.importing.decode import ImportedImage, dataset_record, decode_image
from data_prep.parallel import ordered_map
from data_prep.reports.weak_labels.opacity_label import NO
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.image_names import IMAGE_SUFFIXES, image_ids, printable
from pneumonia.runtime.progress import Progress

KIND = "full"
Labels = Mapping[str, tuple[str, str]]  # image_id -> (report_id, weak label)


class WeakSources(NamedTuple):
    """Image sources of a weakly labelled dataset."""

    images: Path | None  # folder of radiographs named like the images of the reports; None = none
    # dataset with boxes to copy, whose images also get weak labels; None = none
    join: Dataset | None


def write_weak_dataset(
    out: Path,
    labels: Labels,
    sources: WeakSources,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write a dataset whose manifest has the column `weak_opacity`.

    Images of `sources.join` keep their boxes and labels; a report does not change them.
    New images: `no` is a negative for training; `yes` and `uncertain` have no boxes and are
    unlabelled: `yes` is used only by an image-level output, `uncertain` not at all. New images are
    in `train`, unless the joined dataset has the patient in another split; there they are
    unlabelled, since weak labels are not used for evaluation.

    Args:
        workers: Processes that decode; None = one per core.

    Returns:
        Number of images by outcome.

    Raises:
        DataError: No image has a report.
        OutputError: `out` holds something else or cannot be written.
    """
    paths = _image_files(sources.images)
    joined = sources.join
    size = int(joined.info["cache"]["max_side"]) if joined is not None else DEFAULT_CACHE_SIZE
    counts: Counter[str] = Counter()
    with new_dataset(out, "weak") as writer:
        splits = _copy(writer, joined, labels, counts) if joined is not None else {}
        taken = {record.image_id for record in joined.records} if joined is not None else set()
        chosen = [name for name in paths if name in labels and name not in taken]
        rejected = [RejectedFile(name, "without_report") for name in paths if name not in labels]
        decode = partial(decode_image, cache_size=size)
        decoded = ordered_map(decode, [paths[name] for name in chosen], workers, progress)
        for name, image in zip(chosen, decoded, strict=True):
            if image.cached is None:
                rejected.append(RejectedFile(name, "unreadable", image.detail))
                continue
            record = _record(name, image, labels[name], splits)
            writer.add(record, image.cached, np.zeros((0, 4), np.float32))
            counts[record.weak_opacity] += 1
        if not any(counts[label] for label in ("yes", "no", "uncertain", "joined_with_report")):
            raise DataError(
                "No image has a report",
                expected="files named like the reports' images",
                found=f"{len(paths)} images, {len(labels)} names",
                where=str(sources.images) if sources.images else None,
            )
        writer.finish(_facts(joined, labels, size, rejected))
    return dict(counts + Counter(file.reason for file in rejected))


def _image_files(folder: Path | None) -> dict[str, Path]:
    """Image id, as in `pneumonia score` -> file."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise DataError("Image folder is missing", where=str(folder))
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    names = image_ids([printable(path.relative_to(folder).as_posix()) for path in paths])
    return dict(zip(names, paths, strict=True))


def _copy(
    writer: DatasetWriter, joined: Dataset, labels: Labels, counts: Counter[str]
) -> dict[str, str]:
    """Copy a dataset with its labels; returns the split of each patient."""
    splits: dict[str, str] = {}
    for i, record in enumerate(joined.records):
        weak = labels[record.image_id][1] if record.image_id in labels else record.weak_opacity
        counts["joined"] += 1
        counts["joined_with_report"] += bool(weak)
        splits.setdefault(record.patient_id, record.split)
        cached = CachedImage(joined.pixels(i), joined.cache[i].sha256)
        writer.add(record._replace(weak_opacity=weak), cached, joined.boxes(i))
    return splits


def _record(
    image_id: str, image: ImportedImage, label: tuple[str, str], splits: Mapping[str, str]
) -> DatasetImage:
    report_id, weak = label
    # all images of a report are of one patient
    patient = pseudonym(image.patient_id, "report-" + _short_hash(report_id))
    split = splits.get(patient, "train")
    negative = weak == NO and split == "train"
    record = dataset_record(image, image_id, KIND, patient)
    return record._replace(split=split, labelled=negative, weak_opacity=weak)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts(
    joined: Dataset | None, labels: Labels, size: int, rejected: Sequence[RejectedFile]
) -> DatasetFacts:
    digest = hashlib.sha256(repr(sorted(labels.items())).encode())
    digest.update(joined.fingerprint.encode() if joined is not None else b"")
    source = {"type": "weak-reports", "joined": joined.info["source"] if joined else None}
    split = {
        "method": "weak images train, joined images as they were",
        "seed": None,
        "leak_warning": joined.info["split"].get("leak_warning") if joined else None,
    }
    return DatasetFacts(source, digest.hexdigest(), size, split, rejected, {})
