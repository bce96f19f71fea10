"""`prune` with every shipped recipe, then `inspect` and `compare` on what came out.

Spans: pneumonia.cli.training.prune, pneumonia.cli.training.quantize, pneumonia.cli.model.inspect,
pneumonia.cli.evaluation.compare.
"""

import csv
import json
import shutil

import numpy as np
import pytest

from pneumonia.cli import group, run
from pneumonia.network.files import load_model
from pneumonia.recipes import recipe_names
from pneumonia.runtime.model.predictions import Prediction, write_predictions

pytestmark = pytest.mark.slow
PRUNE = ["ladder=1", "admm.epochs=1", "admm.rho=[0.01]", "retrain.epochs=1", "rates.stem_limit=2"]
QUANTIZE = ["admm.epochs=1", "admm.rho=[0.01]", "fixed=[0.5,1.0]", "snap_epochs=1",
            "batch_norm_batches=1"]  # fmt: skip
# distinct non-zero values a layer may have, at most
LEVELS = {"quant-8": 254, "quant-4": 14, "ternary": 2, "binary": 2}
SMALL = {"pattern": ["constraint.group_size=8"], "combined": ["constraint.round_to=2"],
         "crossbar": ["constraint.word_lines=16", "constraint.bit_lines=16"],
         "filter": ["constraint.round_to=2"], "column": ["constraint.group_size=8"]}  # fmt: skip
ISSUED = (
    "filter", "column", "combined", "pattern", "block", "crossbar", "irregular",
    "quant-8", "quant-4", "ternary", "binary",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs")
    shutil.copytree(tiny_run.run, folder / "dense")
    return folder


def prune(root, name, *more):
    changes = QUANTIZE if name in LEVELS else [*PRUNE, *SMALL.get(name, [])]
    options = [word for change in changes for word in ("--set", change)]
    rate = [] if name in LEVELS else ["--rate", "3"]
    return run(group, ["prune", str(root / "dense"), "--recipe", name, *rate, *options,
                       "--out", str(root / name), *more])  # fmt: skip


def test_every_promised_recipe_ships():
    assert set(ISSUED) <= {*recipe_names("prune"), *recipe_names("quantize")}


@pytest.mark.parametrize("name", ISSUED)
def test_a_recipe_through_the_command(root, name, capsys):
    assert prune(root, name) == 0
    shown = capsys.readouterr().out
    assert "next: pneumonia export" in shown
    spec, tensors = load_model(root / name / "best")
    dense_spec, dense = load_model(root / "dense" / "best")
    weights = {layer.name: tensors[f"{layer.name}.weight"] for layer in spec.weighted()}
    if name in LEVELS:
        for weight in weights.values():
            assert len(weight[weight != 0].unique()) <= LEVELS[name]
        if name == "binary":
            assert all(len(weight.unique()) == 2 for weight in weights.values())
            assert all((weight != 0).all() for weight in weights.values())
    else:
        total = sum(dense[f"{layer.name}.weight"].numel() for layer in dense_spec.weighted())
        kept = sum(int(weight.count_nonzero()) for weight in weights.values())
        assert total / kept >= 2.97
    sizes = [(root / n / "best" / "weights.safetensors").stat().st_size for n in ("dense", name)]
    assert sizes[1] < sizes[0] / 1.5


def test_a_rate_for_bits_is_refused(root, capsys):
    assert prune(root, "binary", "--rate", "3") == 2
    assert "does not take a pruning rate" in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["0.5", "1", "0", "-4", "1e7"])
def test_a_rate_out_of_range_says_what_rates_are(tmp_path, capsys, rate):
    arguments = ["prune", str(tmp_path), "--recipe", "filter", "--out", str(tmp_path / "out")]
    assert run(group, [*arguments, f"--rate={rate}"]) == 2
    shown = capsys.readouterr().err
    assert "above 1 and at most 1,000,000: weights before over weights after" in shown
    assert f"--rate {float(rate):g}" in shown
    assert shown.count("\n") == 1


def test_an_unknown_recipe_names_those_that_ship(root, capsys):
    assert prune(root, "magic") == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert "combined" in shown


