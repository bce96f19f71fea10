import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.matching import iou
from evaluation.metrics.rsna import IOU_THRESHOLDS, rsna_score, rsna_table
from evaluation.study.labels import read_labels
from pneumonia.runtime.errors import DataError
from tests.evaluation.studies import (
    noisy_predictions,
    realistic_predictions,
    synthetic_truths,
)

DATA = Path(os.environ.get("PNEUMONIA_DATA", "../shared/data"))
NONE = np.zeros((0, 4)), np.zeros(0)


def naive_score(truths: dict, predictions: dict, threshold: float) -> float:
    """The metric as the public implementations write it: loops, one image at a time."""
    values = []
    for image_id, truth in truths.items():
        boxes, scores = predictions[image_id]
        order = np.argsort(-np.asarray(scores), kind="stable")
        boxes = [boxes[i] for i in order if scores[i] >= threshold]
        if len(truth) == 0:
            if boxes:
                values.append(0.0)
            continue
        total = 0.0
        for t in (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75):
            used: set[int] = set()
            hits = 0
            for box in truth:
                for j, other in enumerate(boxes):
                    if j not in used and iou([box], [other])[0, 0] > t:
                        used.add(j)
                        hits += 1
                        break
            total += hits / (len(boxes) + len(truth) - hits)
        values.append(total / 8)
    return float(np.mean(values)) if values else math.nan


def test_thresholds_are_the_eight_literals() -> None:
    assert IOU_THRESHOLDS == (0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75)


@pytest.mark.parametrize(("keep", "value"), [(4, 0.0), (5, 2 / 8), (6, 4 / 8), (7, 6 / 8), (8, 1)])
def test_a_hit_needs_iou_strictly_above(keep: int, value: float) -> None:
    # IoU is exactly keep / 10: at t = keep / 10 it is a miss
    truth = {"a": np.float32([[0, 0, 10, 1]])}
    found = {"a": (np.float32([[0, 0, keep, 1]]), [0.9])}
    assert rsna_score(truth, found).value == value


def test_hand_computed_image() -> None:
    truths = {"a": [[0, 0, 100, 100], [200, 0, 300, 100]], "b": []}
    found = {
        "a": ([[0, 0, 100, 62], [200, 0, 300, 100], [500, 500, 600, 600]], [0.9, 0.8, 0.7]),
        "b": NONE,
    }
    # 5 thresholds below IoU 0.62: TP 2, FP 1 -> 2/3; 3 above: TP 1, FP 2, FN 1 -> 1/4
    result = rsna_score(truths, found, 0.0)
    assert result.value == pytest.approx((5 * 2 / 3 + 3 * 1 / 4) / 8)
    assert result.n == 1
    assert list(result.per_image) == ["a"]
    # without the third box: 5 of 2/2, 3 of 1/3
    assert rsna_score(truths, found, 0.75).value == pytest.approx((5 * 1 + 3 * 1 / 3) / 8)


def test_the_first_box_above_t_wins_not_the_best() -> None:
    truths = {"a": [[0, 0, 100, 100], [0, 40, 100, 140]]}
    loose = [0, 0, 100, 145]  # IoU 0.69 with the first, 0.69 with the second
    exact = [0, 0, 100, 100]
    found = {"a": ([loose, exact], [0.9, 0.8])}
    # t <= 0.65: the first truth takes `loose` (first in score), the second is left with `exact`,
    # IoU 60/140 = 0.43: a hit at 0.40 only. t >= 0.70: the first truth takes `exact`.
    expected = (2 / 2 + 5 * 1 / 3 + 2 * 1 / 3) / 8
    assert rsna_score(truths, found).value == pytest.approx(expected)


def test_images_without_truth() -> None:
    truth = [[0, 0, 10, 10]]
    hit = (truth, [0.9])
    assert rsna_score({"p": truth, "n": []}, {"p": hit, "n": NONE}).value == 1.0
    alarm = rsna_score({"p": truth, "n": []}, {"p": hit, "n": hit})
    assert (alarm.value, alarm.n) == (0.5, 2)
    many = ([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], [0.5, 0.6, 0.7])
    assert rsna_score({"p": truth, "n": []}, {"p": hit, "n": many}).value == 0.5


