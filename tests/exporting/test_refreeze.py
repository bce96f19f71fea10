"""Thresholds put into a finished bundle: the model stays, everything else follows."""

import hashlib
import json

import pytest

from pneumonia.exporting.model_card import POINTS_TITLE, points_section, replace_points
from pneumonia.exporting.refreeze import freeze_points
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.storage.bundle import load_bundle
from tests.runtime.bundles import brightness_detector, write_bundle

CHOSEN = {
    "schema": "pneumonia.operating_points/1",
    "model_hash": None,
    "selected_on": {"images": 42, "positive": 21, "kinds": ["full"]},
    "points": {"kaggle": {"threshold": 0.125, "rsna_score": 0.25}},
    "calibration": {"platt_slope": 1.5, "platt_intercept": None, "temperature": 2.0},
}


@pytest.fixture
def folder(tmp_path):
    return write_bundle(tmp_path / "bundle", *brightness_detector())


def test_the_bundle_holds_the_new_points_and_the_same_model(folder):
    before = load_bundle(str(folder))
    untouched = {
        name: (folder / name).read_bytes()
        for name in ("spec.json", "weights.safetensors", "model.onnx")
    }
    after = freeze_points(folder, CHOSEN)
    assert after.model_hash == before.model_hash
    assert after.operating_points == CHOSEN["points"]
    assert load_bundle(str(folder)).threshold("kaggle") == 0.125
    content = json.loads((folder / "operating_points.json").read_text())
    assert content == {**CHOSEN, "model_hash": before.model_hash}
    for name, data in untouched.items():
        assert (folder / name).read_bytes() == data
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("operating_points.json", "model_card.md"):
        assert listed[name]["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_the_model_card_follows_and_keeps_the_rest(folder):
    freeze_points(folder, CHOSEN)
    card = (folder / "model_card.md").read_text()
    assert card.startswith("# brightness\n")
    assert "| kaggle | 0.125 | rsna_score: 0.25 |" in card
    assert "Chosen on: images: 42, positive: 21, kinds: full." in card
    assert "platt_slope: 1.5, platt_intercept: not available, temperature: 2" in card
    again = {**CHOSEN, "points": {"balanced": {"threshold": 0.5}}, "box_scale": 0.9}
    freeze_points(folder, again)
    card = (folder / "model_card.md").read_text()
    assert card.count(POINTS_TITLE) == 1
    assert "kaggle" not in card
    assert "| balanced | 0.5 | not available |" in card
    assert "Box scale for evaluation: 0.9" in card


def test_a_section_in_the_middle_is_replaced():
    section = points_section({"a": {"threshold": 0.25}}, {})
    card = replace_points("# Model\n\n## Operating points\n\nold\n\n## Limits\n\nmany\n", section)
    assert card == f"# Model\n\n{section}\n\n## Limits\n\nmany\n"
    assert replace_points(card, section) == card
    about = "# Model\n\nSee ## Operating points below.\n"
    assert replace_points(about, section) == f"{about}\n{section}\n"


@pytest.mark.parametrize("change", [{"model_hash": "0" * 64}, {"points": {}}])
def test_points_that_do_not_fit_leave_the_bundle_as_it_was(folder, change):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ArtefactError, match="do not fit the bundle"):
        freeze_points(folder, {**CHOSEN, **change})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_threshold_out_of_range_leaves_the_bundle_as_it_was(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ArtefactError, match="Threshold is not valid"):
        freeze_points(folder, {**CHOSEN, "points": {"kaggle": {"threshold": 7}}})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_not_a_bundle_is_refused(tmp_path):
    with pytest.raises(ArtefactError):
        freeze_points(tmp_path, CHOSEN)
