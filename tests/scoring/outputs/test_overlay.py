import io

import numpy as np
from PIL import Image

from pneumonia.runtime.errors import RESEARCH_ONLY
from pneumonia.scoring.outputs.overlay import BOX_COLOUR, STRIP, draw_overlay

NONE = np.zeros((0, 4), np.float32)


def opened(data):
    image = Image.open(io.BytesIO(data))
    return image, np.array(image.convert("RGB"))


def test_image_is_unchanged_between_the_strips():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 500), dtype=np.uint8)
    _, array = opened(draw_overlay(pixels, NONE, np.zeros(0), "model"))
    assert array.shape == (200 + 2 * STRIP, 500, 3)
    shown = np.repeat(np.minimum(pixels, 254)[..., None], 3, axis=2)  # 255 stands for amber
    np.testing.assert_array_equal(array[STRIP:-STRIP], shown)


def test_boxes_are_drawn_where_they_are():
    pixels = np.zeros((600, 600), np.uint8)
    box = np.array([[100, 200, 300, 400]], np.float32)
    _, array = opened(draw_overlay(pixels, box, np.array([0.9]), "model"))
    amber = (array == BOX_COLOUR).all(axis=2)
    assert amber[STRIP + 300, 100:102].all()  # left edge, two pixels inwards
    assert amber[STRIP + 300, 299:301].all()
    assert amber[STRIP + 200, 150:250].all()
    assert amber[STRIP + 400, 150:250].all()
    assert not amber[STRIP + 210 : STRIP + 390, 110:290].any()
    assert not amber[STRIP + 410 :].any()


def test_large_and_small_images():
    box = np.array([[1000, 1500, 2000, 3000]], np.float32)
    _, array = opened(draw_overlay(np.zeros((3000, 2000), np.uint8), box, np.array([0.9]), "m"))
    assert array.shape == (1024 + 2 * STRIP, 683, 3)
    amber = (array == BOX_COLOUR).all(axis=2)
    assert amber[STRIP + 800, round(1000 * 683 / 2000)]
    image, _ = opened(draw_overlay(np.full((8, 8), 99, np.uint8), NONE, np.zeros(0), "m" * 300))
    assert image.size == (480, 8 + 2 * STRIP)


def test_disclaimer_is_drawn_and_in_the_files_text():
    image, array = opened(
        draw_overlay(np.zeros((50, 600), np.uint8), NONE, np.zeros(0), "net 12ab")
    )
    assert image.text == {"Disclaimer": RESEARCH_ONLY, "Model": "net 12ab"}
    assert (array[:22] > 200).sum() > 500
    assert (array[22:STRIP] > 200).any()
    assert (array[-STRIP:] > 200).sum() > 500