def test_empty_sides() -> None:
    assert rsna_score({"p": [[0, 0, 1, 1]]}, {"p": NONE}).value == 0.0
    nothing = rsna_score({"n": []}, {"n": NONE})
    assert math.isnan(nothing.value)
    assert nothing.n == 0
    assert math.isnan(rsna_score({}, {}).value)


def test_duplicate_box_is_a_false_positive() -> None:
    truth = {"p": [[0, 0, 10, 10]]}
    twice = {"p": ([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.9])}
    assert rsna_score(truth, twice).value == 0.5


@pytest.mark.parametrize(
    ("found", "part"),
    [
        ({}, "1 without a prediction"),
        ({"p": NONE, "q": NONE}, "1 without a truth"),
        ({"p": ([[0, 0, 1, np.nan]], [0.5])}, "box is not finite"),
        ({"p": ([[0, 0, 1, 1]], [np.nan])}, "score is not finite"),
        ({"p": ([[0, 0, 1, 1]], [0.5, 0.6])}, "1 boxes, 2 scores"),
    ],
)
def test_what_does_not_fit_is_refused(found: dict, part: str) -> None:
    with pytest.raises(DataError, match=part):
        rsna_score({"p": [[0, 0, 1, 1]]}, found)


@given(st.integers(0, 10_000))
def test_agrees_with_the_loops_at_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = synthetic_truths(rng, 6, 4)
    found = realistic_predictions(rng, truths)
    thresholds = np.linspace(0, 0.9, 7)
    swept = rsna_table(truths, found).sweep(thresholds)
    for threshold, value in zip(thresholds, swept, strict=True):
        ordered = {i: np.asarray(sorted(map(tuple, b))) for i, b in truths.items()}
        expected = naive_score(ordered, found, threshold)
        assert value == pytest.approx(expected, nan_ok=True)
        assert rsna_score(truths, found, threshold).value == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 10_000))
def test_does_not_depend_on_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = synthetic_truths(rng, 5, 3)
    found = realistic_predictions(rng, truths)
    value = rsna_score(truths, found, 0.1).value
    shuffled = {i: truths[i][::-1] for i in rng.permutation(list(truths))}
    mixed = {}
    for image_id in rng.permutation(list(truths)):
        boxes, scores = found[image_id]
        order = rng.permutation(len(scores))
        mixed[image_id] = boxes[order], scores[order]
    assert rsna_score(shuffled, mixed, 0.1).value == pytest.approx(value, abs=1e-12)


SLOW = pytest.mark.slow  # each of 26,684 images


