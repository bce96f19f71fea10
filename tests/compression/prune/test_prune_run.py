"""Whole pruning runs on a tiny detector: folders, exact resume, refusals, the verb.

Spans: pneumonia.compression.prune.pipeline, pneumonia.compression.prune.recipe,
pneumonia.compression.prune.sensitivity, pneumonia.compression.run.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from pneumonia.cli import run as run_command
from pneumonia.cli.training.prune import command
from pneumonia.compression.prune.pipeline import layer_limits
from pneumonia.compression.prune.recipe import PruneRecipe, pruned_training
from pneumonia.compression.prune.sensitivity import (
    exponents_by_rank,
    measure_sensitivity,
    read_sensitivity,
    write_sensitivity,
)
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.result import CompressionResult
from pneumonia.compression.run import run_compression
from pneumonia.network.accounting import account
from pneumonia.network.files import load_model
from pneumonia.network.inspection import inspect_folder
from pneumonia.network.module import Network
from pneumonia.recipes import load_recipe, recipe_names
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.names import RESIDUALS_TABLE
from pneumonia.runtime.errors import (
    ArtefactError,
    ConfigError,
    DataError,
    OutputError,
    PruneError,
    TrainingError,
)
from pneumonia.training.config import TrainRecipe
from pneumonia.training.journal import read_metrics
from tests.support.tiny import TinyRun, write_rectangles

RECIPE: dict[str, Any] = {
    "rate": 6,
    "ladder": 2,
    "constraint": {"kind": "structured", "group_size": 4, "round_to": 1, "random_starts": 2},
    "admm": {"epochs": 2, "rho": [0.1, 1.0], "steps_per_update": 1},
    "retrain": {"epochs": 2},
}


def recipe(**changes: Any) -> PruneRecipe:
    return PruneRecipe.model_validate({**RECIPE, **changes})


@pytest.fixture(scope="module")
def trained(tiny_run: TinyRun) -> Path:
    return tiny_run.run


@pytest.fixture(scope="module")
def pruned(
    trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CompressionResult]:
    out = tmp_path_factory.mktemp("prune") / "pruned"
    return out, run_compression(trained, recipe(), out)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["trained", "parent"])
def test_a_pruning_with_a_teacher(
    trained: Path, pruned: tuple[Path, CompressionResult], tmp_path: Path, teacher: str
) -> None:
    quick = {"rate": 2, "ladder": 1, "retrain": {"epochs": 1}}
    run_compression(pruned[0], recipe(**quick, distil=0.5, teacher=teacher), tmp_path / "taught")
    (stage,) = (tmp_path / "taught" / "stages").iterdir()
    for phase in ("admm", "retrain"):
        rows = read_metrics(stage / phase / "metrics.csv")
        assert rows
        assert all(row["loss_teacher"] > 0 for row in rows)


def test_a_teacher_that_is_gone_is_named(
    pruned: tuple[Path, CompressionResult], tmp_path: Path
) -> None:
    orphan = tmp_path / "orphan"
    shutil.copytree(pruned[0], orphan)
    record = json.loads((orphan / "run.json").read_text())
    (orphan / "run.json").write_text(json.dumps({**record, "parent": str(tmp_path / "gone")}))
    with pytest.raises(
        ArtefactError, match=r"trained run does not exist any more.*teacher: parent"
    ):
        run_compression(orphan, recipe(rate=2, distil=0.5), tmp_path / "out")


def test_the_run_folder_holds_the_compacted_network(
    trained: Path, pruned: tuple[Path, CompressionResult]
) -> None:
    out, result = pruned
    spec, tensors = load_model(out / "best")
    dense, _ = load_model(trained / "best")
    report = json.loads((out / "compression.json").read_text())
    assert result.rate == pytest.approx(6, rel=0.05)
    assert report["realised_rate"] == pytest.approx(result.rate)
    kept = account(spec, tensors).totals.kept_weights
    assert sum(row["kept_weights"] for row in report["layers"]) == kept
    assert [row["name"] for row in report["layers"]] == [w.name for w in dense.weighted()]
    assert report["stages"] == [pytest.approx(6**0.5), 6]
    whole = {r["name"] for r in report["layers"] if r["filters"][0] == r["filters"][1]}
    assert report["protected_layers"]
    assert set(report["protected_layers"]) <= whole
    kept_files = ("best/val_predictions.csv", "best/operating_points.json")
    for name in (*kept_files, "residuals.png", "config.yaml"):
        assert (out / name).is_file()
    record = json.loads((out / "run.json").read_text())
    assert (record["kind"], record["status"], record["parent"]) == ("prune", "done", str(trained))
    assert result.bytes_after == (out / "best" / "weights.safetensors").stat().st_size
    assert result.bytes_after < result.bytes_before / 3


def test_metrics_go_on_through_stages_and_residuals_are_logged(
    pruned: tuple[Path, CompressionResult],
) -> None:
    out, _ = pruned
    rows = read_metrics(out / "metrics.csv")
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert [row["stage"] for row in rows] == [1] * 4 + [2] * 4
    assert [row["masked"] for row in rows] == [0, 0, 1, 1] * 2
    with (out / RESIDUALS_TABLE).open(newline="") as stream:
        residuals = list(csv.DictReader(stream))
    layers = {row["layer"] for row in residuals}
    assert len(layers) == len(load_model(out / "best")[0].weighted())
    assert {row["rho"] for row in residuals} == {"0.1", "1.0"}
    assert all(0 <= float(row["churn"]) <= 1 for row in residuals)


class _Interrupts:
    """A progress callback that ends the run at its n-th call of a training phase."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, done: int, total: int, note: str) -> None:
        if "epoch" in note:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_anywhere_and_resumed_is_the_same_run(
    trained: Path, pruned: tuple[Path, CompressionResult], tmp_path: Path
) -> None:
    """Interruptions in ADMM and in retraining, at the start and in the middle of epochs."""
    out = tmp_path / "out"
    for after in (3, 3, 5, 5):
        with pytest.raises(KeyboardInterrupt):
            run_compression(trained, recipe(), out, resume=True, progress=_Interrupts(after))
        assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
        assert not (out / "best").exists()
    run_compression(trained, recipe(), out, resume=True)
    whole, _ = pruned
    assert (out / "best" / "weights.safetensors").read_bytes() == (
        whole / "best" / "weights.safetensors"
    ).read_bytes()
    assert (out / RESIDUALS_TABLE).read_text() == (whole / RESIDUALS_TABLE).read_text()
    timing = {"images_per_s", "epoch_s", "val_s", "data_wait_fraction"}
    for ours, theirs in zip(
        read_metrics(out / "metrics.csv"), read_metrics(whole / "metrics.csv"), strict=True
    ):
        assert {k: v for k, v in ours.items() if k not in timing} == {
            k: v for k, v in theirs.items() if k not in timing
        }


