"""Detectors on disturbed copies of labelled radiographs, thresholds unchanged.

    python -m benchmarks.images.robustness_sweep rsna/full256/images rsna/full/images \
        --labels rsna/labels.csv --cohort rsna/images.csv --subset rsna/val_full.txt \
        --out benchmarks/results/robustness.json

The models of benchmarks/models (dense to 60x) unless others are named with --model NAME=BUNDLE,
each at its own frozen threshold. Disturbances: `evaluation.study.perturb.standard_sweep`, the truth
moved with the image. Changes are paired, 95 % intervals over patients. Also: how many inverted
copies the reader would mark as inverted, and how far the pixels of a 12-bit DICOM copy are from the
image's, with a window and without one. Writes --out and a table beside it (.md).
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from benchmarks.detector.pair import OWN, find_images, named_bundles, radiograph_parser
from benchmarks.reporting import (
    environment,
    interval_text,
    markdown_table,
    publish,
    rounded,
)
from evaluation.analysis.catalogue import match_study
from evaluation.analysis.robustness import robustness_table
from evaluation.metrics.bootstrap import Resampler
from evaluation.study.cases import join
from evaluation.study.cohort import read_cohort
from evaluation.study.labels import read_labels
from evaluation.study.perturb import perturb, perturbation_text, standard_sweep
from pneumonia.cli.terminal import progress_bar
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.image.polarity import LIMIT, polarity_score
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.storage.bundle import load_bundle

Pixels = npt.NDArray[np.uint8]
STEP_12_BIT, LOWEST_12_BIT = 12, 300  # grey value g is stored as 300 + 12 g
BATCH = 16
SHOWN = {
    "rsna": "RSNA score",
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def as_12_bit_dicom(pixels: Pixels, windowed: bool) -> bytes:
    """The image as a 12-bit MONOCHROME2 file, with the window that shows it as it is or without."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID = meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Modality, file.ViewPosition = "DX", "PA"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    if windowed:
        width = 255 * STEP_12_BIT + 1
        file.WindowWidth = width
        file.WindowCenter = LOWEST_12_BIT + (width - 1) / 2 + 0.5
    file.PixelData = (pixels.astype("<u2") * STEP_12_BIT + LOWEST_12_BIT).tobytes()
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def pixels_from_dicom(images: Mapping[str, Pixels], windowed: bool, folder: Path) -> dict[str, Any]:
    """How far the reader's pixels of 12-bit copies are from the images' own."""
    path = folder / "copy.dcm"
    means, largest = [], []
    for pixels in images.values():
        path.write_bytes(as_12_bit_dicom(pixels, windowed))
        found = read_radiograph(str(path)).pixels.astype(int)
        gap = np.abs(found - pixels)
        means.append(float(gap.mean()))
        largest.append(int(gap.max()))
    path.unlink()
    return {
        "n": len(images),
        "mean_grey_levels": round(float(np.mean(means)), 3),
        "median_of_largest": int(np.median(largest)),
        "largest": max(largest),
    }


def score(
    detector: Detector, images: Mapping[str, Pixels], name: str, progress: Progress
) -> Iterator[Prediction]:
    """Boxes of every image, disturbed as `name` says; `none` leaves it as it is."""
    ids = list(images)
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        disturbed = [images[i] if name == "none" else perturb(images[i], name, i) for i in part]
        yield from detector.predict_batch(disturbed, part)
        progress(start + len(part), len(ids), name)


def table(rows: Sequence[Mapping[str, Any]], head: str) -> str:
    """The rows as Markdown."""

    def cell(row: Mapping[str, Any], metric: str) -> str:
        part = "values" if row["name"] == "none" else "deltas"
        return interval_text(row[part][metric], "" if part == "values" else "+")

    lines = []
    for row in rows:
        text = "undisturbed" if row["name"] == "none" else perturbation_text(row["name"])
        lines.append((row["model"], text, *(cell(row, metric) for metric in SHOWN)))
    return f"{head}\n\n" + markdown_table(("model", "copy", *SHOWN.values()), lines)


def main() -> None:
    """Disturb, score, compare, write."""
    parser = radiograph_parser(__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    bundles = named_bundles(options.model)
    labels = read_labels(options.labels)
    files = find_images(options, labels)
    images = {name: read_radiograph(str(path)).pixels for name, path in files.items()}
    cohort = read_cohort(options.cohort) if options.cohort else None
    rows = []
    for model, path in bundles.items():
        bundle = load_bundle(str(path))
        detector = Detector(bundle, open_engine(bundle, "auto", threads=1))
        cases = {}
        with progress_bar(f"score {model}") as progress:
            for name in chain(("none",), standard_sweep()):
                found = list(score(detector, images, name, progress))
                cases[name] = join(labels, found, cohort, list(images))
        study = match_study(cases.pop("none"), {OWN: bundle.threshold(OWN)})
        resampler = Resampler(study.cases.patients, study.cases.positive, options.draws, 0)
        with progress_bar("intervals") as progress:
            results = robustness_table(study, OWN, cases, resampler, progress)
        rows += [
            {
                "model": model,
                "name": row.name,
                "values": {metric: rounded(row.values[metric]) for metric in SHOWN},
                "deltas": {metric: rounded(row.deltas[metric]) for metric in SHOWN},
            }
            for row in results
        ]
    marked = sum(polarity_score(255 - pixels) < LIMIT for pixels in images.values())
    document = {
        "benchmark": "robustness_sweep",
        "n_images": len(images),
        "n_positive": int(study.cases.positive.sum()),
        "n_patients": len(set(study.cases.patients.tolist())),
        "draws": options.draws,
        "inverted_copies_marked": marked,
        "dicom_12_bit": {
            text: pixels_from_dicom(images, windowed, options.out.parent)
            for text, windowed in (("with window", True), ("without window", False))
        },
        **environment("numpy", "onnxruntime", "pneumonia"),
        "rows": rows,
    }
    head = (
        f"{len(images)} radiographs, {document['n_positive']} positive,"
        f" {document['n_patients']} patients. First row of a model: its results; the other rows:"
        f" change against it, paired. {marked} of the {len(images)} inverted copies are marked as"
        " inverted by the reader. Research use only, not a medical device."
    )
    publish(options.out, document, table(rows, head))


if __name__ == "__main__":
    main()
