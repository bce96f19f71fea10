"""Validation of a detector by the deployed path: runtime letterbox, decoding and suppression."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_prep.dataset import Dataset
from evaluation.detection import coco_metrics
from evaluation.image_level import auroc, image_scores
from evaluation.rsna import rsna_table
from pneumonia.network.module import Network
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.decode import DEFAULT_SETTINGS, detections
from pneumonia.runtime.predictions import Prediction, write_predictions
from pneumonia.runtime.preprocess import network_input
from pneumonia.training.config import ValidationConfig
from pneumonia.training.task import SELECTION

OPERATING_POINTS, PREDICTIONS = "operating_points.json", "val_predictions.csv"
POINTS_SCHEMA = "pneumonia.operating_points/1"
N_THRESHOLDS = 200

Key = tuple[str, str]  # kind, image id: only together unique


class OperatingPoint(NamedTuple):
    """The score threshold that maximises the challenge score, and that score."""

    threshold: float
    score: float


def predict(
    network: Network, dataset: Dataset, items: Sequence[int], batch_size: int
) -> dict[Key, Prediction]:
    """Boxes of images, in pixels of the originals, above the score floor of the runtime.

    Float32 whatever the training precision: what is measured here is what is exported.

    Args:
        network: Left in the mode it was in.
        dataset: Images.
        items: Indices into the dataset.
        batch_size: Images per forward pass.
    """
    spec = network.spec
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    found: dict[Key, Prediction] = {}
    try:
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            ready = [network_input(dataset.pixels(i), spec.input) for i in part]
            images = torch.from_numpy(np.stack([values for values, _ in ready]))
            images = images.to(device, memory_format=torch.channels_last)
            with torch.inference_mode():
                outputs = {k: v.cpu().numpy() for k, v in network(images).items()}
            places = [place for _, place in ready]
            boxes_of = detections(spec, outputs, places, DEFAULT_SETTINGS)
            for i, place, (boxes, scores, _) in zip(part, places, boxes_of, strict=True):
                record = dataset.records[i]
                # From pixels of the cached copy to pixels of the original.
                scale = np.tile([record.width / place.width, record.height / place.height], 2)
                found[record.kind, record.image_id] = Prediction(
                    record.image_id,
                    (boxes * scale).astype(np.float32),
                    scores,
                    record.width,
                    record.height,
                )
    finally:
        network.train(training)
    return found


def best_threshold(
    truths: Mapping[str, np.ndarray], scored: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> OperatingPoint:
    """Sweep the score threshold over quantiles of the scores; the highest challenge score wins.

    Among thresholds of equal score the median one is taken, the farthest from both edges.
    """
    table = rsna_table(truths, scored)
    scores = np.concatenate([values for _, values in scored.values()] or [np.zeros(0)])
    if not len(scores):
        return OperatingPoint(0.5, 0.0)
    # Most boxes are noise near the floor: quantiles alone would miss the few high scores.
    candidates = np.unique(
        np.concatenate(
            [
                np.quantile(scores, np.linspace(0, 1, N_THRESHOLDS)),
                np.linspace(scores.min(), scores.max(), N_THRESHOLDS),
            ]
        )
    )
    values = np.nan_to_num(table.sweep(candidates), nan=0.0)
    ties = np.flatnonzero(values == values.max())
    chosen = ties[len(ties) // 2]
    return OperatingPoint(float(candidates[chosen]), float(values[chosen]))


class Validation:
    """Validation images of a dataset, evaluated once per epoch.

    Args:
        dataset: Images and truths.
        items: Labelled validation images of every trained kind.
        config: What chooses the best epoch.
    """

    def __init__(self, dataset: Dataset, items: Sequence[int], config: ValidationConfig) -> None:
        self.dataset = dataset
        self.items = list(items)
        self.config = config
        self.kinds = sorted({dataset.records[i].kind for i in items})
        self.selecting = tuple(config.kinds or self.kinds)
        self.truths: dict[Key, np.ndarray] = {
            (dataset.records[i].kind, dataset.records[i].image_id): dataset.boxes(i) for i in items
        }
        self.found: dict[Key, Prediction] = {}
        self.point = OperatingPoint(0.5, 0.0)

    def evaluate(self, network: Network) -> dict[str, float]:
        """Metrics over the selecting kinds, and per kind when there are several.

        Returns:
            `rsna` (challenge score at its best threshold), `threshold`, `ap50`, `auroc` (image
            score = highest box score), the same with `_KIND` behind (for a kind without positives
            `alarm_fraction_KIND`: share of its images with a box at the threshold), SELECTION.
        """
        self.found = predict(network, self.dataset, self.items, self.config.batch_size)
        self.point, metrics = self._metrics(self.selecting)
        metrics = {"threshold": self.point.threshold, **metrics}
        if len(self.kinds) > 1:
            for kind in self.kinds:
                metrics |= {f"{k}_{kind}": value for k, value in self._of_kind(kind).items()}
        metrics[SELECTION] = metrics[self.config.select]
        return metrics

    def _of_kind(self, kind: str) -> dict[str, float]:
        keys = [key for key in self.truths if key[0] == kind]
        if any(len(self.truths[key]) for key in keys):
            return self._metrics((kind,))[1]
        # Without a positive no score is defined: how often would these images be called?
        alarms = sum((self.found[key].scores >= self.point.threshold).any() for key in keys)
        return {"alarm_fraction": float(alarms / len(keys))}

    def _metrics(self, kinds: Sequence[str]) -> tuple[OperatingPoint, dict[str, float]]:
        keys = [key for key in self.truths if key[0] in kinds]
        truths = {"/".join(key): self.truths[key] for key in keys}
        scored = {"/".join(key): (self.found[key].boxes, self.found[key].scores) for key in keys}
        point = best_threshold(truths, scored)
        per_image = image_scores({name: scores for name, (_, scores) in scored.items()})
        positive = [len(truths[name]) > 0 for name in per_image]
        return point, {
            "rsna": point.score,
            "ap50": coco_metrics(truths, scored).ap50,
            "auroc": float(auroc(positive, list(per_image.values()))[0]),
        }

    def save(self, out: Path) -> None:
        """Write the last evaluation: predictions and the operating point `kaggle`.

        With several kinds each has its own file, `val_predictions_KIND.csv`, since an image may be
        in two kinds; `val_predictions.csv` is then of the first selecting kind.
        """
        main = self.selecting[0]
        for kind in self.kinds:
            rows = [self.found[key] for key in self.truths if key[0] == kind]
            if kind == main:
                write_predictions(str(out / PREDICTIONS), rows)
            if len(self.kinds) > 1:
                write_predictions(str(out / f"val_predictions_{kind}.csv"), rows)
        point = {
            "threshold": self.point.threshold,
            "rsna_score": self.point.score,
            "split": "val",
            "kinds": list(self.selecting),
            "n_images": sum(key[0] in self.selecting for key in self.truths),
        }
        document = {"schema": POINTS_SCHEMA, "points": {"kaggle": point}}
        write_json(str(out / OPERATING_POINTS), document)