def _stop_in_purification(out: Path) -> Any:
    """A progress callback that ends the run in the retraining after purification."""

    def note(done: int, total: int, text: str) -> None:
        if "epoch" in text and (out / "stages" / "purify" / "plan.json").is_file():
            raise KeyboardInterrupt

    return note


@pytest.mark.slow
def test_purification_removes_more_within_its_budget(trained: Path, tmp_path: Path) -> None:
    """A budget of nearly the whole metric lets scraps go; interrupted in it, the same run."""
    settings = recipe(ladder=1, purify={"budget": 0.99, "retrain_epochs": 1})
    plain = run_compression(trained, recipe(ladder=1), tmp_path / "plain")
    result = run_compression(trained, settings, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "compression.json").read_text())
    found = report["purification"]
    assert found["budget"] == 0.99
    assert found["removed_filters"] > 0
    assert found["multiplier"] > 0
    assert result.rate > plain.rate
    kept = account(*load_model(tmp_path / "out" / "best")).totals.kept_weights
    assert sum(row["kept_weights"] for row in report["layers"]) == kept
    assert json.loads((tmp_path / "plain" / "compression.json").read_text())["purification"] is None
    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        run_compression(trained, settings, again, progress=_stop_in_purification(again))
    plan = (again / "stages" / "purify" / "plan.json").stat().st_mtime_ns
    run_compression(trained, settings, again, resume=True)
    assert (again / "stages" / "purify" / "plan.json").stat().st_mtime_ns == plan
    weights = [folder / "best" / "weights.safetensors" for folder in (tmp_path / "out", again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_rounds_that_have_converged_end_the_phase_early(trained: Path, tmp_path: Path) -> None:
    early = recipe(
        ladder=1,
        rate=2,
        admm={"epochs": 6, "rho": [0.1, 1.0], "tolerance": 0.99},
        retrain={"epochs": 1},
    )
    run_compression(trained, early, tmp_path / "out")
    rows = read_metrics(tmp_path / "out" / "metrics.csv")
    assert [(row["masked"], row.get("admm_round")) for row in rows] == [(0, 1), (0, 2), (1, None)]


@pytest.mark.slow
def test_a_pruned_run_can_be_pruned_again_without_its_parent(
    trained: Path, pruned: tuple[Path, CompressionResult], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    (moved / "best").mkdir(parents=True)
    for file in (*(pruned[0] / "best").iterdir(), pruned[0] / "config.yaml"):
        target = moved / file.relative_to(pruned[0])
        target.write_bytes(file.read_bytes())
    record = json.loads((pruned[0] / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps({**record, "parent": "/nowhere"}))
    assert RunFolder(moved).training_recipe(TrainRecipe) == RunFolder(trained).training_recipe(
        TrainRecipe
    )
    again = recipe(rate=1.5, ladder=1, retrain={"epochs": 1})
    result = run_compression(moved, again, tmp_path / "out", dataset=trained.parent / "data")
    dense = account(*load_model(trained / "best")).totals.weights
    found = inspect_folder(tmp_path / "out")
    assert found.trained_weights == dense, "the whole way is known, not the last step alone"
    assert found.whole_rate == pytest.approx(9, rel=0.1)
    assert result.before.totals == pruned[1].after.totals
    assert result.rate == pytest.approx(1.5, rel=0.05)
    spec, _ = load_model(moved / "best")
    smaller, _ = load_model(tmp_path / "out" / "best")
    assert any(layer.storage.format == "columns" for layer in smaller.weighted())
    for before, after in zip(spec.weighted(), smaller.weighted(), strict=True):
        assert after.out_channels <= before.out_channels
        assert after.in_channels <= before.in_channels


@pytest.mark.slow
def test_limits_are_over_what_an_earlier_run_left_of_a_layer(trained: Path, tmp_path: Path) -> None:
    """Columns of a pruned layer stay in its matrix: a limit over that would forbid the next run."""
    halved = recipe(
        rate=1.5, ladder=1, rates={"limits": {"*": 2}}, retrain={"epochs": 1},
        constraint={"kind": "structured", "filter_share": 0, "group_size": 4},
        admm={"epochs": 1, "rho": [1.0], "steps_per_update": 1},
    )  # fmt: skip
    first = run_compression(trained, halved, tmp_path / "first")
    second = run_compression(tmp_path / "first", halved, tmp_path / "second")
    assert second.rate == pytest.approx(1.5, rel=0.02)
    before, after = ({row.name: row.kept_weights for row in found.layers} for found in
                     (first.after, second.after))  # fmt: skip
    assert all(before[name] <= 2.1 * after[name] for name in before), "each within its limit"


def test_limits_grow_with_the_rate_they_are_meant_for(trained: Path) -> None:
    spec, tensors = load_model(trained / "best")
    name = spec.weighted()[3].name
    before = account(spec, tensors)

    def limit(**rates: Any) -> float:
        found = recipe(rate=4, rates={"limits": {name: 1.5}, **rates})
        return layer_limits(spec, before, found, [name])[name]

    assert limit() == pytest.approx(1.5)
    assert limit(limits_for=2) == pytest.approx(1.5**2)
    assert limit(limits_for=16) == pytest.approx(1.5**0.5)


@pytest.mark.parametrize("name", ["phantom", "combined", "filter", "column"])
def test_shipped_recipes_load(name: str) -> None:
    assert name in recipe_names("prune")
    loaded = load_recipe(name, "prune", PruneRecipe, ["rate=36"])
    assert loaded.rate == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": {"include": ["conv_9*"]}}, "matches no layer; .*'conv_9\\*' .*layers.include"),
        ({"rates": {"limits": {"nope": 2}}}, "matches no layer; .*rates.limits"),
        ({"layers": {"exclude": ["*"]}}, "No layer is left to prune"),
        ({"rate": 100000.0}, "cannot be reached; expected at most"),
        (
            {"layers": {"include": ["conv_015"]}, "rate": 1.0001, "constraint": {
                "kind": "structured", "filter_share": 1}},
            "prunes nothing at rate 1.0001; found 1 selected layer .*protected in conv_015",
        ),
    ],
)  # fmt: skip
def test_impossible_recipes_are_refused_in_one_line(
    trained: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PruneError, match=message) as error:
        run_compression(trained, recipe(**{"ladder": 1, **change}), tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 1},
        {"ladder": [4, 2]},
        {"ladder": [9, 30]},
        {"admm": {"rho": [1.0, 0.1]}},
        {"admm": {"epochs": 1}},
        {"constraint": {"kind": "magic"}},
        {"unknown": 1},
    ],
)
def test_recipes_are_validated(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **change}))
    with pytest.raises(ConfigError):
        load_recipe(str(path), "prune", PruneRecipe)


