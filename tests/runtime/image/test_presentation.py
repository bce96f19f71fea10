"""Every header is shown as dcmtk shows it, and every deviation from the standard is warned of.

Spans: pneumonia.runtime.image.radiograph, pneumonia.runtime.image.display.
"""

import json
import warnings

import numpy as np
import pytest

from pneumonia.runtime.image.radiograph import read_radiograph
from tests.runtime.dicoms import save
from tests.runtime.image import presentation_headers
from tests.runtime.image.presentation_headers import GOLDEN, STEP, build, cases, tolerance
from tests.support.peers import peer

ABOUT_THE_PICTURE = {"blank_image", "looks_inverted"}
# dcmtk rounds modality values, so that a pixel beside the edge of a window may fall on either side
ROUNDED = 0.005


def ours(case, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about the values that are wrong on purpose
        found = read_radiograph(save(folder / "x.dcm", build(case)))
    assert set(found.warnings) - ABOUT_THE_PICTURE == presentation_headers.expected_warnings(case)
    return found.pixels


def assert_same(shown, expected, case):
    difference = np.abs(shown.astype(int) - expected)
    rounded = case[3] in ("fraction", "comma")
    assert (difference > tolerance(case)).mean() <= (ROUNDED if rounded else 0), case


@pytest.mark.parametrize("part", range(4))
def test_two_hundred_headers_as_dcmtk_shows_them_at_some_pixels(tmp_path, part):
    golden = json.loads(GOLDEN.read_text())
    for case in list(cases())[part::4]:
        shown = ours(case, tmp_path).ravel()[::STEP]
        assert_same(shown, golden[str(case[0])], case)


@pytest.mark.interop
@pytest.mark.parametrize(("seed", "number"), [(4095586302, 31), (639385711, 113)])
def test_an_exact_window_differs_from_a_linear_one_which_dcmtk_shows_instead(
    tmp_path, seed, number
):
    peer("dcmj2pnm")
    case = list(cases(200, seed))[number]
    expected = presentation_headers.shown_by_dcmtk(case, tmp_path)
    assert_same(ours(case, tmp_path), expected, case)
    linear = build(case)
    del linear.VOILUTFunction
    shown = read_radiograph(save(tmp_path / "linear.dcm", linear)).pixels
    assert np.abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("seed", [0, 1])
def test_headers_as_dcmtk_shows_them_at_every_pixel(tmp_path, seed):
    peer("dcmj2pnm")
    for case in cases(200, seed):
        expected = presentation_headers.shown_by_dcmtk(case, tmp_path)
        assert_same(ours(case, tmp_path), expected, case)
