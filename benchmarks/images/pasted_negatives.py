"""Validation radiographs with more "Not Normal" negatives, made by pasting masked lungs.

    python -m benchmarks.images.pasted_negatives --data runs/rsna --out runs/pasted

Whole "Not Normal" radiographs are rare among the validation images (51 of 913; 44 % of RSNA's). The
masked lungs of every other "Not Normal" validation image are pasted whole into a whole normal
validation radiograph, as the training does it (`data_prep.augment.composite`). OUT then holds
images/ (PNG) and labels.csv, classes.csv and cohort.csv of the pasted images and of the whole
validation radiographs, for `benchmarks.detector.pair` and `pneumonia evaluate`; pasted.txt and
real.txt list the two kinds.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.reporting import dataset_and_out
from data_prep.augment.composite import CompositeSettings, lung_mask, paste
from data_prep.dataset.reader import Dataset
from pneumonia.runtime.label_table import LABEL_FRAME, NORMAL, NOT_NORMAL

SEED = 0


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A csv."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def pasted(dataset: Dataset, folder: Path) -> list[tuple[str, str]]:
    """Write the pasted images; their names and patients."""
    whole = dataset.select("val", ["full"])
    surroundings = [i for i in whole if dataset.records[i].class_name == NORMAL]
    known = {dataset.records[i].image_id for i in whole}
    draw, feather = np.random.default_rng(SEED), CompositeSettings().feather
    made = []
    for i in dataset.select("val", ["lungs"]):
        record = dataset.records[i]
        if record.class_name != NOT_NORMAL or record.image_id in known:
            continue
        lungs = np.asarray(dataset.pixels(i))
        around = dataset.pixels(surroundings[draw.integers(len(surroundings))])
        name = f"pasted-{record.image_id}"
        Image.fromarray(paste(lungs, lung_mask(lungs), around, feather)).save(
            folder / f"{name}.png"
        )
        made.append((name, record.patient_id))
    return made


def main() -> None:
    """Paste and write."""
    dataset, out = dataset_and_out(__doc__)
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    made = pasted(dataset, images)
    labels: list[Sequence[object]] = []
    classes: list[Sequence[object]] = []
    cohort: list[Sequence[object]] = []
    real = []
    for i in dataset.select("val", ["full"]):
        record, pixels = dataset.records[i], np.asarray(dataset.pixels(i))
        real.append(record.image_id)
        Image.fromarray(pixels).save(images / f"{record.image_id}.png")
        scale = LABEL_FRAME / np.array([record.width, record.height] * 2)
        rows = [
            (record.image_id, *np.round([x1, y1, x2 - x1, y2 - y1], 3).tolist(), 1)
            for x1, y1, x2, y2 in dataset.boxes(i) * scale
        ]
        labels += rows or [(record.image_id, "", "", "", "", 0)]
        classes.append((record.image_id, record.class_name))
        cohort.append((record.image_id, record.patient_id, record.view))
    for name, patient in made:
        labels.append((name, "", "", "", "", 0))
        classes.append((name, NOT_NORMAL))
        cohort.append((name, patient, ""))
    header = ("patientId", "x", "y", "width", "height", "Target")
    write_rows(out / "labels.csv", header, labels)
    write_rows(out / "classes.csv", ("patientId", "class"), classes)
    write_rows(out / "cohort.csv", ("patientId", "nih_patient", "ViewPosition"), cohort)
    (out / "real.txt").write_text("\n".join(real) + "\n")
    (out / "pasted.txt").write_text("\n".join(name for name, _ in made) + "\n")
    print(f"{len(real)} whole radiographs, {len(made)} pasted")


if __name__ == "__main__":
    main()
