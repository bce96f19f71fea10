"""The augmenter moves pixels and boxes together, and is a pure function of its seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_prep.augment.augmenter import MIN_SIDE, Augmenter, AugmentSettings
from pneumonia.runtime.image.preprocess import letterbox

STILL = AugmentSettings(
    horizontal_flip=0, scale=0, shift=0, rotation_deg=0, brightness=0, contrast=0, gamma=0,
    blur=0, noise=0,
)  # fmt: skip
GEOMETRY = AugmentSettings(brightness=0, contrast=0, gamma=0, blur=0, noise=0)
NO_BOXES = np.zeros((0, 4), np.float32)


def block(height, width, box):
    pixels = np.zeros((height, width), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 200
    return pixels, np.array([box], np.float32)


def test_without_change_it_is_the_letterbox():
    pixels, boxes = block(400, 512, (150, 100, 300, 200))
    image, moved = Augmenter(256, STILL)(pixels, boxes, seed=3)
    canvas, transform = letterbox(pixels, 256, 256, 0)
    np.testing.assert_allclose(transform.to_original(moved), boxes, atol=1.02)
    assert np.abs(image.astype(int) - canvas).mean() < 1.0


def test_flip_mirrors_image_and_box():
    pixels, boxes = block(256, 256, (20, 40, 60, 100))
    mirror = STILL.model_copy(update={"horizontal_flip": 1.0})
    image, moved = Augmenter(256, mirror)(pixels, boxes, seed=0)
    np.testing.assert_allclose(moved, [[196, 40, 236, 100]], atol=1e-3)
    np.testing.assert_array_equal(image, pixels[:, ::-1])


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(60, 700),
    width=st.integers(60, 700),
    size=st.sampled_from([64, 128, 256]),
)
def test_the_box_bounds_the_moved_block(seed, height, width, size):
    box = (width // 3, height // 3, 2 * width // 3, 2 * height // 3)
    pixels, boxes = block(height, width, box)
    still = GEOMETRY.model_copy(update={"rotation_deg": 0.0, "min_visible": 0.0})
    image, moved = Augmenter(size, still)(pixels, boxes, seed)
    smallest = size / max(height, width) * (1 - still.scale) * min(height // 3, width // 3)
    if len(moved) == 0:
        assert smallest < MIN_SIDE  # nothing else may cost a block so far inside its box
        return
    ys, xs = np.nonzero(image > 100)
    seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose(moved[0], seen, atol=1.5)


@pytest.mark.parametrize("seed", range(20))
def test_rotation_bounds_the_inscribed_ellipse(seed):
    pixels = np.zeros((256, 256), np.uint8)
    ys, xs = np.mgrid[:256, :256] + 0.5
    pixels[((xs - 128) / 60) ** 2 + ((ys - 128) / 25) ** 2 <= 1] = 255
    boxes = np.array([[68, 103, 188, 153]], np.float32)
    turned = STILL.model_copy(update={"rotation_deg": 30.0})
    image, moved = Augmenter(256, turned)(pixels, boxes, seed)
    ys, xs = np.nonzero(image > 127)
    np.testing.assert_allclose(moved[0], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1.6)


@given(seed=st.integers(0, 2**32 - 1))
def test_boxes_stay_inside_and_large_enough(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 250, (6, 2))
    high = np.minimum(low + rng.uniform(8, 250, (6, 2)), 300)
    boxes = np.hstack([low, high]).astype(np.float32)
    wild = AugmentSettings(shift=0.4, scale=0.5, rotation_deg=20)
    _, moved = Augmenter(128, wild)(np.zeros((300, 300), np.uint8), boxes, seed)
    assert len(moved) <= 6
    assert (moved >= 0).all()
    assert (moved <= 128).all()
    assert (moved[:, 2:] - moved[:, :2] >= MIN_SIDE - 1e-3).all()


@pytest.mark.parametrize(("tall", "n_kept"), [(19, 0), (21, 1)])
def test_a_box_thinner_than_two_pixels_is_dropped(tall, n_kept):
    pixels, boxes = block(640, 640, (200, 300, 440, 300 + tall))  # a tenth of it: 1.9 or 2.1
    _, moved = Augmenter(64, STILL)(pixels, boxes, seed=0)
    assert len(moved) == n_kept


def test_a_box_that_leaves_is_dropped():
    pixels, boxes = block(256, 256, (0, 100, 40, 140))
    gone = STILL.model_copy(update={"shift": 0.5, "min_visible": 0.9})
    kept = [len(Augmenter(256, gone)(pixels, boxes, seed)[1]) for seed in range(30)]
    assert 0 < sum(kept) < 30


def test_a_seed_is_an_image():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (200, 300), dtype=np.uint8)
    boxes = np.array([[30, 30, 90, 120]], np.float32)
    lively = AugmentSettings(blur=1, noise=1, dropout=1)
    one, other = Augmenter(96, lively), Augmenter(96, lively)
    other(pixels, boxes, 5)  # its own history must not matter
    image_a, boxes_a = one(pixels, boxes, 9)
    image_b, boxes_b = other(pixels, boxes, 9)
    image_c, _ = one(pixels, boxes, 10)
    np.testing.assert_array_equal(image_a, image_b)
    np.testing.assert_array_equal(boxes_a, boxes_b)
    assert (image_a != image_c).any()
    assert image_a.dtype == np.uint8


def test_no_boxes_is_no_problem():
    image, moved = Augmenter(64, AugmentSettings())(np.zeros((90, 80), np.uint8), NO_BOXES, 1)
    assert image.shape == (64, 64)
    assert moved.shape == (0, 4)


def test_settings_refuse_nonsense():
    with pytest.raises(ValidationError):
        AugmentSettings(scale=1.5)
    with pytest.raises(ValidationError):
        AugmentSettings(flip=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["tone", "resample", "sharpen"])
def test_grey_values_change_and_boxes_stay(name):
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(128), np.arange(128)) / 2 + rng.normal(0, 12, (128, 128))
    pixels = np.clip(smooth, 0, 255).astype(np.uint8)
    boxes = np.array([[20, 30, 70, 90]], np.float32)
    augment = Augmenter(128, STILL.model_copy(update={name: 1.0}))
    seen = [augment(pixels, boxes, seed) for seed in range(8)]
    assert all(not np.array_equal(image, pixels) for image, _ in seen)
    assert len({image.tobytes() for image, _ in seen}) > 3
    assert all(np.allclose(moved, boxes, atol=1e-3) for _, moved in seen)
    assert all(np.corrcoef(blocks(image), blocks(pixels))[0, 1] > 0.9 for image, _ in seen)


def blocks(image):
    """Means of 4 x 4 pixels: noise that is sharpened does not count."""
    return image.reshape(32, 4, 32, 4).mean((1, 3)).ravel()
