"""Validation of a detector by the deployed path: runtime letterbox, decoding and suppression."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.dataset.reader import Dataset
from evaluation.metrics.image_level import auroc
from evaluation.metrics.ranking import average_precision_once, rank_boxes
from evaluation.study.cases import EvaluationCases, join
from evaluation.study.cohort import Cohort
from evaluation.study.labels import make_labels
from evaluation.study.operating_points import choose, document, image_set_digest
from pneumonia.network.module import Network
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.detection.heads import DEFAULT_SETTINGS, detections
from pneumonia.runtime.image.preprocess import network_input
from pneumonia.runtime.model.predictions import Prediction, write_predictions
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.storage.bundle import OPERATING_POINTS
from pneumonia.training.config import ValidationConfig
from pneumonia.training.task import SELECTION_METRIC

PREDICTIONS = "val_predictions.csv"
WHOLE = "full"  # whole radiographs: what the model is for
ENOUGH = 20  # positive and negative whole images from which on they alone choose the thresholds
AP_IOU = 0.50  # of `ap50`
NO_POINT = (0.5, 0.0)  # threshold and challenge score when no box was found at all

Key = tuple[str, str]  # kind, image id: only together unique
Batch = NDArray[np.float32]  # (N, C, H, W)
Outputs = dict[str, NDArray[np.float32]]  # output name -> values of a batch


def predict(
    network: Network, dataset: Dataset, items: Sequence[int], batch_size: int
) -> dict[Key, Prediction]:
    """Boxes of images, in pixels of the originals, above the score floor of the runtime.

    Float32 whatever the training precision: what is measured here is what is exported.

    Args:
        network: Left in the mode it was in.
        items: Indices into the dataset.
    """
    device = next(network.parameters()).device
    training = network.training

    def run(batch: Batch) -> Outputs:
        images = torch.from_numpy(batch).to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            return {k: v.cpu().numpy() for k, v in network(images).items()}

    network.eval()
    try:
        return predict_with(run, network.spec, dataset, items, batch_size)
    finally:
        network.train(training)


def predict_with(
    run: Callable[[Batch], Outputs],
    spec: NetworkSpec,
    dataset: Dataset,
    items: Sequence[int],
    batch_size: int,
) -> dict[Key, Prediction]:
    """The same with anything that runs a network, such as an engine of a bundle.

    Args:
        run: float32 (N, C, H, W) -> output name -> float32 values.
        items: Indices into the dataset.
    """
    found: dict[Key, Prediction] = {}
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        ready = [network_input(dataset.pixels(i), spec.input) for i in part]
        outputs = run(np.stack([values for values, _ in ready]))
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
    return found


class DetectionValidation:
    """Validation images of a dataset, evaluated once per epoch.

    Args:
        items: Labelled validation images of every trained kind.
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
        self.threshold_kinds = tuple(config.threshold_kinds) or self._threshold_kinds()
        self.facts = {
            f"{record.kind}/{record.image_id}": {"patient": record.patient_id}
            for record in (dataset.records[i] for i in items)
        }
        self.found: dict[Key, Prediction] = {}
        self.threshold = NO_POINT[0]

    def _threshold_kinds(self) -> tuple[str, ...]:
        """Whole radiographs where there are enough, else what chooses the epoch.

        Scores of other kinds (masked to the lungs, another hospital) lie elsewhere: a threshold
        from them misses on whole radiographs.
        """
        found = [len(boxes) > 0 for key, boxes in self.truths.items() if key[0] == WHOLE]
        enough = min(sum(found), len(found) - sum(found)) >= ENOUGH
        return (WHOLE,) if enough else self.selecting

    def evaluate(self, network: Network) -> dict[str, float]:
        """Metrics over the selecting kinds, and per kind when there are several.

        Returns:
            `rsna` (challenge score at its best threshold), `threshold`, `ap50`, `auroc` (image
            score = highest box score), the same with `_KIND` behind (for a kind without positives
            `alarm_fraction_KIND`: share of its images with a box at the threshold), SELECTION.
        """
        return self.judge(predict(network, self.dataset, self.items, self.config.batch_size))

    def judge(self, found: dict[Key, Prediction]) -> dict[str, float]:
        """The metrics of `evaluate` for predictions of all validation images, made elsewhere."""
        self.found = found
        metrics = self._metrics(self.selecting)
        self.threshold = metrics["threshold"]
        if len(self.kinds) > 1:
            for kind in self.kinds:
                metrics |= {f"{k}_{kind}": value for k, value in self._of_kind(kind).items()}
        metrics[SELECTION_METRIC] = metrics[self.config.select]
        return metrics

    def _of_kind(self, kind: str) -> dict[str, float]:
        keys = [key for key in self.truths if key[0] == kind]
        if any(len(self.truths[key]) for key in keys):
            found = self._metrics((kind,))
            return {name: found[name] for name in ("rsna", "ap50", "auroc")}
        # Without a positive no score is defined: how often would these images be called?
        alarms = sum((self.found[key].scores >= self.threshold).any() for key in keys)
        return {"alarm_fraction": float(alarms / len(keys))}

    def _metrics(self, kinds: Sequence[str]) -> dict[str, float]:
        cases = self.cases(kinds)
        ranking = rank_boxes(cases.truths, cases.boxes, cases.scores, (AP_IOU,))
        point = choose(cases).get("kaggle")
        threshold, score = (point.threshold, point.rsna_score or 0.0) if point else NO_POINT
        return {
            "threshold": threshold,
            "rsna": score,
            "ap50": average_precision_once(ranking, AP_IOU),
            "auroc": float(auroc(cases.positive, cases.image_score)[0]),
        }

    def cases(self, kinds: Sequence[str]) -> EvaluationCases:
        """Truths and the last evaluation's boxes of these kinds, as `evaluation` takes them."""
        keys = [key for key in self.truths if key[0] in kinds]
        labels = make_labels({"/".join(key): self.truths[key] for key in keys}, frame=None)
        boxes = [self.found[key]._replace(image_id="/".join(key)) for key in keys]
        return join(labels, boxes, Cohort({name: self.facts[name] for name in labels.ids}))

    def save(self, out: Path) -> None:
        """Write the last evaluation: predictions, operating points and calibration.

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
        write_json(str(out / OPERATING_POINTS), self.points())

    def points(self) -> dict[str, Any]:
        """Content of operating_points.json, chosen on the last evaluation."""
        content = document(self.cases(self.threshold_kinds))
        content["selected_on"] |= {
            "image_set": image_set_digest(  # without the kinds, which no evaluation knows
                {image_id for kind, image_id in self.truths if kind in self.threshold_kinds}
            ),
            "split": "val",
            "kinds": list(self.threshold_kinds),
        }
        return content
