import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.matching import order_boxes
from evaluation.metrics.ranking import (
    BoxRanking,
    average_precision,
    average_precision_once,
    count_draws,
    froc_curve,
    mean_average_precision,
    precision_recall,
    rank_boxes,
    sensitivity_at,
)
from pneumonia.runtime.errors import DataError
from tests.evaluation.metrics.coco_peer import (
    ALL_THRESHOLDS,
    COCO_THRESHOLDS,
    RSNA_THRESHOLDS,
    coco_metrics,
)
from tests.evaluation.studies import realistic_predictions, synthetic_truths

NONE = np.zeros((0, 4)), np.zeros(0)


def _rank(truths: dict, found: dict, thresholds: tuple[float, ...] = ALL_THRESHOLDS) -> BoxRanking:
    boxes, scores = [], []
    for image_id in truths:
        rows, values = (np.asarray(part, dtype=float) for part in found[image_id])
        order = order_boxes(rows, values)
        boxes.append(rows.reshape(-1, 4)[order])
        scores.append(values[order])
    return rank_boxes(list(truths.values()), boxes, scores, thresholds)


def test_hand_computed_average_precision() -> None:
    truths = {"a": [[0, 0, 10, 10]], "b": [[0, 0, 10, 10]], "c": []}
    hit = [[0, 0, 10, 10]]
    found = {"a": (hit, [0.9]), "b": (hit, [0.5]), "c": (hit, [0.7])}
    # in order: hit, alarm, hit -> recall 1/2 at precision 1, recall 1 at precision 2/3;
    # 51 grid points (0 .. 0.50) at 1 and 50 at 2/3
    expected = (51 + 50 * 2 / 3) / 101
    metrics = coco_metrics(truths, found)
    assert metrics.ap50 == pytest.approx(expected)
    assert metrics.ap_50_95 == pytest.approx(expected)
    assert metrics.ar_1 == 1.0
    ranking = _rank(truths, found)
    counts = count_draws(ranking, np.ones((1, 3)))
    assert average_precision(ranking, counts, 0.5)[0] == pytest.approx(expected)


def test_alarms_on_images_without_truth_lower_the_precision() -> None:
    truth = [[0, 0, 10, 10]]
    alone = coco_metrics({"a": truth}, {"a": (truth, [0.5])})
    alarmed = coco_metrics(
        {"a": truth, "n": []}, {"a": (truth, [0.5]), "n": ([[3, 3, 9, 9]], [0.9])}
    )
    assert (alone.ap50, alarmed.ap50) == (pytest.approx(1.0), pytest.approx(0.5))


def test_recall_per_number_of_boxes() -> None:
    truth = [[0, 0, 10, 10], [50, 50, 60, 60]]
    metrics = coco_metrics({"a": truth}, {"a": (truth, [0.9, 0.8])})
    assert (metrics.ar_1, metrics.ar_10, metrics.ar_100) == (0.5, 1.0, 1.0)


def test_empty_sides() -> None:
    assert coco_metrics({"a": [[0, 0, 5, 5]]}, {"a": NONE}).ap50 == 0.0
    assert math.isnan(coco_metrics({"a": []}, {"a": ([[0, 0, 5, 5]], [0.9])}).ap50)
    with pytest.raises(DataError, match="same ids"):
        coco_metrics({"a": []}, {})
    ranking = _rank({"a": []}, {"a": NONE})
    counts = count_draws(ranking, np.ones((1, 1)))
    assert np.isnan(average_precision(ranking, counts, 0.5)[0])


@given(st.integers(0, 10_000), st.integers(0, 12), st.integers(0, 12))
def test_numpy_agrees_with_faster_coco_eval(seed: int, positives: int, negatives: int) -> None:
    rng = np.random.default_rng(seed)
    truths = synthetic_truths(rng, positives, negatives)
    found = realistic_predictions(rng, truths)
    peer = coco_metrics(truths, found)
    ranking = _rank(truths, found)
    counts = count_draws(ranking, np.ones((1, len(truths))))
    for thresholds, value in (
        (COCO_THRESHOLDS, peer.ap_50_95),
        (RSNA_THRESHOLDS, peer.ap_40_75),
        ((0.50,), peer.ap50),
        ((0.75,), peer.ap75),
    ):
        ours = mean_average_precision(ranking, counts, thresholds)[0]
        assert ours == pytest.approx(value, abs=1e-9, nan_ok=True)