def test_other_runs_are_neither_overwritten_nor_resumed(
    trained: Path, pruned: tuple[Path, CompressionResult], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="holds a run already"):
        run_compression(trained, recipe(), pruned[0])
    with pytest.raises(KeyboardInterrupt):
        run_compression(trained, recipe(), tmp_path / "out", progress=_Interrupts(3))
    with pytest.raises(OutputError, match="Resume it"):
        run_compression(trained, recipe(), tmp_path / "out")
    with pytest.raises(ArtefactError, match="Recipe differs"):
        run_compression(trained, recipe(rate=7), tmp_path / "out", resume=True)


def test_resuming_a_finished_run_gives_its_result_again(
    trained: Path, pruned: tuple[Path, CompressionResult]
) -> None:
    out, before = pruned
    files = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    again = run_compression(trained, recipe(), out, resume=True)
    assert again == before
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == files


def test_a_run_stopped_after_its_model_was_written_is_finished(
    trained: Path, pruned: tuple[Path, CompressionResult], tmp_path: Path
) -> None:
    """The disk was full for compression.json: the model is there, the run is not over."""
    copy = shutil.copytree(pruned[0], tmp_path / "copy")
    (copy / "compression.json").unlink()
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "status": "failed"}))
    run_compression(trained, recipe(), copy, resume=True)
    for name in ("compression.json", "best/weights.safetensors"):
        assert (copy / name).read_bytes() == (pruned[0] / name).read_bytes()


