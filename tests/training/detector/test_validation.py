import json
import math

import numpy as np
import pytest
import torch

from data_prep.dataset.reader import open_dataset
from evaluation.study.operating_points import image_set_digest
from pneumonia.network.module import Network
from pneumonia.runtime.model.layers import Detect
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.training.config import ValidationConfig
from pneumonia.training.detector.validation import DetectionValidation, predict
from tests.support.tiny import SIZE, tiny_spec, write_rectangles

VAL = {("train", "phantom"): (2, 2), ("val", "phantom"): (4, 4)}


def digest_of(dataset, items, kinds):
    """What `evaluate` finds for the same images, by their ids alone."""
    records = [dataset.records[i] for i in items]
    return image_set_digest([record.image_id for record in records if record.kind in kinds])


class Oracle(Network):
    """Answers with the logits of given boxes instead of looking; darknet coding, fine head."""

    def __init__(self, boxes: list[list[tuple[list[float], float]]]) -> None:
        super().__init__(tiny_spec("darknet"))
        self.boxes = iter(boxes)  # per image: (xyxy in network pixels, objectness logit)
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x.clone())
        outputs = {
            name: torch.full((len(x), *self.spec.shapes()[name]), -20.0)
            for name in self.spec.outputs
        }
        head = self.spec.layer("detect_8")
        assert isinstance(head, Detect)
        for image in range(len(x)):
            for (x1, y1, x2, y2), logit in next(self.boxes):
                centre = ((x1 + x2) / 2 / 8, (y1 + y2) / 2 / 8)
                column, row = int(centre[0]), int(centre[1])
                cell = outputs["detect_8"][image, :6, row, column]
                for k, (value, anchor) in enumerate(
                    zip((x2 - x1, y2 - y1), head.anchors[0], strict=True)
                ):
                    offset = min(max(centre[k] - (column, row)[k], 1e-4), 1 - 1e-4)
                    cell[k] = math.log(offset / (1 - offset))
                    cell[2 + k] = math.log(value / anchor)
                cell[4] = logit
                cell[5] = 20.0
        return outputs


def test_true_boxes_score_one_in_original_pixels(tmp_path):
    # originals are 128 px, the cache and the network 64 px
    dataset = open_dataset(write_rectangles(tmp_path / "d", VAL, original=2 * SIZE))
    items = dataset.select("val")
    oracle = Oracle([[(box, 3.0) for box in (dataset.boxes(i) / 2).tolist()] for i in items])
    validation = DetectionValidation(dataset, items, ValidationConfig(batch_size=3))
    metrics = validation.evaluate(oracle)
    assert metrics["rsna"] == metrics["selection_metric"] == pytest.approx(1.0)
    assert metrics["ap50"] == pytest.approx(1.0, abs=0.01)
    assert metrics["auroc"] == pytest.approx(1.0)
    assert [len(batch) for batch in oracle.seen] == [3, 3, 2]
    assert oracle.training  # left as it was
    for i in items:
        record = dataset.records[i]
        found = validation.found[record.kind, record.image_id]
        assert (found.width, found.height) == (128, 128)
        np.testing.assert_allclose(found.boxes, dataset.boxes(i), atol=0.1)


def test_a_false_alarm_counts_and_the_threshold_avoids_it(tmp_path):
    dataset = open_dataset(write_rectangles(tmp_path / "d", VAL))
    items = dataset.select("val")
    # the four positives first: their boxes at sigmoid(1), one alarm on a negative at sigmoid(-1)
    boxes = [[(box, 1.0) for box in (dataset.boxes(i) / 2).tolist()] for i in items]
    boxes[-1] = [([8.0, 8.0, 24.0, 24.0], -1.0)]
    validation = DetectionValidation(dataset, items, ValidationConfig())
    metrics = validation.evaluate(Oracle(boxes))
    assert metrics["rsna"] == pytest.approx(1.0)
    assert 1 / (1 + math.e) < metrics["threshold"] <= math.e / (1 + math.e) + 1e-6
    # the alarm above the hits cannot be avoided: 4 hits over 5 images that count
    boxes[-1] = [([8.0, 8.0, 24.0, 24.0], 2.0)]
    assert validation.evaluate(Oracle(boxes))["rsna"] == pytest.approx(4 / 5)


def test_no_boxes_at_all_score_zero(tmp_path):
    dataset = open_dataset(write_rectangles(tmp_path / "d", VAL))
    items = dataset.select("val")
    validation = DetectionValidation(dataset, items, ValidationConfig())
    assert validation.evaluate(Oracle([[] for _ in items]))["rsna"] == 0.0
    validation.save(tmp_path)
    content = json.loads((tmp_path / "operating_points.json").read_text())
    assert "kaggle" not in content["points"]