class TestRegressionVectors:
    """What the number means: the design's table, recomputed from synthetic truths.

    IoU does not change when an axis is scaled, so the noise rows do not depend on box sizes.
    """

    rng = np.random.default_rng(7)
    truths = synthetic_truths(rng, 6012, 20672)

    def _score(self, **noise: float) -> float:
        rng = np.random.default_rng(8)
        return rsna_score(self.truths, noisy_predictions(rng, self.truths, **noise)).value

    def test_perfect_boxes(self) -> None:
        assert self._score(noise=0.0) == 1.0

    def test_perfect_boxes_with_alarms_on_a_tenth_of_the_negatives(self) -> None:
        negatives = [i for i, boxes in self.truths.items() if not len(boxes)]
        found = {i: (boxes, np.ones(len(boxes))) for i, boxes in self.truths.items()}
        for image_id in negatives[:2067]:
            found[image_id] = (np.array([[0, 0, 9, 9.0]]), np.ones(1))
        assert rsna_score(self.truths, found).value == pytest.approx(6012 / (6012 + 2067))

    @pytest.mark.parametrize(
        ("scale", "value"),
        [
            (0.9, 1.0),
            (0.8, 0.625),
            *(pytest.param(*row, marks=SLOW) for row in [(0.83, 0.75), (0.7, 0.25), (0.6, 0.0)]),
        ],
    )
    def test_scaled_truths(self, scale: float, value: float) -> None:
        found = {}
        for image_id, boxes in self.truths.items():
            centre = np.tile((boxes[:, :2] + boxes[:, 2:]) / 2, 2)
            found[image_id] = centre + (boxes - centre) * scale, np.ones(len(boxes))
        assert rsna_score(self.truths, found).value == pytest.approx(value)

    @pytest.mark.parametrize(
        ("noise", "value"),
        [
            (0.20, 0.412),
            *(
                pytest.param(*row, marks=SLOW)
                for row in [(0.1, 0.842), (0.15, 0.617), (0.25, 0.271)]
            ),
        ],
    )
    def test_corner_noise(self, noise: float, value: float) -> None:
        assert self._score(noise=noise) == pytest.approx(value, abs=0.012)

    def test_the_winners_level(self) -> None:
        value = self._score(noise=0.20, sensitivity=0.8, specificity=0.9)
        assert value == pytest.approx(0.245, abs=0.012)
        found = noisy_predictions(np.random.default_rng(8), self.truths, 0.20, 0.8, 0.9)
        result = rsna_score(self.truths, found)
        inflated = (sum(result.per_image.values()) + len(self.truths) - result.n) / len(self.truths)
        assert inflated == pytest.approx(0.771, abs=0.012)

    def test_no_boxes(self) -> None:
        assert rsna_score(self.truths, dict.fromkeys(self.truths, NONE)).value == 0.0

    def test_perfect_classifier_with_two_median_boxes(self) -> None:
        # every lung's boxes alike, so that the medians hit them; half the images have the left
        # one only: 2/2 and 1/2; a fourth box far away in one image of eight: 2/3
        left, right = [100, 200, 300, 500], [600, 200, 800, 500]
        truths = {f"two{i}": np.float32([left, right]) for i in range(3)}
        truths["three"] = np.float32([left, right, [0, 900, 50, 1000]])
        truths |= {f"one{i}": np.float32([left]) for i in range(4)}
        truths["none"] = np.zeros((0, 4), np.float32)
        per_image = _two_median_boxes(truths)
        assert {i: round(value, 6) for i, value in per_image.items()} == {
            "two0": 1, "two1": 1, "two2": 1, "three": 0.666667,
            "one0": 0.5, "one1": 0.5, "one2": 0.5, "one3": 0.5,
        }  # fmt: skip


def _two_median_boxes(truths: dict) -> dict[str, float]:
    """Scores of a perfect image classifier that always draws the median box of each lung.

    The median of a lung's boxes is that of the csv's columns x, y, width and height. Medians of
    the corners give a larger box (lower edges scatter more than heights) and a higher score.
    """
    rows = np.concatenate([boxes for boxes in truths.values() if len(boxes)])
    on_the_right = (rows[:, 0] + rows[:, 2]) / 2 >= 512
    medians = []
    for side in (False, True):
        lung = rows[on_the_right == side]
        corner = np.median(lung[:, :2], axis=0)
        extent = np.median(lung[:, 2:] - lung[:, :2], axis=0)
        medians.append(np.concatenate([corner, corner + extent]))
    boxes = np.array(medians), np.array([0.9, 0.8])
    found = {i: boxes if len(rows) else NONE for i, rows in truths.items()}
    return rsna_score(truths, found).per_image


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "rsna/labels.csv").is_file(), reason=f"no RSNA labels in {DATA}")
def test_two_median_boxes_on_the_real_labels() -> None:
    """0.080 on RSNA's 6,012 positive images.

    The folder holds 2,754 of them, and more with two boxes (64 % instead of 54 %), where two boxes
    score highest: 0.087 as they are, 0.081 with the challenge's mix.
    """
    boxes = read_labels(DATA / "rsna/labels.csv").boxes
    per_image = _two_median_boxes(boxes)
    images_with = {1: 2614, 2: 3266, 3: 119, 4: 13}  # of the challenge's stage 2
    score_with = {
        n: np.mean([value for i, value in per_image.items() if len(boxes[i]) == n])
        for n in images_with
    }
    mixed = sum(images_with[n] * score_with[n] for n in images_with) / sum(images_with.values())
    assert mixed == pytest.approx(0.080, abs=0.002)


def test_a_trainer_can_sweep_every_epoch() -> None:
    rng = np.random.default_rng(0)
    truths = synthetic_truths(rng, 300, 900)
    found = {}
    for image_id in truths:
        corner = rng.uniform(0, 600, (100, 2))
        found[image_id] = np.concatenate([corner, corner + 200], axis=1), rng.random(100)
    start = time.process_time()
    rsna_table(truths, found).sweep(np.linspace(0.01, 0.99, 50))
    assert time.process_time() - start < 2.0
