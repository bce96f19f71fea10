"""Thresholds on their way: chosen in training, bound at export, used by score and evaluate.

Spans: pneumonia.cli.training.train, pneumonia.cli.model.export, pneumonia.cli.scoring.score,
pneumonia.cli.evaluation.evaluate.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.study.labels import read_labels
from pneumonia.cli import group, run
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.runtime.storage.bundle import load_bundle

pytestmark = pytest.mark.slow  # one training, shared by all

NAMES = ["kaggle", "high_sensitivity", "high_specificity", "balanced"]


def call(*arguments: object) -> None:
    assert run(group, [str(argument) for argument in arguments]) == 0


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms -> run -> bundle -> scores of all phantoms, each by its verb."""
    folder = tmp_path_factory.mktemp("chain")
    call("data", "phantom", "--out", folder / "data", "--count", 100, "--size", 128, "--seed", 4)
    settings = {
        "model.name": "yolov3-tiny", "model.width": 0.25, "model.size": 96, "epochs": 10,
        "validate_every": 10, "batch_size": 8, "optimiser.learning_rate": 0.002, "ema_decay": 0.9,
        "workers": 0, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    call("train", "--data", folder / "data", "--recipe", "phantom", "--out", folder / "run",
         *options)  # fmt: skip
    call("export", folder / "run", "--out", folder / "bundle")
    shutil.copytree(folder / "data" / "dicom", folder / "studies")
    call("score", folder / "studies", folder / "scores", "--bundle", folder / "bundle",
         "--overlays", "none")  # fmt: skip
    return folder


def test_the_bundle_holds_what_training_froze(chain: Path) -> None:
    frozen = read_json(chain / "run" / "best" / "operating_points.json")
    bundled = read_json(chain / "bundle" / "operating_points.json")
    bundle = load_bundle(str(chain / "bundle"))
    assert list(frozen["points"]) == NAMES
    assert frozen["model_hash"] is None
    assert bundled == {**frozen, "model_hash": bundle.model_hash}
    assert set(bundled["calibration"]) == {"platt_slope", "platt_intercept", "temperature"}
    assert bundled["calibration"]["temperature"] > 0
    assert bundled["selected_on"]["split"] == "val"
    assert bundled["selected_on"]["kinds"] == ["phantom"]
    card = (chain / "bundle" / "model_card.md").read_text()
    assert "temperature: " in card
    assert "kinds: phantom" in card


def test_the_frozen_points_are_those_of_the_frozen_weights(chain: Path) -> None:
    """Scoring the validation images with the bundle gives back what its points promise."""
    ids = chain / "val.txt"
    with (chain / "data" / "manifest.csv").open(newline="") as stream:
        images = [row["image_id"] for row in csv.DictReader(stream) if row["split"] == "val"]
    ids.write_text("\n".join(images))
    call("evaluate", chain / "scores" / "predictions.csv", chain / "data" / "labels.csv",
         "--bundle", chain / "bundle", "--subset", ids, "--frame", 1024, "--draws", 100,
         "--out", chain / "report")  # fmt: skip
    metrics = read_json(chain / "report" / "metrics.json")
    assert metrics["thresholds_origin"] == "frozen, but chosen on these same images"
    assert metrics["model"]["hash"] == load_bundle(str(chain / "bundle")).model_hash
    promised = read_json(chain / "bundle" / "operating_points.json")["points"]
    assert metrics["operating_points"] == promised
    for name in NAMES:
        found = metrics["metrics"]
        assert found[f"{name}.sensitivity"]["value"] == pytest.approx(promised[name]["sensitivity"])
        assert found[f"{name}.specificity"]["value"] == pytest.approx(promised[name]["specificity"])
        score = promised[name]["rsna_score"]
        assert found[f"rsna.{name}"]["value"] == pytest.approx(score, abs=0.02)


def test_score_flags_by_the_frozen_threshold(chain: Path) -> None:
    threshold = load_bundle(str(chain / "bundle")).threshold("kaggle")
    record = read_json(chain / "scores" / "run.json")
    assert record["model"]["threshold_name"] == "kaggle"
    assert record["model"]["threshold"] == threshold
    rows = read_predictions(str(chain / "scores" / "predictions.csv"))
    called = sum(bool((row.scores >= threshold).any()) for row in rows)
    assert record["totals"]["flags"]["positive"] == called


def test_points_chosen_later_replace_them(chain: Path) -> None:
    """On all phantoms, into a copy of the bundle; `score` then flags by the new threshold."""
    bundle = chain / "refrozen"
    shutil.copytree(chain / "bundle", bundle)
    call("evaluate", chain / "scores" / "predictions.csv", chain / "data" / "labels.csv",
         "--freeze-into", bundle, "--draws", 100, "--out", chain / "chosen")  # fmt: skip
    new = load_bundle(str(bundle))
    assert new.model_hash == load_bundle(str(chain / "bundle")).model_hash
    content = read_json(bundle / "operating_points.json")
    assert content["selected_on"]["images"] == 100
    labels = read_labels(chain / "data" / "labels.csv")
    scores = {
        row.image_id: row.scores.max(initial=0.0)
        for row in read_predictions(str(chain / "scores" / "predictions.csv"))
    }
    positive = np.array([scores[i] for i in labels.ids])[labels.positive]
    point = content["points"]["high_sensitivity"]
    share = float(np.mean(positive >= point["threshold"]))
    assert share == pytest.approx(point["sensitivity"])
    assert share >= 0.9
    call("score", chain / "studies", chain / "again", "--bundle", bundle, "--overlays", "none",
         "--threshold", "high_sensitivity")  # fmt: skip
    record = read_json(chain / "again" / "run.json")
    assert record["model"]["threshold"] == point["threshold"]
    assert record["totals"]["flags"]["positive"] >= share * len(positive)