@pytest.fixture(scope="module")
def bundles(root):
    for name in ("dense", "irregular", "column"):
        if not (root / name).is_dir():
            assert prune(root, name) == 0
        out = str(root / f"{name}-bundle")
        assert run(group, ["export", str(root / name), "--out", out]) == 0
    return {name: root / f"{name}-bundle" for name in ("dense", "irregular", "column")}


@pytest.fixture(scope="module")
def judged(root, bundles):
    """Labels of 12 images, and the same predictions under three names."""
    with (root / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["patientId", "x", "y", "width", "height", "Target"])
        for number in range(12):
            row = ["10", "10", "20", "20", "1"] if number % 2 else ["", "", "", "", "0"]
            table.writerow([f"i{number:02d}", *row])
    box = np.array([[10, 10, 30, 30]], np.float32)
    found = [
        Prediction(f"i{n:02d}", box[: n % 2], np.full(n % 2, 0.9, np.float32), 1024, 1024)
        for n in range(12)
    ]
    models = []
    for name, bundle in bundles.items():
        write_predictions(str(root / f"{name}.csv"), found)
        models.append(f"{name}={root / name}.csv,{bundle}")
    return models


def compare(root, models, out, *options):
    return run(group, ["compare", *models, "--labels", str(root / "labels.csv"), "--out", str(out),
                       "--threshold", "0.5", "--draws", "100", *options])  # fmt: skip


def test_compare_storage_and_compute(root, judged, tmp_path, capsys):
    assert compare(root, judged, tmp_path / "page", "--storage", "--compute") == 0
    (page,) = (tmp_path / "page").glob("*.html")
    text = page.read_text()
    for word in ("irregular", "column", "relative index", "PPR"):
        assert word in text, word
    (found,) = (tmp_path / "page").glob("*.json")
    assert json.loads(found.read_text())


def test_storage_wants_a_bundle_for_every_model(root, judged, tmp_path, capsys):
    bare = [judged[0], judged[1].split(",")[0]]
    assert compare(root, bare, tmp_path / "page", "--storage") == 2
    assert "none for irregular" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["column", "irregular", "binary"])
def test_inspect_writes_a_page(root, bundles, name, tmp_path, capsys):
    if not (root / name).is_dir():
        assert prune(root, name) == 0
    assert run(group, ["inspect", str(root / name), "--report", str(tmp_path / "page")]) == 0
    (page,) = (tmp_path / "page").glob("*.html")
    text = page.read_text()
    assert "data:image" in text
    assert "crossbar" in text.lower()
    assert "http://" not in text.replace("http://www.w3.org", "")


@pytest.mark.parametrize("name", ["filter", "column"])
def test_inspect_shows_nominal_and_realised_rates(root, name, capsys):
    """Realised: dense weights over those in the file; nominal: dead paths still inside."""
    if not (root / name).is_dir():
        assert prune(root, name) == 0
    dense = {layer.name for layer in load_model(root / "dense" / "best")[0].weighted()}
    before = sum(load_model(root / "dense" / "best")[1][f"{n}.weight"].numel() for n in dense)
    capsys.readouterr()
    assert run(group, ["inspect", str(root / name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rates, stored = found["pruned"], found["totals"]["kept_weights"]
    assert rates["weights"] == before
    assert rates["realised_rate"] == pytest.approx(before / stored)
    assert rates["mac_rate"] == pytest.approx(rates["macs"] / found["totals"]["kept_macs"])
    assert 1 < rates["nominal_rate"] <= rates["realised_rate"] * 1.001
    assert 1 < rates["nominal_mac_rate"] <= rates["mac_rate"] * 1.001
    layers = json.loads((root / name / "compression.json").read_text())["layers"]
    inside = sum(row["weights"] / row["nominal_rate"] for row in layers)
    assert before / inside == pytest.approx(rates["nominal_rate"])
    assert run(group, ["inspect", str(root / name)]) == 0
    assert f"{rates['realised_rate']:.2f}x" in capsys.readouterr().out
    assert run(group, ["inspect", str(root / "dense"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pruned"] is None


def test_inspect_options_that_belong_to_the_page(root, capsys):
    assert run(group, ["inspect", str(root / "dense"), "--chips", "20"]) == 2
    assert "--report" in capsys.readouterr().err
