"""The model that ships: whole, small, bound to its thresholds, and used without being named.

Spans: pneumonia.models, pneumonia.exporting.model_card, pneumonia.runtime.detection.detector.
"""

import json

from pneumonia.cli import group, run
from pneumonia.runtime.detection.detector import DEFAULT_BUNDLE
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.runtime.storage.bundle import load_bundle

MOST_BYTES = 8_000_000
HEADINGS = ("Intended use", "Data and terms", "Failures", "Validation", "Groups")


def test_bundle_is_whole_small_and_has_its_thresholds():
    bundle = load_bundle(str(DEFAULT_BUNDLE))
    assert sum(path.stat().st_size for path in DEFAULT_BUNDLE.iterdir()) < MOST_BYTES
    assert {"kaggle", "high_sensitivity", "balanced"} <= set(bundle.operating_points)
    document = json.loads((DEFAULT_BUNDLE / "operating_points.json").read_text())
    assert document["model_hash"] == bundle.model_hash
    chosen_on = document["selected_on"]  # whole validation radiographs, weighted to RSNA's classes
    assert (chosen_on["images"], chosen_on["mix"]) == (913, "RSNA stage 2")
    # a tenth of the dense network of its width, or less
    kept = sum(layer.storage.n_kept or 0 for layer in bundle.spec.weighted())
    assert 0 < kept < 3_848_008 / 8


def test_card_says_what_the_model_is_for_and_what_it_is_not():
    card = (DEFAULT_BUNDLE / "model_card.md").read_text()
    assert "Not a medical device" in card
    for heading in HEADINGS:
        assert f"## {heading}" in card
    assert "research use" in card


def test_score_uses_it_when_none_is_named(tmp_path, capsys):
    made = tmp_path / "phantoms"
    assert run(group, ["data", "phantom", "--out", str(made), "--count", "8", "--seed", "3"]) == 0
    out = tmp_path / "out"
    assert run(group, ["score", str(made / "dicom"), str(out), "--jobs", "1", "--no-report"]) == 0
    record = json.loads((out / "run.json").read_text())
    assert load_bundle(str(DEFAULT_BUNDLE)).model_hash in json.dumps(record)
    scored = read_predictions(str(out / "predictions.csv"))
    assert len(scored) == 8
    assert "Research use only" in capsys.readouterr().out