def test_several_kinds_have_their_own_columns_and_files(tmp_path):
    counts = {("train", "full"): (1, 1), ("val", "full"): (2, 2), ("val", "lungs"): (3, 3)}
    dataset = open_dataset(write_rectangles(tmp_path / "d", counts))
    items = dataset.select("val")
    # right on `full`, silent on `lungs`
    boxes = [
        [(box, 3.0) for box in (dataset.boxes(i) / 2).tolist()]
        if dataset.records[i].kind == "full"
        else []
        for i in items
    ]
    validation = DetectionValidation(dataset, items, ValidationConfig(kinds=("full",)))
    metrics = validation.evaluate(Oracle(boxes))
    assert (metrics["rsna"], metrics["rsna_full"]) == (pytest.approx(1), pytest.approx(1))
    assert metrics["rsna_lungs"] == 0.0
    assert metrics["auroc_lungs"] == 0.5
    both = DetectionValidation(dataset, items, ValidationConfig()).evaluate(Oracle(boxes))
    assert both["rsna"] == pytest.approx(2 / 5)
    validation.save(tmp_path)
    main = read_predictions(str(tmp_path / "val_predictions.csv"))
    assert {p.image_id for p in main} == {
        dataset.records[i].image_id for i in items if dataset.records[i].kind == "full"
    }
    assert len(read_predictions(str(tmp_path / "val_predictions_lungs.csv"))) == 6
    content = json.loads((tmp_path / "operating_points.json").read_text())
    point = content["points"]["kaggle"]
    assert content["selected_on"]["kinds"] == ["full"]
    assert content["selected_on"]["images"] == 4
    assert point["rsna_score"] == pytest.approx(1.0)
    assert point["threshold"] == metrics["threshold"]


def test_all_points_and_the_calibration_are_frozen_on_their_own_kinds(tmp_path):
    counts = {("train", "full"): (1, 1), ("val", "full"): (4, 4), ("val", "lungs"): (4, 4)}
    dataset = open_dataset(write_rectangles(tmp_path / "d", counts))
    items = dataset.select("val")
    # masked images score 1 higher: thresholds for whole ones must not come from them
    boxes = []
    for rank, i in enumerate(items):
        lift = float(dataset.records[i].kind == "lungs")
        hits = [(box, 1.0 + lift + 0.01 * rank) for box in (dataset.boxes(i) / 2).tolist()]
        boxes.append(hits or [([8.0, 8.0, 24.0, 24.0], -2.0 + lift + 0.01 * rank)])
    config = ValidationConfig(threshold_kinds=("full",))
    validation = DetectionValidation(dataset, items, config)
    validation.evaluate(Oracle(boxes))
    validation.save(tmp_path)
    content = json.loads((tmp_path / "operating_points.json").read_text())
    names = ["kaggle", "high_sensitivity", "high_specificity", "balanced"]
    assert list(content["points"]) == names
    assert content["selected_on"] == {
        "images": 8, "positive": 4, "patients": 8, "split": "val", "kinds": ["full"],
        "image_set": digest_of(dataset, items, ["full"]),
    }  # fmt: skip
    low, high = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1.2))
    for name in names:
        assert low < content["points"][name]["threshold"] < high
        assert content["points"][name]["sensitivity"] == 1.0
    assert set(content["calibration"]) == {"platt_slope", "platt_intercept", "temperature"}
    # images apart without error have no finite slope
    assert content["calibration"]["platt_slope"] is None


@pytest.mark.parametrize(
    ("positives", "negatives", "kinds"),
    [(20, 20, ["full"]), (19, 20, ["full", "lungs"]), (20, 19, ["full", "lungs"])],
)
def test_whole_radiographs_choose_the_thresholds_where_there_are_enough(
    tmp_path, positives, negatives, kinds
):
    counts = {
        ("train", "full"): (1, 1),
        ("val", "full"): (positives, negatives),
        ("val", "lungs"): (1, 1),
    }
    dataset = open_dataset(write_rectangles(tmp_path / "d", counts))
    items = dataset.select("val")
    validation = DetectionValidation(dataset, items, ValidationConfig())
    validation.evaluate(Oracle([[] for _ in items]))
    validation.save(tmp_path)
    content = json.loads((tmp_path / "operating_points.json").read_text())
    n = positives + negatives + (2 if "lungs" in kinds else 0)
    assert content["selected_on"] == {
        "images": n, "positive": positives + ("lungs" in kinds), "patients": n,
        "split": "val", "kinds": kinds, "image_set": digest_of(dataset, items, kinds),
    }  # fmt: skip
    assert validation.selecting == ("full", "lungs")  # the epoch is chosen by all kinds
    given = ValidationConfig(threshold_kinds=("lungs",))
    assert DetectionValidation(dataset, items, given).threshold_kinds == ("lungs",)


def test_kind_without_positives_reports_false_alarms(tmp_path):
    counts = {("train", "full"): (1, 1), ("val", "full"): (2, 2), ("val", "nih"): (0, 4)}
    dataset = open_dataset(write_rectangles(tmp_path / "d", counts))
    items = dataset.select("val")
    boxes = [[(box, 3.0) for box in (dataset.boxes(i) / 2).tolist()] for i in items]
    boxes[-1] = [([8.0, 8.0, 24.0, 24.0], 3.0)]  # above the threshold
    boxes[-2] = [([8.0, 8.0, 24.0, 24.0], -3.0)]  # below
    metrics = DetectionValidation(dataset, items, ValidationConfig()).evaluate(Oracle(boxes))
    assert metrics["alarm_fraction_nih"] == 1 / 4
    assert metrics["rsna_full"] == pytest.approx(1.0)
    assert "rsna_nih" not in metrics


def test_prediction_uses_the_deployed_input(tmp_path):
    from pneumonia.runtime.image.preprocess import network_input

    dataset = open_dataset(write_rectangles(tmp_path / "d", VAL))
    items = dataset.select("val")
    oracle = Oracle([[] for _ in items])
    predict(oracle, dataset, items, 8)
    for row, i in zip(oracle.seen[0], items, strict=True):
        wanted, _ = network_input(dataset.pixels(i), oracle.spec.input)
        np.testing.assert_array_equal(row.numpy(), wanted)
