"""Every recipe beyond the structured ones, through the whole pipeline on a tiny detector.

Spans: pneumonia.compression.prune.recipe, pneumonia.compression.prune.pipeline,
pneumonia.compression.run, pneumonia.recipes.
"""

import json

import pytest
import torch

from pneumonia.cli.model.inspect_report import write_report
from pneumonia.compression.prune.recipe import PruneRecipe
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.compression.run import run_compression
from pneumonia.compression.sets.pattern import mine_patterns
from pneumonia.network.files import load_model
from pneumonia.recipes import load_recipe
from pneumonia.training.config import TrainRecipe
from pneumonia.training.run import run_train
from tests.support.tiny import SIZE, write_rectangles

QUICK = [
    "ladder=1", "admm.epochs=1", "admm.rho=[0.01]", "retrain.epochs=1",
    "rate=4", "rates.stem_limit=2",
]  # fmt: skip
RECIPES = {
    "pattern": ["constraint.group_size=8"],
    "block": [],
    "crossbar": ["constraint.word_lines=16", "constraint.bit_lines=16"],
    "irregular": [],
}


@pytest.fixture(scope="module")
def trained(tiny_run):
    return tiny_run.run


@pytest.mark.parametrize(
    "name", ["block", *(pytest.param(n, marks=pytest.mark.slow) for n in RECIPES if n != "block")]
)
def test_recipe_prunes_retrains_and_shrinks_the_file(trained, tmp_path, name):
    recipe = load_recipe(name, "prune", PruneRecipe, [*QUICK, *RECIPES[name]])
    out = tmp_path / "out"
    run_compression(trained, recipe, out)
    spec, tensors = load_model(out / "best")
    before = sum(w.numel() for n, w in load_model(trained / "best")[1].items() if "weight" in n)
    kept = sum(int(torch.count_nonzero(tensors[f"{n.name}.weight"])) for n in spec.weighted())
    assert before / kept > 3.5
    assert json.loads((out / "run.json").read_text())["status"] == "done"
    assert json.loads((out / "compression.json").read_text())
    sizes = [(folder / "best" / "weights.safetensors").stat().st_size for folder in (trained, out)]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.slow
def test_blocks_and_then_filters(tmp_path):
    """YOLOv3 loses residual blocks in two stages, then filters; reports and pages follow."""
    counts = {("train", "phantom"): (12, 4), ("val", "phantom"): (4, 4)}
    data, trained = write_rectangles(tmp_path / "data", counts), tmp_path / "run"
    training = {
        "model": {"name": "yolov3", "width": 0.125, "size": SIZE},
        "epochs": 1, "batch_size": 8, "workers": 0, "device": "cpu",
    }  # fmt: skip
    run_train(data, TrainRecipe.model_validate(training), trained)
    quick = ["admm.epochs=1", "admm.rho=[0.01]", "retrain.epochs=1"]
    shallow, both = tmp_path / "shallow", tmp_path / "both"
    blocks = load_recipe("depth", "prune", PruneRecipe, [*quick, "ladder=2"])
    assert run_compression(trained, blocks, shallow).rate == pytest.approx(1.5, rel=0.05)
    dense, small = load_model(trained / "best")[0], load_model(shallow / "best")[0]
    gone = {layer.name for layer in dense.weighted()} - {layer.name for layer in small.weighted()}
    assert gone
    rows = json.loads((shallow / "compression.json").read_text())["layers"]
    assert {row["name"] for row in rows if row["kept_weights"] == 0} == gone
    assert [row["filters"][1] for row in rows if row["name"] in gone] == [0] * len(gone)
    filters = load_recipe("filter", "prune", PruneRecipe, [*quick, "ladder=1", "rate=1.5"])
    assert run_compression(shallow, filters, both).rate == pytest.approx(1.5, rel=0.05)
    page = write_report(both, trained, tmp_path / "page", 0, 0.0).read_text()
    assert all(name in page for name in gone)


@pytest.mark.slow
def test_mined_patterns_are_those_of_the_trained_network(trained, tmp_path):
    """The recipe's codes are not used, and every pruned kernel has one of the mined ones."""
    quick = [*QUICK, "constraint.group_size=1", "constraint.mined=3"]
    run_compression(trained, load_recipe("pattern", "prune", PruneRecipe, quick), tmp_path / "out")
    _, dense = load_model(trained / "best")
    expected = mine_patterns([t for name, t in dense.items() if name.endswith(".weight")], 3)
    settings = json.loads((tmp_path / "out" / "compression.json").read_text())["settings"]
    assert tuple(settings["codes"]) == expected
    assert settings["mined"] is None
    spec, tensors = load_model(tmp_path / "out" / "best")
    found = 0
    for layer in spec.weighted():
        weight = tensors[f"{layer.name}.weight"]
        places = (weight != 0).reshape(*weight.shape[:2], -1)
        if tuple(weight.shape[2:]) != (3, 3) or bool(places.all(2).any()):
            continue  # 1x1, or too low a rate for patterns
        codes = (places * 2 ** torch.arange(9)).sum(2).unique().tolist()
        assert all(code == 0 or any(code & ~own == 0 for own in expected) for code in codes)
        found += 1
    assert found >= 3


@pytest.mark.slow
def test_joint_pruning_and_quantization(trained, tmp_path):
    """Irregular pruning, then 5 levels' worth of bits on the survivors: zeros stay zeros."""
    recipe = load_recipe("irregular", "prune", PruneRecipe, QUICK)
    run_compression(trained, recipe, tmp_path / "pruned")
    quick = {"ladder": ["4-bit"], "admm": {"epochs": 1, "rho": [0.01]}, "fixed": [0.5, 1.0]}
    result = run_compression(
        tmp_path / "pruned",
        QuantizeRecipe.model_validate({**quick, "batch_norm_batches": 1, "snap_epochs": 1}),
        tmp_path / "both",
    )
    spec, pruned = load_model(tmp_path / "pruned" / "best")
    _, both = load_model(tmp_path / "both" / "best")
    for layer in spec.weighted():
        name = f"{layer.name}.weight"
        if float((pruned[name] == 0).float().mean()) > 0.02:
            assert torch.equal(pruned[name] == 0, both[name] == 0)
        assert len(both[name].unique()) <= 15
    assert result.bytes_after < 0.5 * result.bytes_before
