import numpy as np
import pytest

from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.storage.bundle import load_bundle
from tests.runtime.bundles import brightness_detector, write_bundle


@pytest.fixture(autouse=True, scope="module")
def _quick_children(forked_children):
    pass


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("model") / "bundle", *brightness_detector())


@pytest.fixture(scope="session")
def detector(bundle_folder):
    bundle = load_bundle(bundle_folder)
    return Detector(bundle, open_engine(bundle, "reference"))


@pytest.fixture(scope="session")
def bright():
    """64 x 64 with one bright 16 x 16 cell at row 1, column 2: box (32, 16, 48, 32), score 1."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16:32, 32:48] = 255
    return pixels


@pytest.fixture(scope="session")
def dark():
    """64 x 64 without a bright cell, but not blank."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[10:20, 10:20] = 40
    return pixels
