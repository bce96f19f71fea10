"""Fine-tuning: a pruned run learns from other images and stays as small as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pneumonia.cli import group, run
from pneumonia.compression.prune.recipe import FineTuneRecipe, PruneRecipe
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.compression.run import run_compression
from pneumonia.network.files import load_model
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.errors import ConfigError, DataError, OutputError
from pneumonia.training.journal import read_metrics
from tests.support.tiny import TinyRun, write_rectangles

PRUNE: dict[str, Any] = {
    "rate": 3,
    "admm": {"epochs": 1, "rho": [0.1]},
    "retrain": {"epochs": 1},
}
COLUMNS = {"kind": "structured", "filter_share": 0.5, "group_size": 4, "round_to": 1}
IRREGULAR = {"kind": "irregular"}


@pytest.fixture(scope="module")
def other_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rectangles(
        tmp_path_factory.mktemp("other") / "data",
        {("train", "full"): (12, 12), ("val", "full"): (6, 6)},
        seed=5,
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(COLUMNS, id="columns"),
        pytest.param(IRREGULAR, id="irregular", marks=pytest.mark.slow),
    ],
)
def pruned(
    request: pytest.FixtureRequest, tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("finetune") / "pruned"
    recipe = PruneRecipe.model_validate({**PRUNE, "constraint": request.param})
    run_compression(tiny_run.run, recipe, out)
    return out


def finetune(source: Path, out: Path, data: Path, **changes: Any) -> Path:
    recipe = FineTuneRecipe.model_validate({"retrain": {"epochs": 2}, **changes})
    run_compression(source, recipe, out, data, accept_seen=True)
    return out


def test_what_was_removed_stays_removed(pruned: Path, other_images: Path, tmp_path: Path) -> None:
    out = finetune(pruned, tmp_path / "tuned", other_images)
    spec, before = load_model(pruned / "best")
    spec_after, after = load_model(out / "best")
    assert spec_after == spec
    changed, zeros = 0, 0
    for layer in spec.weighted():
        name = f"{layer.name}.weight"
        assert not after[name][before[name] == 0].any()
        changed += int((after[name] != before[name]).sum())
        zeros += int((before[name] == 0).sum())
    assert changed > 0
    assert zeros > 0
    assert len(read_metrics(out / "metrics.csv")) == 2


@pytest.mark.slow
def test_the_record_names_the_new_images_and_no_new_rate(
    pruned: Path, other_images: Path, tmp_path: Path
) -> None:
    out = finetune(pruned, tmp_path / "tuned", other_images, seed=7)
    record = json.loads((out / "run.json").read_text())
    assert record["kind"] == "finetune"
    assert record["seed"] == 7
    assert record["dataset"]["path"] == str(other_images)
    assert record["trained_weights"] == RunFolder(pruned).trained_weights()
    report = json.loads((out / "compression.json").read_text())
    assert report["method"] == "finetune"
    assert report["realised_rate"] == 1
    assert report["metrics_before"].keys() == report["metrics_after"].keys()


@pytest.mark.slow
def test_a_tuned_run_is_pruned_on(pruned: Path, other_images: Path, tmp_path: Path) -> None:
    out = finetune(pruned, tmp_path / "tuned", other_images)
    recipe = PruneRecipe.model_validate({**PRUNE, "rate": 1.5, "constraint": COLUMNS})
    result = run_compression(out, recipe, tmp_path / "smaller")
    assert result.rate >= 1.4


def test_the_average_with_the_parent_stays_as_small(
    pruned: Path, other_images: Path, tmp_path: Path
) -> None:
    alone = finetune(pruned, tmp_path / "alone", other_images)
    averaged = finetune(pruned, tmp_path / "averaged", other_images, parent_share=0.5)
    spec, before = load_model(pruned / "best")
    trained, after = load_model(alone / "best")[1], load_model(averaged / "best")[1]
    assert load_model(averaged / "best")[0] == spec
    for layer in spec.weighted():
        name = f"{layer.name}.weight"
        assert not after[name][before[name] == 0].any()
        direction = before[name] / before[name].norm() + trained[name] / trained[name].norm()
        assert torch.cosine_similarity(after[name].flatten(), direction.flatten(), 0) > 0.99


def test_quantized_weights_are_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    recipe = QuantizeRecipe.model_validate(
        {"admm": {"epochs": 1, "rho": [0.01]}, "fixed": [1.0], "snap_epochs": 1}
    )
    run_compression(tiny_run.run, recipe, tmp_path / "quantized")
    with pytest.raises(ConfigError, match=r"cannot be fine-tuned.*Fine-tune the run that was"):
        run_compression(tmp_path / "quantized", FineTuneRecipe(), tmp_path / "out")
    assert not (tmp_path / "out" / "best").exists()


@pytest.mark.slow
def test_the_command_on_a_dense_run(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "retrain.epochs=1", "--set", "distil=0.5", "--out", str(tmp_path / "out")]
    assert run(group, ["finetune", str(tiny_run.run), *options]) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "next: pneumonia export" in shown
    assert run(group, ["finetune", str(tiny_run.run), *options]) == OutputError.exit_code
    assert "holds a run already" in capsys.readouterr().err
    assert run(group, ["finetune", str(tiny_run.run), *options, "--resume"]) == 0


def test_a_folder_that_is_no_dataset_is_refused(
    pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", str(pruned), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert run(group, arguments) == DataError.exit_code
    assert len(capsys.readouterr().err.splitlines()) == 1
