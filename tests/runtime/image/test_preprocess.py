import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.errors import DataError
from pneumonia.runtime.image.preprocess import letterbox, network_input, resize
from pneumonia.runtime.model.spec import InputSpec

sides = st.integers(1, 300)


def test_reduction_is_antialiased():
    lines = np.zeros((64, 64), np.uint8)
    lines[:, ::2] = 200  # finer than the target grid: only its mean may survive
    small = resize(lines, 16, 16)
    assert abs(small[2:-2, 2:-2].astype(int) - 100).max() <= 2


def test_resize_keeps_a_constant_and_the_size_asked_for():
    assert (resize(np.full((7, 9), 137, np.uint8), 20, 3) == 137).all()
    assert resize(np.zeros((7, 9), np.uint8), 20, 3).shape == (20, 3)


def test_resize_to_the_same_size_is_a_copy():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    same = resize(image, 3, 4)
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_other_arrays_are_refused(bad):
    with pytest.raises(DataError, match="uint8"):
        resize(bad, 2, 2)


def test_letterbox_by_hand():
    canvas, place = letterbox(np.full((50, 100), 9, np.uint8), 64, 64, 77)
    assert (place.left, place.top, place.scale) == (0, 16, 0.64)
    assert (canvas[16:48] == 9).all()
    assert (canvas[:16] == 77).all()
    assert (canvas[48:] == 77).all()
    assert place.to_original([[0, 16, 64, 48]]).tolist() == [[0, 0, 100, 50]]
    assert place.to_original([[32, 32, 64, 48]]).tolist() == [[50, 25, 100, 50]]


@given(sides, sides, sides, sides)
def test_content_touches_the_canvas_and_boxes_return(height, width, rows, columns):
    canvas, place = letterbox(np.full((rows, columns), 200, np.uint8), height, width, 0)
    assert canvas.shape == (height, width)
    new_height, new_width = place.content_size()
    assert (new_height == height) or (new_width == width)
    assert int((canvas == 200).sum()) == new_height * new_width
    # the content maps exactly onto the whole image, whatever the rounding of its sides
    corner, size = np.array([place.left, place.top]), np.array([new_width, new_height])
    shares = np.array([[0, 1], [0.25, 0.8]])
    boxes = [[*(corner + low * size), *(corner + high * size)] for low, high in shares]
    expected = [[low * columns, low * rows, high * columns, high * rows] for low, high in shares]
    np.testing.assert_allclose(place.to_original(boxes), expected, rtol=1e-6, atol=1e-3)


def test_network_input_values_by_hand():
    spec = InputSpec(3, 2, 4, mean=0.5, std=0.25, pad_value=255)
    values, place = network_input(np.array([[0, 51], [102, 204]], np.uint8), spec)
    assert values.shape == (3, 2, 4)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[2], [[2, -2, -1.2, 2], [2, -0.4, 1.2, 2]], rtol=1e-6)
    np.testing.assert_array_equal(values[0], values[2])
    assert (place.left, place.top) == (1, 0)
