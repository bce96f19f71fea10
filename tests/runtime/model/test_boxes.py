import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.boxes import (
    as_boxes,
    clip_boxes,
    cxcywh_to_xyxy,
    iou_matrix,
    nms,
    xyxy_to_xywh,
)

coordinate = st.integers(-50, 50)
box = st.tuples(coordinate, coordinate, st.integers(0, 40), st.integers(0, 40)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
boxes = st.lists(box, max_size=25).map(as_boxes)


def iou_by_counting(a, b):
    """Integer boxes: count unit cells."""
    ax, bx = ({(x, y) for x in range(int(q[0]), int(q[2])) for y in range(int(q[1]), int(q[3]))}
              for q in (a, b))  # fmt: skip
    return len(ax & bx) / len(ax | bx) if ax | bx else 0.0


@given(boxes, boxes)
def test_iou_equals_counted_cells(a, b):
    a, b = a[:4], b[:4]
    expected = [[iou_by_counting(p, q) for q in b] for p in a]
    np.testing.assert_allclose(iou_matrix(a, b), np.reshape(expected, (len(a), len(b))), atol=1e-6)


def test_iou_of_crossed_and_empty_boxes_is_zero():
    odd = as_boxes([[5, 5, 1, 1], [3, 3, 3, 9]])
    assert iou_matrix(odd, as_boxes([[0, 0, 10, 10], [5, 5, 1, 1]])).tolist() == [[0, 0], [0, 0]]


def test_iou_of_large_offsets_keeps_precision():
    a = as_boxes([[10_000, 10_000, 10_002, 10_002]])
    b = as_boxes([[10_001, 10_000, 10_003, 10_002]])
    assert iou_matrix(a, b)[0, 0] == np.float32(1 / 3)


def nms_by_definition(boxes, scores, threshold):
    remaining = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    keep = []
    for i in remaining:
        if all(iou_matrix(boxes[[i]], boxes[[k]])[0, 0] <= threshold for k in keep):
            keep.append(i)
    return keep


@given(boxes, st.data(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_nms_equals_its_definition(found, data, threshold):
    scores = data.draw(
        hnp.arrays(np.float32, len(found), elements=st.sampled_from([0.125, 0.25, 0.5, 1]))
    )
    keep = nms(found, scores, threshold).tolist()
    assert keep == nms_by_definition(found, scores, threshold)
    assert nms(found, scores, threshold, limit=3).tolist() == keep[:3]


def test_nms_keeps_the_lower_index_of_a_tie():
    same = as_boxes([[0, 0, 9, 9]] * 3)
    assert nms(same, np.array([0.5, 0.7, 0.7]), 0.5).tolist() == [1]


@given(boxes)
def test_formats_are_inverse(found):
    corner, size = np.hsplit(xyxy_to_xywh(found), 2)
    np.testing.assert_array_equal(np.hstack([corner, corner + size]), found)
    centre = np.concatenate(
        [(found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]], axis=1
    )
    np.testing.assert_array_equal(cxcywh_to_xyxy(centre), found)


def test_clip_by_hand():
    clipped = clip_boxes(as_boxes([[-5, 2, 200, 300], [150, 5, 160, 8]]), 100, 50)
    assert clipped.tolist() == [[0, 2, 100, 50], [100, 5, 100, 8]]


def test_empty_list_is_no_boxes_and_wrong_shape_is_refused():
    assert as_boxes([]).shape == (0, 4)
    with pytest.raises(DataError, match=r"\(n, 4\)"):
        as_boxes([[1, 2, 3]])
