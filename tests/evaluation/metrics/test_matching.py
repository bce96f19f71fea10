import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation.metrics.matching import (
    area,
    iou,
    match_by_score,
    match_by_truth,
    order_boxes,
    pad_boxes,
)

CORNERS = arrays(np.int64, (5, 4), elements=st.integers(0, 12))


def _boxes(corners: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])],
        axis=1,
    ).astype(float)


@given(CORNERS, CORNERS)
def test_iou_equals_counting_pixels(a: np.ndarray, b: np.ndarray) -> None:
    left, right = _boxes(a), _boxes(b)
    table = iou(left, right)
    for i, box in enumerate(left.astype(int)):
        mask = np.zeros((13, 13), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        for j, other in enumerate(right.astype(int)):
            second = np.zeros((13, 13), bool)
            second[other[1] : other[3], other[0] : other[2]] = True
            union = (mask | second).sum()
            assert table[i, j] == ((mask & second).sum() / union if union else 0.0)


def test_an_exact_overlap_is_exact() -> None:
    # 4 of 10: float32 would give 0.4000000059 and turn a tie into a hit
    value = iou(np.float32([[0, 0, 10, 1]]), np.float32([[0, 0, 4, 1]]))[0, 0]
    assert value == 0.4


def test_area_of_a_reversed_box_is_zero() -> None:
    assert area([[5, 5, 1, 9], [0, 0, 2, 3]]).tolist() == [0, 6]


def test_by_score_takes_the_free_truth_of_highest_iou() -> None:
    overlaps = np.array([[0.6, 0.9, 0.0], [0.7, 0.8, 0.0]])
    assert match_by_score(overlaps, 0.5).tolist() == [1, 0, -1]
    assert match_by_score(overlaps, 0.65).tolist() == [1, 0, -1]
    assert match_by_score(overlaps, 0.95).tolist() == [-1, -1, -1]
    assert match_by_score(np.array([[0.5]]), 0.5).tolist() == [0]  # >= : COCO's convention


def test_by_truth_takes_the_first_box_above_t_not_the_best() -> None:
    overlaps = np.array([[[0.5, 0.9], [0.45, 0.0]]])
    matched = match_by_truth(overlaps, [0.4, 0.5])
    # t = 0.4: truth 0 takes box 0 although box 1 fits better, so truth 1 finds box 0 taken
    assert matched[0, :, 0].tolist() == [0, -1]
    # t = 0.5: box 0 is not strictly above, box 1 wins
    assert matched[0, :, 1].tolist() == [1, -1]


@given(arrays(np.float64, (3, 6), elements=st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9])))
def test_leaving_out_the_last_boxes_never_changes_the_first(overlaps: np.ndarray) -> None:
    by_score = match_by_score(overlaps, 0.5)
    by_truth = match_by_truth(overlaps[None], [0.4])[0, :, 0]
    for kept in range(7):
        assert match_by_score(overlaps[:, :kept], 0.5).tolist() == by_score[:kept].tolist()
        shorter = match_by_truth(overlaps[None, :, :kept], [0.4])[0, :, 0]
        assert shorter.tolist() == np.where(by_truth < kept, by_truth, -1).tolist()


def test_ties_in_score_are_ordered_by_place() -> None:
    boxes = [[5, 0, 9, 9], [1, 0, 9, 9], [3, 0, 9, 9]]
    assert order_boxes(boxes, [0.5, 0.5, 0.9]).tolist() == [2, 1, 0]


@pytest.mark.parametrize("rows", [[], [[]], [[[1, 2, 3, 4]], []]])
def test_padding_holds_what_is_there(rows: list) -> None:
    padded = pad_boxes(rows)
    assert padded.shape == (len(rows), max((len(r) for r in rows), default=0), 4)