@pytest.mark.parametrize("rate", [1.001, 1.01])
def test_a_rate_that_prunes_nothing_is_refused_before_any_training(
    trained: Path, tmp_path: Path, rate: float
) -> None:
    for constraint in ({"kind": "irregular"}, RECIPE["constraint"]):
        settings = recipe(ladder=1, rate=rate, constraint=constraint)
        with pytest.raises(PruneError, match="prunes nothing"):
            run_compression(trained, settings, tmp_path / "out")
        assert not (tmp_path / "out" / "stages").exists()


def test_stages_above_the_rate_are_named(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = recipe(rate=4, ladder=[2, 9, 30])
    with pytest.raises(KeyboardInterrupt):
        run_compression(trained, settings, tmp_path / "out", progress=_Interrupts(2))
    assert "above the rate 4 are left out: 9, 30" in caplog.text


def test_a_dataset_that_validates_on_training_images_is_refused(
    tiny_run: TinyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = {("train", "phantom"): (8, 8), ("val", "phantom"): (4, 4)}
    swapped = {("val", "phantom"): (8, 8), ("train", "phantom"): (4, 4)}
    seen = write_rectangles(tmp_path / "seen", swapped)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"16 such validation images.*--accept-seen"):
        run_compression(tiny_run.run, recipe(), out, seen)
    assert not out.exists()
    with pytest.raises(KeyboardInterrupt):
        run_compression(
            tiny_run.run, recipe(), out, seen, progress=_Interrupts(2), accept_seen=True
        )
    assert "were seen in training" in caplog.text
    caplog.clear()
    other = write_rectangles(tmp_path / "other", counts, seed=3)  # the same names and split
    with pytest.raises(KeyboardInterrupt):
        run_compression(tiny_run.run, recipe(), tmp_path / "out2", other, progress=_Interrupts(2))
    assert "is not the dataset of" in caplog.text
    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        run_compression(
            tiny_run.run, recipe(), tmp_path / "out3", tiny_run.data, progress=_Interrupts(2)
        )
    assert "dataset" not in caplog.text
    with pytest.raises(OutputError, match="lies in the dataset"):
        run_compression(tiny_run.run, recipe(), tiny_run.data / "pruned")


def test_the_verb_shows_dense_beside_pruned_and_the_next_command(
    trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "ladder": 1, "retrain": {"epochs": 1}}))
    out = tmp_path / "out"
    shown = CliRunner().invoke(
        command, [str(trained), "--recipe", str(path), "--out", str(out), "--rate", "4"]
    )
    assert shown.exit_code == 0, shown.output
    for part in ("parameters", "MACs", "weights file", "rsna", "protected", "asked for 4x"):
        assert part in shown.output
    assert f"next: pneumonia export {out}" in shown.output
    missing = [str(tmp_path), "--recipe", "combined", "--out", str(tmp_path / "x")]
    assert run_command(command, missing) == 4
    assert run_command(command, [str(trained), "--recipe", "no", "--out", str(out)]) == 2


