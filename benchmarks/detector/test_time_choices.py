"""What may be done to the boxes of a finished detector: a mirrored second look, resized boxes.

    python -m benchmarks.detector.test_time_choices --data runs/data

The shipped model on the validation images. Each choice has the threshold that is best for it on
these very images; differences to the plain detector are paired, over patients.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.detector.ladder import KINDS, SHOWN, beside_first, match_predictions
from benchmarks.reporting import (
    RESULTS,
    argument_parser,
    environment,
    interval_text,
    markdown_table,
    publish,
    rounded,
)
from data_prep.dataset.reader import Dataset, open_dataset
from evaluation.analysis.catalogue import headline_statistics
from evaluation.analysis.paired import compare_studies
from evaluation.metrics.bootstrap import Resampler, estimate_all
from pneumonia.runtime.detection.detector import DEFAULT_BUNDLE, Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.model.boxes import iou_matrix
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.storage.bundle import load_bundle

SCALES = (0.85, 0.9, 0.95, 1.05, 1.1)
SAME_BOX_IOU = 0.55
Array = npt.NDArray[np.float32]


def fuse(boxes: Array, scores: Array, n_views: int) -> tuple[Array, Array]:
    """Weighted box fusion (Solovyev, Wang, Gabruseva 2021).

    Args:
        boxes: (n, 4) xyxy of all views.
        scores: (n,).
        n_views: A box that fewer views see loses score in proportion.

    Returns:
        Boxes (m, 4), the means of what overlaps weighted by score, and their scores, descending.
    """
    members: list[list[int]] = []
    centres: list[Array] = []
    for i in np.argsort(-scores, kind="stable"):
        overlap = iou_matrix(boxes[i][None], np.array(centres))[0] if centres else np.zeros(1)
        best = int(overlap.argmax())
        if overlap[best] <= SAME_BOX_IOU:
            members.append([i])
            centres.append(boxes[i])
            continue
        members[best].append(i)
        centres[best] = np.average(boxes[members[best]], axis=0, weights=scores[members[best]])
    found = [float(scores[group].mean()) * min(len(group), n_views) / n_views for group in members]
    order = np.argsort([-score for score in found], kind="stable")
    return (
        np.array(centres, np.float32).reshape(-1, 4)[order],
        np.array(found, np.float32)[order],
    )


def predictions_by_choice(
    detector: Detector, dataset: Dataset, items: Sequence[int]
) -> dict[str, list[Prediction]]:
    """Choice -> predictions, boxes in pixels of the originals."""
    found: dict[str, list[Prediction]] = {"plain": [], "mirrored view fused": []}
    for i in items:
        record, pixels = dataset.records[i], dataset.pixels(i)
        width = pixels.shape[1]
        plain = detector.predict(pixels, record.image_id)
        mirrored = detector.predict(np.ascontiguousarray(pixels[:, ::-1]), record.image_id)
        back = mirrored.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
        both = np.concatenate([plain.boxes, back]).astype(np.float32)
        fused = fuse(both, np.concatenate([plain.scores, mirrored.scores]), 2)
        for name, (boxes, scores) in (("plain", plain[1:3]), ("mirrored view fused", fused)):
            size = (record.width, record.height)
            moved = dataset.original_boxes(i, boxes)
            found[name].append(Prediction(record.image_id, moved, scores, *size))
    for factor in SCALES:
        found[f"boxes x {factor}"] = [resized(p, factor) for p in found["plain"]]
    return found


def resized(prediction: Prediction, factor: float) -> Prediction:
    """Boxes scaled about their centres."""
    centre = (prediction.boxes[:, :2] + prediction.boxes[:, 2:]) / 2
    half = (prediction.boxes[:, 2:] - prediction.boxes[:, :2]) / 2 * factor
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return prediction._replace(boxes=boxes)


def measure(dataset: Dataset, kind: str, look: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Metrics of every choice on one kind of validation image."""
    items = dataset.select("val", [kind])
    studies = {name: match_predictions(dataset, kind, found) for name, found in look(items).items()}
    plain = studies["plain"]
    resampler = Resampler(plain.cases.patients, plain.cases.positive, 2000)
    reference = estimate_all(headline_statistics(plain), resampler)
    rows = {"plain": {short: rounded(reference[key]) for key, short in SHOWN.items()}}
    for comparison in compare_studies(studies, resampler):
        rows[comparison.model] = beside_first(comparison)
    return rows


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown, a block of columns per kind of image."""
    heads = [f"{kind}: {short}, difference" for kind in rows for short in ("RSNA", "AP50")]
    lines = []
    for name in next(iter(rows.values())):
        cells = []
        for values in (rows[kind][name] for kind in rows):
            for short in ("rsna", "ap50"):
                delta = interval_text(values.get(f"{short}_delta"), "+")
                cells.append(f"{values[short][0]:.3f}" + (delta and f", {delta}"))
        lines.append((name, *cells))
    return markdown_table(("choice", *heads), lines)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    dataset = open_dataset(parser.parse_args().data)
    bundle = load_bundle(str(DEFAULT_BUNDLE))
    detector = Detector(bundle, open_engine(bundle, "onnxruntime", threads=1))
    rows = {
        kind: measure(dataset, kind, lambda items: predictions_by_choice(detector, dataset, items))
        for kind in KINDS
    }
    text = table(rows)
    facts = {
        "model_hash": bundle.model_hash, "rows": rows, **environment("numpy", "onnxruntime")
    }  # fmt: skip
    publish(RESULTS / "test_time_choices.json", facts, text)


if __name__ == "__main__":
    main()
