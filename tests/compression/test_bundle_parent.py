"""An exported bundle is trained on, pruned and quantized like the run that it came from.

Spans: pneumonia.compression.run, pneumonia.runs.bundle_record, pneumonia.training.run.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pneumonia.cli import group, run
from pneumonia.compression.prune.recipe import FineTuneRecipe, PruneRecipe
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.compression.run import run_compression
from pneumonia.exporting.bundle import ExportOptions, export
from pneumonia.network.accounting import account
from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.files import load_model, save_model
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.detection.detector import DEFAULT_BUNDLE
from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.training.config import TrainRecipe
from tests.support.tiny import QUICK_QUANTIZE, TinyRun, write_rectangles

ONE_EPOCH: dict[str, Any] = {"retrain": {"epochs": 1, "optimiser": {"learning_rate": 1e-7}}}


@pytest.fixture(scope="module")
def bundle(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    export(tiny_run.run, out, ExportOptions(onnx=False))
    return out


def check_same_function(bundle: Path, spec: NetworkSpec, tensors: dict[str, Tensor]) -> None:
    """After an epoch of tiny steps only the batch norms' running statistics have moved a little."""
    expected = load_model(bundle)[1]
    for name, value in fold_batch_norm(spec, tensors)[1].items():
        norms = float(value.norm() / expected[name].norm().clamp_min(1e-9))
        angle = float(torch.cosine_similarity(value.flatten(), expected[name].flatten(), 0))
        if name.endswith(".weight"):
            assert angle > 0.97, name
            assert 0.8 < norms < 1.25, name


def test_the_bundle_carries_the_recipe_of_its_training(tiny_run: TinyRun, bundle: Path) -> None:
    known = RunFolder(bundle)
    assert known.training_recipe(TrainRecipe) == RunFolder(tiny_run.run).training_recipe(
        TrainRecipe
    )
    assert known.trained_weights() == RunFolder(tiny_run.run).trained_weights()
    assert RunFolder(DEFAULT_BUNDLE).training_recipe(TrainRecipe).model.size == 256


def test_no_path_of_the_start_gets_into_a_bundle(tiny_run: TinyRun, tmp_path: Path) -> None:
    source = tmp_path / "run"
    shutil.copytree(tiny_run.run, source)
    config = RunFolder(source).config_file
    config.write_text(config.read_text().replace("start_from: null", "start_from: /home/someone"))
    assert "/home/someone" in config.read_text()
    export(source, tmp_path / "bundle", ExportOptions(onnx=False))
    assert "someone" not in (tmp_path / "bundle" / "manifest.json").read_text()


def test_fine_tuning_starts_at_what_the_bundle_computes(
    tiny_run: TinyRun, bundle: Path, tmp_path: Path
) -> None:
    recipe = FineTuneRecipe.model_validate({**ONE_EPOCH, "distil": 0.5})
    run_compression(bundle, recipe, tmp_path / "tuned", tiny_run.data)
    spec, tensors = load_model(tmp_path / "tuned" / "best")
    assert spec.densely_stored() == load_model(tiny_run.run / "best")[0].densely_stored()
    assert json.loads((tmp_path / "tuned" / "run.json").read_text())["parent"] == str(bundle)
    check_same_function(bundle, spec, tensors)


@pytest.mark.slow
def test_a_bundle_is_pruned_and_quantized(tiny_run: TinyRun, bundle: Path, tmp_path: Path) -> None:
    prune = PruneRecipe.model_validate(
        {
            "rate": 2,
            "constraint": {"kind": "irregular"},
            "admm": {"epochs": 1, "rho": [0.1]},
            "retrain": {"epochs": 1},
        }
    )
    assert run_compression(bundle, prune, tmp_path / "pruned", tiny_run.data).rate >= 1.9
    export(tmp_path / "pruned", tmp_path / "small", ExportOptions(onnx=False))
    recipe = FineTuneRecipe.model_validate(ONE_EPOCH)
    tuned = run_compression(tmp_path / "small", recipe, tmp_path / "on", tiny_run.data)
    kept = tuned.after.totals.kept_weights
    assert kept == tuned.before.totals.kept_weights
    assert kept < account(*load_model(bundle)).totals.kept_weights / 1.9
    quantize = QuantizeRecipe.model_validate(QUICK_QUANTIZE)
    result = run_compression(bundle, quantize, tmp_path / "quantized", tiny_run.data)
    assert result.bytes_after < result.bytes_before


def test_other_kinds_of_image_count_alike(bundle: Path, tmp_path: Path) -> None:
    counts = {("train", "phantom"): (8, 8), ("val", "phantom"): (4, 4)}
    data = write_rectangles(tmp_path / "data", counts, seed=3)
    out = tmp_path / "tuned"
    run_compression(bundle, FineTuneRecipe.model_validate(ONE_EPOCH), out, data)
    assert json.loads((out / "run.json").read_text())["training"]["data"]["kinds"] == {}


def test_a_bundle_needs_images_and_must_be_whole(
    tiny_run: TinyRun, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="Give a dataset folder"):
        run_compression(bundle, FineTuneRecipe(), tmp_path / "out")
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(ArtefactError, match=r"weights\.safetensors"):
        run_compression(broken, FineTuneRecipe(), tmp_path / "out", tiny_run.data)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_starts_from_a_bundle(
    tiny_run: TinyRun, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RunFolder(tiny_run.run).config_file
    changes = [f"model.start_from={bundle}", "epochs=1", "optimiser.learning_rate=1e-7"]
    options = [part for change in changes for part in ("--set", change)]
    out = tmp_path / "again"
    arguments = ["train", "--data", str(tiny_run.data), "--recipe", str(recipe), *options]
    assert run(group, [*arguments, "--out", str(out)]) == 0
    check_same_function(bundle, *load_model(out / "best"))


def test_any_network_with_the_same_heads_teaches(
    tiny_run: TinyRun, bundle: Path, tmp_path: Path
) -> None:
    changes = {**ONE_EPOCH, "distil": 0.5, "teacher": str(tiny_run.run)}
    run_compression(
        bundle, FineTuneRecipe.model_validate(changes), tmp_path / "taught", tiny_run.data
    )
    spec, tensors = load_model(tiny_run.run / "best")
    head = next(iter(spec.detect_layers()))
    wider = ((9.0, 9.0), *head.anchors[1:])
    save_model(
        tmp_path / "other", spec.replace_layers({head.name: head._replace(anchors=wider)}), tensors
    )
    recipe = FineTuneRecipe.model_validate({**changes, "teacher": str(tmp_path / "other")})
    with pytest.raises(ConfigError, match=rf"Teacher does not fit.*{head.name}.*\(9\.0, 9\.0\)"):
        run_compression(bundle, recipe, tmp_path / "out", tiny_run.data)
    missing = FineTuneRecipe.model_validate({**changes, "teacher": str(tmp_path / "nowhere")})
    with pytest.raises(ArtefactError, match="No such folder"):
        run_compression(bundle, missing, tmp_path / "out", tiny_run.data)
