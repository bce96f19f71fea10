"""Check a dataset folder and report its contents and faults before training."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dataset.duplicates import (
    DuplicatePair,
    ImageFeatures,
    exact_duplicates,
    image_features,
    near_duplicates,
)
from data_prep.dataset.reader import CACHE_FILE, SPLITS, Dataset, DatasetImage
from pneumonia.runtime.age_text import age_band
from pneumonia.runtime.label_table import LABEL_FRAME
from pneumonia.runtime.model.boxes import iou_matrix
from pneumonia.runtime.progress import Progress, report_progress

SCHEMA = "pneumonia.audit/1"
PERCENTILES = (5, 25, 50, 75, 95)
MAX_LISTED = 200  # pairs and patients listed in the report; the counts are always complete


def audit_dataset(dataset: Dataset, progress: Progress | None = None) -> dict[str, Any]:
    """Read every image and table of a dataset and report contents and faults.

    Returns:
        The content of audit.json; a function of the dataset only.
    """
    hashes, features = _read_images(dataset, progress)
    damaged = [i for i, entry in enumerate(dataset.cache) if hashes[i] != entry.sha256]
    duplicates = _duplicates(dataset, hashes, features)
    straddling = straddling_patients(dataset.records)
    boxes = box_report(dataset)
    intact = not damaged and _cache_file_intact(dataset)
    leak_warning = (dataset.info.get("split") or {}).get("leak_warning")
    exact, near = duplicates["exact"]["across_splits"], duplicates["near"]["across_splits"]
    return {
        "schema": SCHEMA,
        "fingerprint": dataset.fingerprint,
        "source": dataset.info.get("source"),
        "split": dataset.info.get("split"),
        "checksums_match": intact,
        "checks": [
            _check("checksums match", intact, f"{len(damaged)} damaged images"),
            _check("every split has images", *_empty_splits(dataset)),
            _check("the patient of every image is known", not leak_warning, *_leak(leak_warning)),
            _check("patients stay in one split", not straddling, f"{len(straddling)} patients"),
            _check("no image is in two splits", not exact, f"{exact} groups of equal images"),
            _check("no near duplicate is in two splits", not near, f"{near} pairs"),
            _check(
                "boxes lie inside their image",
                not boxes["out_of_bounds"],
                f"{boxes['out_of_bounds']} boxes",
            ),
            _check("boxes have an area", not boxes["degenerate"], f"{boxes['degenerate']} boxes"),
        ],
        "counts": count_groups(dataset),
        "sizes": _sizes(dataset),
        "boxes": boxes,
        "damaged_images": _names(dataset, damaged),
        "patients_in_several_splits": straddling[:MAX_LISTED],
        "duplicates": duplicates,
        "rejected": dataset.info.get("rejected", {}),
        "adjusted": dataset.info.get("adjusted", {}),
    }


def straddling_patients(records: Iterable[DatasetImage]) -> list[str]:
    """Patients with images in more than one split."""
    splits: dict[str, set[str]] = {}
    for record in records:
        splits.setdefault(record.patient_id, set()).add(record.split)
    return sorted(patient for patient, found in splits.items() if len(found) > 1)


def count_groups(dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    """Images, positives, boxes and patients by split, kind, class, view, sex and age band."""
    keys: dict[str, Callable[[DatasetImage], str]] = {
        "split": lambda record: record.split,
        "split and kind": lambda record: f"{record.split} {record.kind}",
        "class": lambda record: (
            record.class_name or ("no class" if record.labelled else "unlabelled")
        ),
        "view": lambda record: record.view or "unknown",
        "sex": lambda record: record.sex or "unknown",
        "age": lambda record: age_band(record.age) or "unknown",
    }
    n_boxes = [len(dataset.boxes(i)) for i in range(len(dataset))]
    table: dict[str, dict[str, dict[str, int]]] = {}
    for name, key in keys.items():
        groups: dict[str, list[int]] = {}
        for i, record in enumerate(dataset.records):
            groups.setdefault(key(record), []).append(i)
        table[name] = {
            group: {
                "images": len(members),
                "positive": sum(n_boxes[i] > 0 for i in members),
                "boxes": sum(n_boxes[i] for i in members),
                "patients": len({dataset.records[i].patient_id for i in members}),
            }
            for group, members in sorted(groups.items())
        }
    return table


def box_report(dataset: Dataset) -> dict[str, Any]:
    """Counts, sizes and positions of the boxes in the frame of 1024, and the faulty boxes."""
    per_image: Counter[int] = Counter()
    outside = degenerate = overlapping = 0
    framed = []
    for i, record in enumerate(dataset.records):
        boxes = dataset.boxes(i)
        if not len(boxes):
            continue
        per_image[len(boxes)] += 1
        limit = np.array([record.width, record.height] * 2, dtype=np.float32)
        # half a pixel of tolerance for rounding of boxes that end on the frame
        outside += int(((boxes < -0.5) | (boxes > limit + 0.5)).any(axis=1).sum())
        degenerate += int((~(boxes[:, 2:] - boxes[:, :2] >= 1)).any(axis=1).sum())
        overlapping += int((np.triu(iou_matrix(boxes, boxes), 1) > 0).sum())
        framed.append(boxes / limit * LABEL_FRAME)
    every = np.concatenate(framed) if framed else np.zeros((0, 4), np.float32)
    width, height = every[:, 2] - every[:, 0], every[:, 3] - every[:, 1]
    quantities = {
        "width_px": width,
        "height_px": height,
        "height_over_width": height / np.maximum(width, 1e-6),
        "area_percent": 100 * width * height / LABEL_FRAME**2,
        "centre_x_px": (every[:, 0] + every[:, 2]) / 2,
        "centre_y_px": (every[:, 1] + every[:, 3]) / 2,
    }
    return {
        "frame": LABEL_FRAME,
        "count": len(every),
        "per_positive_image": {str(n): per_image[n] for n in sorted(per_image)},
        "out_of_bounds": outside,
        "degenerate": degenerate,
        "overlapping_pairs": overlapping,
        "percentiles": {name: _percentiles(values) for name, values in quantities.items()},
    }


def _read_images(
    dataset: Dataset, progress: Progress | None
) -> tuple[list[str], list[ImageFeatures]]:
    """Hash and features of every image, in one pass over the file."""
    hashes, features = [], []
    for i in range(len(dataset)):
        pixels = dataset.pixels(i)
        hashes.append(hashlib.sha256(pixels.tobytes()).hexdigest())
        features.append(image_features(pixels))
        report_progress(progress, i + 1, len(dataset))
    return hashes, features


def _cache_file_intact(dataset: Dataset) -> bool:
    digest = hashlib.sha256()
    with (dataset.folder / CACHE_FILE).open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return bool(digest.hexdigest() == dataset.info["files"][CACHE_FILE]["sha256"])


def _duplicates(
    dataset: Dataset, hashes: Sequence[str], features: Sequence[ImageFeatures]
) -> dict[str, Any]:
    def across(members: Iterable[int]) -> bool:
        return len({dataset.records[i].split for i in members}) > 1

    groups = exact_duplicates(hashes)
    pairs = near_duplicates(dataset.records, features, hashes)
    # leaks first: at most MAX_LISTED are listed
    groups.sort(key=lambda group: not across(group))
    pairs.sort(key=lambda pair: not across(pair[:2]))
    return {
        "exact": {
            "groups": len(groups),
            "across_splits": sum(across(group) for group in groups),
            "listed": [_names(dataset, group) for group in groups[:MAX_LISTED]],
        },
        "near": {
            "pairs": len(pairs),
            "across_splits": sum(across(pair[:2]) for pair in pairs),
            "listed": [_pair(dataset, pair) for pair in pairs[:MAX_LISTED]],
        },
    }


def _pair(dataset: Dataset, pair: DuplicatePair) -> dict[str, Any]:
    names = _names(dataset, (pair.first, pair.second))
    return {"images": names, "correlation": round(pair.correlation, 4)}


def _names(dataset: Dataset, indices: Iterable[int]) -> list[str]:
    chosen = (dataset.records[i] for i in indices)
    return [f"{record.split}/{record.kind}/{record.image_id}" for record in chosen]


def _check(name: str, passed: bool, found: str, advice: str = "") -> dict[str, Any]:
    """A check with a short result for a table, and a sentence on what to do."""
    return {
        "name": name,
        "passed": passed,
        "found": "" if passed else found,
        "advice": "" if passed else advice,
    }


def _leak(warning: str | None) -> tuple[str, str]:
    """Result and advice of a leak warning such as `3 images: The patients ...`."""
    count, _, advice = str(warning).partition(": ")
    return count, advice


def _empty_splits(dataset: Dataset) -> tuple[bool, str]:
    present = {record.split for record in dataset.records}
    missing = [split for split in SPLITS if split not in present]
    return not missing, "none in " + ", ".join(missing)


def _sizes(dataset: Dataset) -> dict[str, dict[str, int]]:
    original = Counter(f"{record.width} x {record.height}" for record in dataset.records)
    cached = Counter(f"{entry.width} x {entry.height}" for entry in dataset.cache)
    return {"original": dict(original.most_common(20)), "cached": dict(cached.most_common(20))}


def _percentiles(values: npt.NDArray[np.float32]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.percentile(values, PERCENTILES)
    return {f"p{p}": round(float(v), 2) for p, v in zip(PERCENTILES, found, strict=True)}
