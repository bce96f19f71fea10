import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pneumonia.network.anchors import kmeans_anchors, mean_best_iou, size_iou
from pneumonia.runtime.errors import DataError
from pneumonia.runtime.model.boxes import iou_matrix

sizes = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=4, max_size=40)


def test_iou_of_sizes_by_hand():
    found = size_iou(np.array([[2.0, 4.0]]), np.array([[4.0, 2.0], [2.0, 2.0], [2.0, 4.0]]))
    np.testing.assert_allclose(found, [[4 / 12, 4 / 8, 1.0]])


@given(sizes, sizes)
def test_iou_of_sizes_is_that_of_boxes_with_one_corner(a, b):
    def corner(pairs):
        return np.array([[0, 0, w, h] for w, h in pairs], dtype=np.float32)

    expected = iou_matrix(corner(a), corner(b))
    found = size_iou(np.array(a, dtype=float), np.array(b, dtype=float))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_separate_clusters_are_found_exactly_and_sorted():
    generator = np.random.default_rng(0)
    centres = np.array([[10.0, 14.0], [60.0, 30.0], [80.0, 200.0], [300.0, 250.0]])
    # odd, symmetric clusters: the median is the centre
    offsets = np.array([[0, 0], [1, 1], [-1, -1], [1, -1], [-1, 1]]) * 0.5
    boxes = (centres[:, None] + offsets).reshape(-1, 2)
    found = kmeans_anchors(generator.permutation(boxes), 4, seed=3)
    np.testing.assert_array_equal(found, centres)


def test_as_many_anchors_as_boxes_are_the_boxes():
    boxes = np.array([[5.0, 5.0], [1.0, 2.0], [9.0, 1.0]])
    np.testing.assert_array_equal(kmeans_anchors(boxes, 3), [[1, 2], [9, 1], [5, 5]])


@given(boxes=sizes, k=st.integers(1, 4), seed=st.integers(0, 9))
def test_anchors_repeat_scale_and_cover_no_worse_than_any_single_choice(boxes, k, seed):
    array = np.array(boxes, dtype=float)
    assume(len(np.unique(array, axis=0)) >= k)
    found = kmeans_anchors(array, k, seed)
    np.testing.assert_array_equal(found, kmeans_anchors(array, k, seed))
    assert found.shape == (k, 2)
    assert (np.diff(found.prod(axis=1)) >= 0).all()
    assert (found >= array.min(axis=0)).all()
    assert (found <= array.max(axis=0)).all()
    np.testing.assert_allclose(kmeans_anchors(array * 2, k, seed), found * 2)  # powers of 2: exact
    generator = np.random.default_rng(seed)
    rival = array[generator.choice(len(array), k, replace=False)]
    assert mean_best_iou(array, found) >= 0.9 * mean_best_iou(array, rival)


def test_own_anchors_beat_cocos_on_tall_boxes():
    generator = np.random.default_rng(1)
    boxes = np.exp(generator.normal([4.4, 4.8], [0.35, 0.45], (500, 2)))  # like lung opacities
    coco = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198),
            (373, 326)]  # fmt: skip
    assert mean_best_iou(boxes, kmeans_anchors(boxes, 9)) > mean_best_iou(boxes, coco) + 0.1


@pytest.mark.parametrize(
    ("boxes", "k"),
    [
        ([[3, 4], [3, 4]], 2),
        ([[3, 4]], 0),
        (np.zeros((0, 2)), 1),
        ([[3, 0], [1, 1]], 1),
        ([[3, np.nan], [1, 1]], 1),
        ([[1, 2, 3]], 1),
    ],
)
def test_unusable_boxes_are_refused(boxes, k):
    with pytest.raises(DataError, match=r"Too few|not usable"):
        kmeans_anchors(boxes, k)
