"""The run folder: checkpoints, parents, refusal to overwrite or to resume another run, status."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from pneumonia.network.files import save_model
from pneumonia.network.zoo import build
from pneumonia.runs.folder import RunFolder, new_record
from pneumonia.runs.stored_recipe import recipe_text, refuse_other_recipe
from pneumonia.runtime.errors import ArtefactError, ConfigError, OutputError, TrainingError
from tests.network.random_networks import random_tensors

DATASET = {"path": "/nowhere", "fingerprint": "a" * 64}


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = 1
    rate: float = 0.1


def saved(folder: Path) -> int:
    """Writes a model and returns its weights."""
    spec = build("yolov3-tiny", width=0.0625, size=64, n_classes=1)
    save_model(folder, spec, random_tensors(spec, 1))
    return sum(
        layer.out_channels * layer.in_channels * layer.kernel**2 for layer in spec.weighted()
    )


def recorded(path: Path, kind: str = "train", parent: Path | None = None, **more) -> RunFolder:
    """A finished run."""
    folder = RunFolder(path)
    record = new_record(kind, 0, DATASET, str(parent) if parent else None, **more)
    with folder.recorded(record, Recipe(epochs=3)):
        pass
    return folder


def test_checkpoints_of_a_run_and_of_a_folder_that_is_one(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ArtefactError, match="neither a run nor a bundle"):
        folder.checkpoint()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"no checkpoint yet.*Train it first"):
        folder.checkpoint()
    saved(tmp_path / "last")
    assert folder.checkpoint() == tmp_path / "last"
    with pytest.raises(ArtefactError, match=r"expected best/spec\.json"):
        folder.checkpoint("best")
    saved(tmp_path / "best")
    assert folder.checkpoint() == tmp_path / "best"
    assert folder.checkpoint("last") == tmp_path / "last"
    assert RunFolder(tmp_path / "last").checkpoint() == tmp_path / "last"
    with pytest.raises(ArtefactError, match="No such folder"):
        RunFolder(tmp_path / "nowhere").checkpoint()


def test_a_compression_finds_its_training_through_its_parents(tmp_path):
    train = recorded(tmp_path / "train")
    weights = saved(train.best)
    prune = recorded(tmp_path / "prune", "prune", train.path)
    quantize = recorded(tmp_path / "quantize", "quantize", prune.path)
    assert [run.path.name for run in quantize.lineage()] == ["quantize", "prune", "train"]
    assert quantize.training_recipe(Recipe) == Recipe(epochs=3)
    assert quantize.trained_weights() == weights
    moved = recorded(
        tmp_path / "moved", "prune", Path("/nowhere"), training={"epochs": 7}, trained_weights=5
    )
    assert moved.parent() is None
    assert moved.training_recipe(Recipe) == Recipe(epochs=7)
    assert moved.trained_weights() == 5
    alone = recorded(tmp_path / "alone", "prune")
    assert alone.trained_weights() is None
    with pytest.raises(ArtefactError, match="descends from no training"):
        alone.training_recipe(Recipe)


def test_the_dataset_is_that_of_the_nearest_run_whose_dataset_exists(tmp_path):
    train = recorded(tmp_path / "train")
    record = train.record() | {"dataset": {"path": str(tmp_path), "fingerprint": "b"}}
    train.record_file.write_text(json.dumps(record))
    assert recorded(tmp_path / "prune", "prune", train.path).dataset_path() == tmp_path
    with pytest.raises(ConfigError, match=r"does not exist.*'/nowhere'.*Give a dataset folder"):
        recorded(tmp_path / "other").dataset_path()


@pytest.mark.parametrize("name", ["best", "last", "stages"])
def test_a_run_is_not_overwritten(tmp_path, name):
    folder = RunFolder(tmp_path)
    folder.refuse_overwrite()
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=r"holds a run already.*Resume it"):
        folder.refuse_overwrite()


def test_a_folder_of_other_files_is_not_written_into(tmp_path):
    (tmp_path / "labels.csv").write_text("patientId")
    with pytest.raises(OutputError, match=r"other files.*or a run.*another folder"):
        RunFolder(tmp_path).refuse_other_files()
    RunFolder(tmp_path / "new").refuse_other_files()
    RunFolder(recorded(tmp_path / "begun").path).refuse_other_files()


def test_the_output_of_score_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": "pneumonia.score/1"}')
    with pytest.raises(OutputError, match=r"other files.*or a run.*another folder"):
        RunFolder(tmp_path).refuse_other_files()
    with pytest.raises(ArtefactError, match="neither a run nor a bundle"):
        RunFolder(tmp_path).checkpoint()


def test_an_internal_error_is_recorded_without_its_text(tmp_path):
    folder = RunFolder(tmp_path)
    with (
        pytest.raises(RuntimeError),
        folder.recorded(new_record("train", 4, DATASET, None), Recipe()),
    ):
        raise RuntimeError("Doe^John")
    record = folder.record()
    assert (record["status"], record["error"]) == ("failed", "internal error (RuntimeError)")


def test_the_status_follows_the_run(tmp_path):
    folder, seen = RunFolder(tmp_path), []
    record = new_record("train", 4, DATASET, None)
    with folder.recorded(record, Recipe()) as added:
        seen.append(folder.record()["status"])
        added["result"] = 1
    seen.append(folder.record()["status"])
    assert folder.record()["result"] == 1
    assert folder.config() == {"epochs": 1, "rate": 0.1}
    with pytest.raises(KeyboardInterrupt), folder.recorded(record, Recipe()):
        raise KeyboardInterrupt
    seen.append(folder.record()["status"])
    with pytest.raises(TrainingError), folder.recorded(record, Recipe()):
        raise TrainingError("Loss is not finite")
    seen.append(folder.record()["status"])
    assert seen == ["running", "done", "interrupted", "failed"]
    assert folder.record()["error"] == "Loss is not finite"
    with RunFolder(tmp_path / "second").recorded(record, Recipe(), writes=False):
        pass
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "prune"),
        ("parent", "elsewhere"),
        ("dataset", {"path": "/nowhere", "fingerprint": "c" * 64}),
    ],
)
def test_another_run_is_not_resumed(tmp_path, key, value):
    folder = recorded(tmp_path, parent=Path("parent"))
    now = new_record("train", 0, {**DATASET, "path": "/moved"}, "./parent")
    before = {**folder.record(), "started": "2026-01-01T00:00:00+00:00"}
    folder.record_file.write_text(json.dumps(before))
    assert folder.resumed_record(now)["started"] == before["started"]
    with pytest.raises(ArtefactError, match=f"has another {key}"):
        folder.resumed_record({**now, key: value})


def test_a_recipe_is_compared_with_the_defaults_of_its_time(tmp_path):
    refuse_other_recipe({"epochs": 2}, Recipe(epochs=2), tmp_path)  # `rate` did not exist yet
    with pytest.raises(ArtefactError, match=r"expected rate = 0\.1; found 0\.5"):
        refuse_other_recipe({"epochs": 2}, Recipe(epochs=2, rate=0.5), tmp_path)
    refuse_other_recipe({"epochs": 2}, Recipe(epochs=9), tmp_path, frozenset({"epochs"}))
    with pytest.raises(ArtefactError, match="magic = 1; found None"):
        refuse_other_recipe({"epochs": 2, "rate": 0.1, "magic": 1}, Recipe(epochs=2), tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_damaged_records_are_one_line(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.record_file.write_text(content)
    folder.config_file.write_text(content)
    for read in (folder.record, folder.config):
        with pytest.raises(ArtefactError) as error:
            read()
        assert str(tmp_path) in str(error.value)


def test_recipes_are_written_whole(tmp_path):
    assert recipe_text(Recipe(epochs=2)) == "epochs: 2\nrate: 0.1\n"
