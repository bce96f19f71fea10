"""The presentation state shows what the model saw, whatever the window's function.

No viewer at hand applies LINEAR_EXACT, and none SIGMOID from a presentation state: both are judged
by the formulas of the standard (PS3.3 C.11.2.1.3), SIGMOID also by dcmtk on the image itself.

Spans: pneumonia.runtime.results.presentation, pneumonia.runtime.image.display.
"""

import numpy as np
import pytest
from PIL import Image

from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.model.predictions import Prediction
from pneumonia.runtime.results import ResultFacts, build_results
from tests.runtime.dicoms import chest_dataset, save
from tests.support.peers import run_peer

STORED = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
FACTS = ResultFacts("tiny", "0.1.0", "ab" * 32, "balanced", 0.4)
FOUND = Prediction(
    "x", np.array([[10, 20, 40, 60]], np.float32), np.array([0.7], np.float32), 64, 64
)


def shown(state, stored):
    """Grey levels 0..255 of stored values in a presentation state, not rounded."""
    window = state.SoftcopyVOILUTSequence[0]
    centre, width = float(window.WindowCenter), float(window.WindowWidth)
    slope, intercept = state.get("RescaleSlope", 1), state.get("RescaleIntercept", 0)
    values = stored.astype(float) * float(slope) + float(intercept)
    if window.get("VOILUTFunction") == "SIGMOID":
        grey = 1 / (1 + np.exp(-4 * (values - centre) / width))
    elif window.get("VOILUTFunction") == "LINEAR_EXACT":
        grey = np.clip((values - centre) / width + 0.5, 0, 1)
    else:
        grey = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    return 255 * (1 - grey if state.get("PresentationLUTShape") == "INVERSE" else grey)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1000)])
@pytest.mark.parametrize("width", [1000, 37.5])
def test_state_is_what_the_model_saw(tmp_path, function, photometric, slope, intercept, width):
    window = {
        "WindowCenter": 2000 * slope + intercept, "WindowWidth": width * slope,
        "VOILUTFunction": function, "RescaleSlope": slope, "RescaleIntercept": intercept,
    }  # fmt: skip
    path = save(tmp_path / "a.dcm", chest_dataset(STORED, 12, photometric=photometric, **window))
    source = read_radiograph(str(path))
    state = build_results(source.header, source.pixels, FOUND, FACTS, ["PR"])["PR"]
    assert np.abs(shown(state, STORED) - source.pixels).max() <= 1.0


@pytest.mark.interop
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_sigmoid_is_dcmtks(tmp_path, photometric):
    window = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}
    path = save(tmp_path / "a.dcm", chest_dataset(STORED, 12, photometric=photometric, **window))
    out = tmp_path / "a.pgm"
    assert run_peer("dcmj2pnm", "+Wi", "1", "+Wfs", "+op", path, out).returncode == 0
    with Image.open(out) as picture:
        judged = np.asarray(picture).astype(int)
    assert np.abs(judged - read_radiograph(str(path)).pixels.astype(int)).max() <= 1
