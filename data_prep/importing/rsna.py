"""Import radiographs and labels into a dataset folder, all or nothing."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dataset.reader import LABEL_FRAME, DatasetImage
from data_prep.dataset.splits import DEFAULT_FRACTIONS, SplitImage, assign_splits
from data_prep.dataset.writer import DatasetFacts, DatasetWriter, is_up_to_date, new_dataset
from data_prep.importing.decode import ImportedImage, dataset_record, decode_image, parse_age
from data_prep.importing.labels import SourceLabels, read_labels
from data_prep.importing.sources import SourceFolder, SourceImage, open_nih, open_source
from data_prep.parallel import ordered_map
from pneumonia.runtime.errors import ConfigError, DataError
from pneumonia.runtime.label_table import LUNG_OPACITY
from pneumonia.runtime.progress import Progress

VERSION = 2  # increase when the same sources give a different dataset
DEFAULT_CACHE_SIZE = 512
MIN_CACHE_SIZE, MAX_CACHE_SIZE = 32, 4096
_MAX_NAMES = 1000  # names kept per reason in dataset.json; the count is always complete

LEAK_WARNING = (
    "The patients of these images are not known: images of one patient may be in several splits, "
    "and results may be too optimistic. Put pneumonia-challenge-dataset-mappings_2018.json into "
    "the source folder, or give it with --mapping"
)


class ImportOptions(NamedTuple):
    """Settings that change the result of an import.

    Attributes:
        cache_size: Longest side of a cached image in pixels.
        seed: Seed of the patient split, where the source gives no split.
        fractions: Shares of train, val and test, where no split is given.
        mapping: RSNA's json from patientId to NIH image; None = look for it in the source.
        nih: Folder of whole NIH frames to add; None = none.
    """

    cache_size: int = DEFAULT_CACHE_SIZE
    seed: int = 0
    fractions: tuple[float, ...] = DEFAULT_FRACTIONS
    mapping: Path | None = None
    nih: Path | None = None


class _Candidate(NamedTuple):
    """A labelled image before decoding; boxes are in the frame of 1024."""

    image: SourceImage
    boxes: npt.NDArray[np.float64]
    class_name: str


class _Rejected:
    """Counts and names of left-out images, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, []).append(name)

    def as_json(self) -> dict[str, Any]:
        return {
            reason: {"count": len(names), "names": sorted(names)[:_MAX_NAMES]}
            for reason, names in sorted(self._names.items())
        }

    def summary(self) -> str:
        counts = {reason: len(names) for reason, names in self._names.items()}
        return ", ".join(f"{reason}: {n}" for reason, n in Counter(counts).most_common()) or "none"


