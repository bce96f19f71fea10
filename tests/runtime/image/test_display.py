"""The grey scale transform by hand, and pydicom's own functions as judge."""

import warnings

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pneumonia.runtime.errors import DicomError
from pneumonia.runtime.image.display import DisplayPlan, LookUpTable, VoiWindow, read_lut, to_grey
from tests.runtime.dicoms import chest_dataset, lut_item

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_eight_bits_without_window_are_left_alone():
    np.testing.assert_array_equal(to_grey(RAMP, DisplayPlan(8)), RAMP)
    np.testing.assert_array_equal(to_grey(RAMP, DisplayPlan(8, invert=True)), 255 - RAMP)
    # a rescale alone is no change of contrast
    np.testing.assert_array_equal(to_grey(RAMP, DisplayPlan(8, slope=3.0, intercept=-7.0)), RAMP)


def test_inversion_subtracts_from_the_stored_maximum_not_the_images_own():
    dim = np.array([[0, 216]], np.uint8)
    assert to_grey(dim, DisplayPlan(8, invert=True)).tolist() == [[255, 39]]


def test_seven_bits_fill_the_range():
    assert to_grey(np.array([[0, 127]], np.uint8), DisplayPlan(7)).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("window", "value", "unit"),
    [
        # LINEAR, c = 100, w = 51: below 100 - 0.5 - 25 = 74.5 black, above 124.5 white
        (VoiWindow(100, 51), 74, 0.0),
        (VoiWindow(100, 51), 75, 0.01),
        (VoiWindow(100, 51), 99.5, 0.5),
        (VoiWindow(100, 51), 124, 0.99),
        (VoiWindow(100, 51), 125, 1.0),
        # width 1: everything above c - 0.5 is white
        (VoiWindow(100, 1), 99, 0.0),
        (VoiWindow(100, 1), 99.5, 0.0),
        (VoiWindow(100, 1), 100, 1.0),
        # LINEAR_EXACT: 75..125
        (VoiWindow(100, 50, "LINEAR_EXACT"), 75, 0.0),
        (VoiWindow(100, 50, "LINEAR_EXACT"), 100, 0.5),
        (VoiWindow(100, 50, "LINEAR_EXACT"), 110, 0.7),
        (VoiWindow(100, 50, "LINEAR_EXACT"), 126, 1.0),
        # SIGMOID: 1 / (1 + exp(-4 (x - c) / w))
        (VoiWindow(100, 50, "SIGMOID"), 100, 0.5),
        (VoiWindow(100, 50, "SIGMOID"), 125, 1 / (1 + np.exp(-2))),
        (VoiWindow(100, 1e-9, "SIGMOID"), 90, 0.0),
    ],
)
def test_windows_by_hand(window, value, unit):
    assert window.apply(np.array([float(value)]))[0] == pytest.approx(unit, abs=1e-12)


@pytest.mark.parametrize(
    "window",
    [
        VoiWindow(0, 0),
        VoiWindow(0, 0.5),
        VoiWindow(0, -3),
        VoiWindow(0, 0, "SIGMOID"),
        VoiWindow(np.nan, 9),
    ],
)
def test_windows_without_meaning(window):
    assert not window.is_valid()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(800.0, 1200.0), (-50.0, 400.0), (40.5, 80.25)])
def test_rescale_and_window_agree_with_pydicom(function, center, width):
    pydicom_pixels = pytest.importorskip("pydicom.pixels")
    stored = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    dataset = chest_dataset(stored, 12, RescaleSlope=1.5, RescaleIntercept=-100.0)
    dataset.WindowCenter, dataset.WindowWidth = center, width
    dataset.VOILUTFunction = function
    dataset.RescaleType = "US"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modality = pydicom_pixels.apply_modality_lut(stored, dataset)
        theirs = pydicom_pixels.apply_windowing(modality, dataset)
    low, high = -2048 * 1.5 - 100, 2047 * 1.5 - 100  # pydicom's output range
    expected = np.floor((theirs - low) / (high - low) * 255 + 0.5)
    plan = DisplayPlan(12, True, 1.5, -100.0, window=VoiWindow(center, width, function))
    ours = to_grey(stored, plan).astype(int)
    assert np.abs(ours - expected).max() <= 1
    assert (ours == expected).mean() > 0.99


def test_modality_lut_then_voi_lut_by_hand():
    modality = LookUpTable(np.array([10, 20, 30], np.uint16), 1, 8)
    voi = LookUpTable(np.array([0, 100, 255], np.uint16), 19, 8)
    plan = DisplayPlan(8, modality_lut=modality, voi_lut=voi, window=VoiWindow(0, 1))
    # stored 0, 1 -> 10 -> below 19 -> 0; 2 -> 20 -> index 1 -> 100; 3, 9 -> 30 -> last -> 255
    stored = np.array([[0, 1, 2, 3, 9]], np.uint8)
    assert to_grey(stored, plan).tolist() == [[0, 0, 100, 255, 255]]


def test_more_than_eight_bits_without_voi_are_spread_over_what_occurs():
    stored = np.array([[1000, 1500, 3000]], np.uint16)
    assert to_grey(stored, DisplayPlan(12)).tolist() == [[0, 64, 255]]


def test_padding_is_black_and_does_not_stretch_the_range():
    stored = np.array([[-2000, 0, 50, 100]], np.int16)
    plan = DisplayPlan(16, True, padding=(-2000, -2000))
    assert to_grey(stored, plan).tolist() == [[0, 0, 128, 255]]
    assert to_grey(stored, plan._replace(invert=True)).tolist() == [[0, 255, 128, 0]]


def test_constant_image_is_black_not_an_error():
    assert to_grey(np.full((2, 2), 7, np.uint16), DisplayPlan(12)).tolist() == [[0, 0], [0, 0]]


def test_negative_first_value_of_a_lut():
    lut = read_lut(lut_item([1, 2, 3], -2, 8, signed=True), True, False)
    assert lut.apply(np.array([-3, -2, -1, 0, 5])).tolist() == [1, 1, 2, 3, 3]
    # the same written as unsigned, as many devices do
    lut = read_lut(lut_item([1, 2, 3], 65534, 8), True, False)
    assert lut.first == -2


@pytest.mark.parametrize("big_endian", [False, True])
def test_lut_data_as_bytes(big_endian):
    item = Dataset()
    item.LUTDescriptor = [3, 0, 16]
    item.add_new(
        "LUTData", "OW", np.array([1, 256, 65535], ">u2" if big_endian else "<u2").tobytes()
    )
    assert read_lut(item, False, big_endian).values.tolist() == [1, 256, 65535]
    item.add_new("LUTData", "OW", b"\x01\x02\xff")
    assert read_lut(item, False, big_endian).values.tolist() == [1, 2, 255]


def test_zero_entries_mean_65536():
    item = lut_item(np.arange(65536), 0, 16)
    item.LUTDescriptor = [0, 0, 16]
    assert len(read_lut(item, False, False).values) == 65536


@pytest.mark.parametrize("descriptor", [[4, 0, 8], [3, 0, 0], [3, 0, 17], [3, 0]])
def test_malformed_lut_is_refused(descriptor):
    item = lut_item([1, 2, 3], 0, 8)
    item.LUTDescriptor = descriptor
    with pytest.raises(DicomError) as caught:
        read_lut(item, False, False)
    assert (caught.value.status, caught.value.reason) == ("rejected", "lut")
