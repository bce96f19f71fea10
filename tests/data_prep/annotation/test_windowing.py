"""Windows on stored values, worked out by hand, and against the first display."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.annotation.windowing import windowed_pixels
from pneumonia.runtime.image.radiograph import read_radiograph
from tests.runtime.dicoms import chest_dataset, save

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def file_of(folder, photometric="MONOCHROME2", pixels=RAMP, bits=12, **tags):
    path = folder / "image.dcm"
    save(path, chest_dataset(pixels, bits, photometric, **tags))
    return path


EXACT = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}


def at(pixels, value):
    return int(pixels.reshape(-1)[value])


def test_what_the_window_cut_off_is_seen_again(tmp_path):
    path = file_of(tmp_path, **EXACT)  # 1500..2500
    first = read_radiograph(str(path)).pixels
    assert at(first, 2600) == at(first, 3000) == 255
    wide = windowed_pixels(path, 0.5, 2.0)  # 1000..3000
    assert [at(wide, v) for v in (900, 1000, 1250, 2000, 2600, 3000)] == [0, 0, 32, 128, 204, 255]
    high = windowed_pixels(path, 1.5, 1.0)  # 2500..3500
    assert [at(high, v) for v in (2500, 3000, 3500)] == [0, 128, 255]


def test_monochrome1_counts_from_the_other_end(tmp_path):
    path = file_of(tmp_path, "MONOCHROME1", **EXACT)  # 2500 is black, 1500 white
    bright = windowed_pixels(path, 1.5, 1.0)  # brighter than the display's white: 1500..500
    assert [at(bright, v) for v in (1500, 1000, 500)] == [0, 128, 255]


def test_without_a_window_the_values_that_occur_count(tmp_path):
    path = file_of(tmp_path, pixels=(RAMP // 2 + 100).astype(np.uint16))  # 100..2147
    half = windowed_pixels(path, 0.25, 0.5)  # 100..1123.5
    assert at(half, 0) == 0
    assert at(half, 4095) == 255
    assert at(half, 2 * 512) == 128  # 612 of 100..1123.5 is a half


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "tags",
    [
        EXACT,
        {"WindowCenter": 2000, "WindowWidth": 1001},
        {"WindowCenter": 1000, "WindowWidth": 800, "RescaleSlope": 2, "RescaleIntercept": -900},
        {},
    ],
)
@given(center=st.floats(0.2, 0.8), width=st.floats(0.2, 0.4))
@settings(max_examples=8)
def test_inside_the_first_display_both_ways_agree(
    tmp_path_factory, photometric, tags, center, width
):
    path = file_of(tmp_path_factory.mktemp("w"), photometric, **tags)
    first = read_radiograph(str(path)).pixels / 255.0
    expected = np.clip((first - (center - width / 2)) / width, 0, 1) * 255
    found = windowed_pixels(path, center, width).astype(float)
    assert np.abs(found - expected).max() <= 0.5 / width + 1  # 8 bits against all bits


@pytest.mark.parametrize("tags", [{}, EXACT, {**EXACT, "VOILUTFunction": "SIGMOID"}])
def test_the_first_display_is_untouched(tmp_path, tags):
    path = file_of(tmp_path, **tags)
    assert np.array_equal(windowed_pixels(path, 0.5, 1.0), read_radiograph(str(path)).pixels)


def test_sigmoid_and_png_work_on_the_display(tmp_path):
    path = file_of(tmp_path, **{**EXACT, "VOILUTFunction": "SIGMOID"})
    shown = read_radiograph(str(path)).pixels
    found = windowed_pixels(path, 0.25, 0.5)
    assert at(found, 0) == at(shown, 0) * 2
    Image.fromarray(np.array([[0, 64, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    assert windowed_pixels(tmp_path / "a.png", 0.25, 0.5).tolist() == [[0, 128, 255, 255]]


def test_a_flat_image_is_no_crash(tmp_path):
    path = file_of(tmp_path, pixels=np.full((8, 8), 7, np.uint16))
    assert windowed_pixels(path, 0.4, 0.7).shape == (8, 8)