def import_rsna(
    source: Path,
    out: Path,
    options: ImportOptions | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> bool:
    """Write the dataset folder of an RSNA source; see `data_prep.importing.sources.open_source`.

    Args:
        source: Folder with images and labels; never written to.
        out: New folder, or a dataset to replace; it is created only when complete.
        options: See ImportOptions.
        workers: Processes; None = one per core.
        progress: Called as (done, total, note).

    Returns:
        False when `out` is up to date with the same files and options and nothing was done.

    Raises:
        DataError: Unknown layout, malformed tables, or no image that can be used.
        ConfigError: An option is out of range, or source and out overlap.
        OutputError: `out` holds something else or cannot be written.
    """
    options = options or ImportOptions()
    _check_options(source, out, options)
    sources = [open_source(source, options.mapping)]
    if options.nih is not None:
        sources.append(open_nih(options.nih))
    key = _source_key(sources, options)
    if is_up_to_date(out, key):
        return False
    labels = read_labels(sources[0].labels_csv, sources[0].class_csv)
    rejected = _Rejected()
    candidates = _match(sources, labels, rejected)
    if not candidates:
        raise DataError(
            "No image has both a file and a usable label",
            found=rejected.summary(),
            where=str(source),
        )
    facts = DatasetFacts(
        source={"type": "rsna-" + sources[0].layout, "nih": options.nih is not None},
        source_key=key,
        cache_size=options.cache_size,
        split={},
        rejected={},
        adjusted=dict(labels.adjusted),
    )
    with new_dataset(out) as writer:
        _fill(writer, candidates, facts, options, rejected, (workers, progress))
    return True


def _check_options(source: Path, out: Path, options: ImportOptions) -> None:
    if not MIN_CACHE_SIZE <= options.cache_size <= MAX_CACHE_SIZE:
        raise ConfigError(
            "Cache size is out of range",
            expected=f"{MIN_CACHE_SIZE} to {MAX_CACHE_SIZE} pixels",
            found=repr(options.cache_size),
        )
    here, there = source.resolve(), out.resolve()
    if here == there or there in here.parents or here in there.parents:
        raise ConfigError(
            "Source and output overlap", expected="two separate folders", where=str(out)
        )


def _source_key(sources: Sequence[SourceFolder], options: ImportOptions) -> str:
    """Hash over options and over name, size and time of every source file."""
    digest = hashlib.sha256()
    settings = [VERSION, options.cache_size, options.seed, list(options.fractions)]
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
            digest.update(line.encode())
    return digest.hexdigest()


def _match(
    sources: Sequence[SourceFolder], labels: SourceLabels, rejected: _Rejected
) -> list[_Candidate]:
    """Join files with labels; reject files and labels without a valid counterpart."""
    candidates = []
    for source in sources:
        for name, reason in source.rejected:
            rejected.add(reason, name)
        for image in source.images:
            reason = _fault(image, labels)
            if reason:
                rejected.add(reason, image.image_id)
            else:
                candidates.append(_candidate(image, labels))
    present = {image.image_id for source in sources for image in source.images}
    present.update(name for source in sources for name, _ in source.rejected)  # counted above
    for image_id in labels.boxes:
        if image_id not in present:
            rejected.add("no_image", image_id)
    for image_id, reason in labels.rejected.items():
        if image_id not in present:
            rejected.add(reason, image_id)
    return sorted(candidates, key=lambda c: (c.image.kind, c.image.image_id))


def _fault(image: SourceImage, labels: SourceLabels) -> str:
    """Reason why an image has no usable truth; empty when it has one."""
    if image.truth != "labels" or image.image_id in labels.boxes:
        return ""
    return labels.rejected.get(image.image_id, "no_label")


def _candidate(image: SourceImage, labels: SourceLabels) -> _Candidate:
    if image.truth != "labels":
        return _Candidate(image, np.zeros((0, 4)), image.class_name)
    boxes = labels.boxes[image.image_id]
    # without a class table a negative may be normal or not
    return _Candidate(
        image, boxes, labels.classes.get(image.image_id, LUNG_OPACITY * (len(boxes) > 0))
    )


def _fill(
    writer: DatasetWriter,
    candidates: Sequence[_Candidate],
    facts: DatasetFacts,
    options: ImportOptions,
    rejected: _Rejected,
    how: tuple[int | None, Progress | None],
) -> None:
    """Decode, split and write; pixels stream to disk, only records stay in memory."""
    paths = [candidate.image.path for candidate in candidates]
    decode = partial(decode_image, cache_size=options.cache_size)
    adjusted = Counter(facts.adjusted)
    guessed = 0  # images whose patient is unknown
    members: list[SplitImage] = []
    results = ordered_map(decode, paths, *how)
    for candidate, decoded in zip(candidates, results, strict=True):
        if decoded.cached is None:
            rejected.add(decoded.reason, candidate.image.image_id)
            continue
        record = _record(candidate, decoded, adjusted)
        scale = np.array([decoded.width, decoded.height] * 2) / LABEL_FRAME
        writer.add(record, decoded.cached, (candidate.boxes * scale).astype(np.float32))
        positive = len(candidate.boxes) > 0
        members.append(SplitImage(record.patient_id, positive, candidate.image.split))
        guessed += not candidate.image.split and record.patient_id == record.image_id
    if not members:
        raise DataError("No image could be read", found=rejected.summary())
    split = assign_splits(members, options.seed, options.fractions)
    writer.set_splits(split.splits)
    summary = {
        "method": split.method,
        "seed": None if split.method == "given" else options.seed,
        "fractions": list(options.fractions),
        "leak_warning": _leak_warning(guessed, split.straddling),
    }
    writer.finish(
        facts._replace(split=summary, rejected=rejected.as_json(), adjusted=dict(adjusted))
    )


def _leak_warning(guessed: int, straddling: int) -> str | None:
    """Warning about the split: images of unknown patients, patients in two given splits."""
    warnings = []
    if guessed:
        warnings.append(f"{guessed} images: {LEAK_WARNING}")
    if straddling:
        warnings.append(f"{straddling} patients lie in several of the given splits")
    return "; ".join(warnings) or None


def _record(candidate: _Candidate, decoded: ImportedImage, adjusted: Counter[str]) -> DatasetImage:
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


def pseudonym(dicom_patient_id: str, image_id: str) -> str:
    """Pseudonym for the patient id of a DICOM header; in RSNA's files that is the image id."""
    if not dicom_patient_id or dicom_patient_id == image_id:
        return image_id
    # a hospital's patient number must not get into a dataset folder
    return "dicom-" + hashlib.sha256(dicom_patient_id.encode()).hexdigest()[:16]
