"""Import radiographs and labels into a dataset folder, all or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.importing.assemble import (
    Candidate,
    DatasetOptions,
    ImportTask,
    LabelledImages,
    Rejections,
    check_folders,
    import_dataset,
)
from data_prep.importing.labels import SourceLabels, read_labels
from data_prep.importing.sources import SourceFolder, SourceImage, open_nih, open_source
from pneumonia.runtime.label_table import LUNG_OPACITY
from pneumonia.runtime.progress import Progress

VERSION = 2  # increase when the same sources give a different dataset
LEAK_FIX = (
    "Put pneumonia-challenge-dataset-mappings_2018.json into the source folder, or give it with "
    "--mapping"
)


@dataclass(frozen=True)
class ImportOptions(DatasetOptions):
    """Settings of `import_rsna`; the fields of `DatasetOptions`, and these.

    Attributes:
        mapping: RSNA's json from patientId to NIH image; None = look for it in the source.
        nih: Folder of whole NIH frames to add; None = none.
    """

    mapping: Path | None = None
    nih: Path | None = None


def import_rsna(
    source: str | Path,
    out: str | Path,
    options: ImportOptions | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> bool:
    """Write the dataset folder of RSNA radiographs and boxes.

    The layouts of `source` are those of `pneumonia data import-rsna`.

    Args:
        source: Folder with images and labels; never written to.
        out: New folder, or a dataset to replace; it is created only when complete.
        options: Size of the cache, split, mapping, frames of NIH.
        workers: Processes; None = one per core.
        progress: Called with (done, total, note).

    Returns:
        False when `out` is up to date with the same files and options and nothing was done.

    Raises:
        DataError: Unknown layout, malformed tables, or no image that can be used.
        ConfigError: An option is out of range, or source and out overlap.
        OutputError: `out` holds something else or cannot be written.
    """
    options, source, out = options or ImportOptions(), Path(source), Path(out)
    check_folders([source], out, options)
    sources = [open_source(source, options.mapping)]
    if options.nih is not None:
        sources.append(open_nih(options.nih))

    def read() -> LabelledImages:
        labels = read_labels(sources[0].labels_csv, sources[0].class_csv)
        rejections = Rejections()
        origin = {"type": "rsna-" + sources[0].layout, "nih": options.nih is not None}
        candidates = _match(sources, labels, rejections)
        return LabelledImages(candidates, rejections, labels.adjusted, origin)

    task = ImportTask(source, sources, VERSION, (), read, LEAK_FIX)
    return import_dataset(task, out, options, workers, progress)


def _match(
    sources: Sequence[SourceFolder], labels: SourceLabels, rejections: Rejections
) -> list[Candidate]:
    """Join files with labels; reject files and labels without a valid counterpart."""
    candidates = []
    for source in sources:
        for name, reason in source.rejected:
            rejections.add(reason, name)
        for image in source.images:
            reason = _fault(image, labels)
            if reason:
                rejections.add(reason, image.image_id)
            else:
                candidates.append(_candidate(image, labels))
    present = {image.image_id for source in sources for image in source.images}
    present.update(name for source in sources for name, _ in source.rejected)  # counted above
    for image_id in labels.boxes:
        if image_id not in present:
            rejections.add("no_image", image_id)
    for image_id, reason in labels.rejected.items():
        if image_id not in present:
            rejections.add(reason, image_id)
    return sorted(candidates, key=lambda c: (c.image.kind, c.image.image_id))


def _fault(image: SourceImage, labels: SourceLabels) -> str:
    """Reason why an image has no usable truth; empty when it has one."""
    if image.truth != "labels" or image.image_id in labels.boxes:
        return ""
    return labels.rejected.get(image.image_id, "no_label")


def _candidate(image: SourceImage, labels: SourceLabels) -> Candidate:
    if image.truth != "labels":
        return Candidate(image, np.zeros((0, 4)), image.class_name)
    boxes = labels.boxes[image.image_id]
    # without a class table a negative may be normal or not
    return Candidate(
        image, boxes, labels.classes.get(image.image_id, LUNG_OPACITY * (len(boxes) > 0))
    )