class _SecondLayerMatters:
    """A task whose metric falls with the zeros of layer conv_002 alone."""

    def evaluate(self, network: Network) -> dict[str, float]:
        weight = network.weights()["conv_002"]
        return {"selection_metric": float((weight != 0).float().mean())}


def test_sensitivity_finds_the_layer_that_matters(trained: Path, tmp_path: Path) -> None:
    spec, tensors = load_model(trained / "best")
    network = Network(spec)
    network.load_tensors(tensors)
    layers = ["conv_000", "conv_002", "conv_004"]
    task: Any = _SecondLayerMatters()
    found = measure_sensitivity(network, task, StructuredMethod(), layers, (2.0, 4.0))
    assert found["conv_000"] == found["conv_004"] == [1.0, 1.0]
    assert 1 > found["conv_002"][0] > found["conv_002"][1] > 0
    assert all(torch.equal(t, tensors[name]) for name, t in network.tensors().items())
    assert exponents_by_rank(found) == {"conv_002": 0.5, "conv_000": 1.0, "conv_004": 1.5}
    write_sensitivity(tmp_path, found, (2.0, 4.0))
    assert read_sensitivity(tmp_path) == found
    assert read_sensitivity(tmp_path / "elsewhere") is None


@pytest.mark.slow
def test_a_recipe_by_sensitivity_runs(trained: Path, tmp_path: Path) -> None:
    quick = recipe(
        ladder=1,
        rates={"assignment": "sensitivity", "probes": [4.0]},
        retrain={"epochs": 1},
    )
    result = run_compression(trained, quick, tmp_path / "out")
    assert result.rate == pytest.approx(6, rel=0.05)
    assert (tmp_path / "out" / "sensitivity.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("formulation", ["two_split", "sequential"])
def test_other_formulations_reach_the_same_rate(
    trained: Path, tmp_path: Path, formulation: str
) -> None:
    constraint = {**RECIPE["constraint"], "formulation": formulation}
    quick = recipe(ladder=1, constraint=constraint, retrain={"epochs": 1})
    assert run_compression(trained, quick, tmp_path / "out").rate == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize("phase", ["admm", "retrain"])
def test_a_phase_may_have_a_batch_size_of_its_own(
    phase: str, trained: Path, tmp_path: Path
) -> None:
    short = {"ladder": 1, "admm": {"epochs": 1, "rho": [1.0]}, "retrain": {"epochs": 1}}
    short[phase] = {**RECIPE[phase], **short[phase], "batch_size": 4096}  # type: ignore[dict-item]
    with pytest.raises(TrainingError, match=r">= 4096 images \(batch_size\)"):
        run_compression(trained, recipe(**short), tmp_path / "out")


def test_a_recipe_may_shorten_the_parents_epochs() -> None:
    training = TrainRecipe.model_validate(
        {"data": {"kinds": {"full": 8}, "images_per_epoch": 6000}, "validate_every": 2}
    )
    recipe = load_recipe("rsna-step", "prune", PruneRecipe)
    changed = pruned_training(training, recipe)
    assert (changed.data.images_per_epoch, changed.validate_every) == (1920, 4)
    assert changed.data.kinds == {"full": 8}
    untouched = recipe.model_copy(update={"images_per_epoch": None, "validate_every": None})
    assert pruned_training(training, untouched) == training