def test_a_weight_of_two_is_the_image_twice() -> None:
    rng = np.random.default_rng(3)
    truths = synthetic_truths(rng, 8, 8)
    found = realistic_predictions(rng, truths)
    weights = rng.integers(0, 3, (1, 16)).astype(float)
    copies = {
        f"{image_id}-{copy}": image_id
        for image_id, weight in zip(truths, weights[0], strict=True)
        for copy in range(int(weight))
    }
    repeated = _rank(
        {new: truths[old] for new, old in copies.items()},
        {new: found[old] for new, old in copies.items()},
    )
    plain = _rank(truths, found)
    once = count_draws(plain, weights)
    ones = count_draws(repeated, np.ones((1, len(copies))))
    for threshold in (0.4, 0.75):
        assert average_precision(plain, once, threshold) == pytest.approx(
            average_precision(repeated, ones, threshold), abs=1e-12
        )
        assert sensitivity_at(plain, once, threshold, np.array([3.0])) == pytest.approx(
            sensitivity_at(repeated, ones, threshold, np.array([3.0]))
        )


def test_hand_computed_froc() -> None:
    truths = {"a": [[0, 0, 10, 10]], "b": [[0, 0, 10, 10]], "normal": [], "other": []}
    hit, miss = [0, 0, 10, 10], [20, 20, 30, 30]
    found = {
        "a": ([hit, miss], [0.9, 0.8]),
        "b": ([hit], [0.5]),
        "normal": ([miss], [0.7]),
        "other": ([miss], [0.6]),
    }
    ranking = _rank(truths, found, (0.4,))
    counts = count_draws(ranking, np.ones((1, 4)))
    for allowed, expected in ((0, 0.5), (2, 0.5), (2.9, 0.5), (3, 1.0), (9, 1.0)):
        assert sensitivity_at(ranking, counts, 0.4, np.array([allowed]))[0] == expected
    normal = count_draws(ranking, np.ones((1, 4)), np.array([[0.0, 0, 1, 0]]))
    for allowed, expected in ((0, 0.5), (1, 1.0)):
        value = sensitivity_at(ranking, normal, 0.4, np.array([allowed]), True)
        assert value[0] == expected


def test_tied_boxes_enter_together() -> None:
    """Six hits and six false boxes, all of one score: precision 1/2 at every recall."""
    box = [[0, 0, 10, 10]]
    truths = {f"p{i}": box for i in range(6)} | {f"n{i}": [] for i in range(6)}
    found = {image_id: (box, [0.5]) for image_id in truths}
    for ids in (list(truths), list(truths)[::-1]):
        ranking = _rank({i: truths[i] for i in ids}, found)
        assert average_precision_once(ranking, 0.5) == pytest.approx(0.5)
        counts = count_draws(ranking, np.ones((1, 12)))
        assert sensitivity_at(ranking, counts, 0.5, np.array([5.0]))[0] == 0.0
        assert sensitivity_at(ranking, counts, 0.5, np.array([6.0]))[0] == 1.0
        recall, precision, score = precision_recall(ranking, 0.5)
        assert (recall.tolist(), precision.tolist(), score.tolist()) == ([1.0], [0.5], [0.5])


@given(st.integers(0, 10_000), st.sampled_from([1, 2]))
def test_the_order_of_the_images_changes_nothing(seed: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    truths = synthetic_truths(rng, 8, 10)
    found = {
        image_id: (boxes, np.round(scores, digits))
        for image_id, (boxes, scores) in realistic_predictions(rng, truths).items()
    }
    values = []
    for ids in (list(truths), [list(truths)[i] for i in rng.permutation(len(truths))]):
        ranking = _rank({i: truths[i] for i in ids}, found)
        counts = count_draws(ranking, np.ones((1, len(ids))))
        values.append(
            [average_precision_once(ranking, t) for t in ALL_THRESHOLDS]
            + [sensitivity_at(ranking, counts, 0.4, np.array([n]))[0] for n in (1, 4, 9, 18)]
            + [*map(tuple, precision_recall(ranking, 0.5)), *map(tuple, froc_curve(ranking, 0.5))]
        )
    assert values[0] == values[1]
