"""Masked lungs in whole radiographs: what shows, what is dropped, what stays the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.augment.composite import (
    CompositeSettings,
    Compositor,
    lung_mask,
    paste,
    visible_share,
)
from data_prep.dataset.reader import DatasetImage


def masked(size: int = 80, grey: int = 120) -> np.ndarray:
    """A black frame with one bright lung at the left, rows 20-60, columns 10-30."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[20:60, 10:30] = grey
    return pixels


class FakeDataset:
    """Just what the compositor asks of a dataset."""

    def __init__(self) -> None:
        whole = np.random.default_rng(0).integers(80, 160, (120, 120)).astype(np.uint8)
        self.images = [masked(), whole, whole.copy()]
        box = np.array([[10, 20, 30, 60]], np.float32)
        hidden = np.array([[50, 20, 70, 60]], np.float32)
        self.truths = [np.vstack([box, hidden]), np.zeros((0, 4), np.float32), box]
        self.records = [
            DatasetImage(name, kind, "train", name, "", "", "", None, 80, 80, True)
            for name, kind in (("a", "lungs"), ("b", "nih"), ("c", "full"))
        ]

    def pixels(self, i: int) -> np.ndarray:
        return self.images[i]

    def boxes(self, i: int) -> np.ndarray:
        return self.truths[i]

    cache_boxes = boxes


def compositor(probability: float) -> Compositor:
    return Compositor(FakeDataset(), [0, 1, 2], CompositeSettings(probability=probability))  # type: ignore[arg-type]


def test_mask_is_the_lung_without_specks_and_pinholes_but_with_real_holes() -> None:
    pixels = masked()
    expected = (pixels > 0).astype(np.uint8)
    pixels[70, 70] = 200  # a speck
    pixels[40, 20] = 0  # a pinhole
    assert np.array_equal(lung_mask(pixels), expected)
    pixels[30:45, 14:26] = 0  # cut out by the mask
    assert lung_mask(pixels)[37, 20] == 0


def test_jpeg_noise_outside_is_not_lung() -> None:
    pixels = masked()
    pixels[pixels == 0] = 9
    assert lung_mask(pixels).sum() == 40 * 20


def test_visible_share_by_hand() -> None:
    mask = lung_mask(masked())
    boxes = np.array([[10, 20, 30, 60], [20, 20, 40, 60], [50, 50, 70, 70], [-9, 0, -1, 5]])
    assert visible_share(mask, boxes.astype(np.float32)).tolist() == [1.0, 0.5, 0.0, 0.0]


def test_paste_keeps_the_lungs_core_and_fills_the_rest() -> None:
    lungs, mask = masked(), lung_mask(masked())
    whole = np.full((200, 200), 60, np.uint8)
    whole[::2] = 80
    result = paste(lungs, mask, whole, feather=0.012)
    assert np.all(np.abs(result[28:52, 16:24].astype(int) - 120) <= 1)
    # Surroundings follow the lungs' mean grey, so nothing black is left.
    assert result.min() > 100


@given(st.floats(0, 0.05), st.integers(20, 235))
def test_a_flat_pair_gives_a_flat_picture(feather: float, grey: int) -> None:
    whole = np.full((50, 50), 7, np.uint8)
    result = paste(masked(grey=grey), lung_mask(masked(grey=grey)), whole, feather)
    assert np.all(result == grey)


def test_only_masked_images_change_and_hidden_boxes_go() -> None:
    made = compositor(1.0)
    pixels, boxes = made(0, seed=3)
    assert boxes.tolist() == [[10, 20, 30, 60]]  # the other box shows another patient's lung
    assert (pixels[:, 60:] > 20).all()
    for whole in (1, 2):
        pixels, boxes = made(whole, seed=3)
        assert np.array_equal(pixels, made.dataset.pixels(whole))
        assert len(boxes) == len(made.dataset.boxes(whole))


def test_surroundings_are_whole_and_negative() -> None:
    assert compositor(1.0).surroundings == [1]


def test_same_seed_same_picture_and_probability_is_kept() -> None:
    made = compositor(0.4)
    assert np.array_equal(made(0, 11)[0], made(0, 11)[0])
    changed = [not np.array_equal(made(0, seed)[0], masked()) for seed in range(300)]
    assert np.mean(changed) == pytest.approx(0.4, abs=0.09)
    assert not any(not np.array_equal(compositor(0.0)(0, seed)[0], masked()) for seed in range(20))
