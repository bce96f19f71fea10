"""Write readings as a dataset folder for `pneumonia train` and `pneumonia evaluate`."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.annotation.agreement.consensus import StudyTruth
from data_prep.dataset.splits import SplitImage, assign_splits
from data_prep.dataset.writer import DatasetFacts, RejectedFile, new_dataset
from data_prep.importing.assemble import DatasetOptions, leak_warning, pseudonym
from data_prep.importing.decode import dataset_record, decode_image
from data_prep.parallel import ordered_map
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.label_table import LUNG_OPACITY

LEAK_FIX = "Read DICOM files: the patient is taken from their headers"


def write_training_set(
    out: Path,
    truths: Mapping[str, StudyTruth],
    paths: Mapping[str, Path],
    options: DatasetOptions | None = None,
) -> dict[str, int]:
    """Write the dataset folder; studies in doubt are left out and counted by reason.

    Args:
        out: New folder, or a dataset to replace.
        truths: image_id -> truth, boxes in pixels of the source.
        paths: image_id -> file.

    Returns:
        Number of images by class, and of left-out studies by reason.

    Raises:
        DataError: No study has a truth to learn from.
        OutputError: `out` holds something else or cannot be written.
    """
    options = options or DatasetOptions()
    rejected = [
        RejectedFile(image_id, truth.reason)
        for image_id, truth in sorted(truths.items())
        if truth.reason
    ]
    counts = Counter(file.reason for file in rejected)
    names = sorted(name for name, truth in truths.items() if not truth.reason)
    if not names:
        raise DataError(
            "No study has a truth to learn from",
            expected="a finished reading without dispute",
            found=", ".join(f"{n} x {reason}" for reason, n in counts.items()) or "no reading",
        )
    members: list[SplitImage] = []
    with new_dataset(out, "annotations") as writer:
        decode = partial(decode_image, cache_size=options.cache_size)
        decoded = ordered_map(decode, [paths[name] for name in names], 1)
        for name, image in zip(names, decoded, strict=True):
            if image.cached is None:
                rejected.append(RejectedFile(name, image.reason, image.detail))
                continue
            truth = truths[name]
            record = dataset_record(image, name, "full", pseudonym(image.patient_id, name))
            record = record._replace(class_name=truth.class_name)
            writer.add(record, image.cached, np.array(truth.boxes, np.float32).reshape(-1, 4))
            members.append(SplitImage(record.patient_id, truth.class_name == LUNG_OPACITY))
            counts[truth.class_name] += 1
        split = assign_splits(members, options.seed, options.fractions)
        writer.set_splits(split.splits)
        guessed = len({*names} & {member.patient_id for member in members})
        writer.finish(_facts(truths, options, rejected, guessed))
    return counts


def _facts(
    truths: Mapping[str, StudyTruth],
    options: DatasetOptions,
    rejected: Sequence[RejectedFile],
    guessed: int,
) -> DatasetFacts:
    key = hashlib.sha256(repr((sorted(truths.items()), options)).encode()).hexdigest()
    return DatasetFacts(
        source={"type": "annotations"},
        source_key=key,
        cache_size=options.cache_size,
        split={
            "method": "patient",
            "seed": options.seed,
            "leak_warning": leak_warning(guessed, LEAK_FIX) if guessed else None,
        },
        rejected=rejected,
        adjusted={},
    )
