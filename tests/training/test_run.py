import csv
import json
import os

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from data_prep.dataset.reader import open_dataset
from pneumonia import cli
from pneumonia.network.darknet import write_darknet
from pneumonia.network.files import load_model, save_model
from pneumonia.network.zoo import build
from pneumonia.recipes import load_recipe, recipe_names
from pneumonia.runtime.errors import ArtefactError, ConfigError
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.training.config import TrainRecipe
from pneumonia.training.run import make_network, make_spec, run_train, training_box_sizes
from tests.tiny import write_rectangles

SMALL = {
    "model": {"name": "yolov3-tiny", "width": 0.0625, "size": 64, "anchors": "auto"},
    "epochs": 2,
    "batch_size": 8,
    "workers": 0,
    "device": "cpu",
}


def small(**model: object) -> TrainRecipe:
    return TrainRecipe.model_validate({**SMALL, "model": {**SMALL["model"], **model}})


@pytest.fixture(scope="module")
def finished(rectangles_path, tmp_path_factory):
    """A run made by the command itself."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    out = folder / "out"
    data = os.path.relpath(rectangles_path)
    arguments = ["train", "--data", data, "--recipe", str(folder / "small.yaml")]
    result = CliRunner().invoke(
        cli.group, [*arguments, "--out", str(out), "--set", "optimiser.learning_rate=0.004"]
    )
    assert result.exit_code == 0, result.output
    return folder, out, arguments, result.output


def test_command_leaves_a_whole_run_folder(finished, rectangles_path):
    _, out, _, output = finished
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "config.yaml", "run.json", "metrics.csv", "loss.png", "metrics.png", "last", "best",
    }  # fmt: skip
    assert {path.name for path in (out / "best").iterdir()} == {
        "spec.json", "weights.safetensors", "metrics.json",
        "val_predictions.csv", "operating_points.json",
    }  # fmt: skip
    assert {path.name for path in (out / "last").iterdir()} == {
        "spec.json", "weights.safetensors", "state.safetensors", "state.json",
    }  # fmt: skip
    record = json.loads((out / "run.json").read_text())
    assert record["schema"] == "pneumonia.run/1"
    assert (record["kind"], record["status"], record["seed"]) == ("train", "done", 0)
    assert record["dataset"]["fingerprint"] == open_dataset(rectangles_path).fingerprint
    assert record["dataset"]["path"] == str(rectangles_path), "found again from any folder"
    assert record["versions"]["torch"]
    assert record["result"]["epochs"] == 2
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = max(float(row["val_rsna"]) for row in rows)
    assert record["result"]["best_metric"] == pytest.approx(best)
    assert len(read_predictions(str(out / "best" / "val_predictions.csv"))) == 12
    assert f"next: pneumonia export {out}" in output
    assert "rsna" in output


def test_effective_recipe_is_written_and_loads_again(finished):
    _, out, _, _ = finished
    again = load_recipe(str(out / "config.yaml"), "train", TrainRecipe)
    assert again.optimiser.learning_rate == 0.004
    assert (
        again.model_dump() == small().model_copy(update={"optimiser": again.optimiser}).model_dump()
    )


def test_command_resumes_with_more_epochs(finished):
    _, out, arguments, _ = finished
    more = ["--set", "optimiser.learning_rate=0.004", "--set", "epochs=3", "--resume"]
    result = CliRunner().invoke(cli.group, [*arguments, "--out", str(out), *more])
    assert result.exit_code == 0, result.output
    assert json.loads((out / "run.json").read_text())["result"]["epochs"] == 3


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        ((), 5, "holds a run already"),
        (("--resume",), 4, "Recipe differs"),
        (("--set", "epoch=3"), 2, "'epoch'"),
        (("--set", "model.size=100"), 2, "model.size"),
    ],
)
def test_command_ends_with_the_right_code(finished, capsys, extra, code, message):
    _, out, arguments, _ = finished
    before = (out / "run.json").read_bytes()
    assert cli.run(cli.group, [*arguments, "--out", str(out), *extra]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (out / "run.json").read_bytes() == before


def test_interrupt_is_exit_130_and_the_record_says_so(finished, rectangles_path, monkeypatch):
    folder, _, arguments, _ = finished
    out = folder / "interrupted"

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pneumonia.training.run.fit", interrupt)
    assert cli.run(cli.group, [*arguments, "--out", str(out)]) == 130
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"


def test_resume_on_another_dataset_is_refused(finished, tmp_path):
    _, out, _, _ = finished
    recipe = load_recipe(str(out / "config.yaml"), "train", TrainRecipe)
    counts = {("train", "phantom"): (12, 12), ("val", "phantom"): (6, 6)}
    other = write_rectangles(tmp_path / "other", counts, seed=7)
    with pytest.raises(ArtefactError, match="another dataset"):
        run_train(other, recipe, out, resume=True)


def test_anchors_are_fitted_to_the_training_boxes(rectangles):
    spec = make_spec(rectangles, small())
    anchors = np.array([pair for head in spec.detect_layers() for pair in head.anchors])
    sizes = training_box_sizes(rectangles, small())
    assert len(sizes) == 12
    # boxes are 24 to 55 px on 128 px originals: 12 to 28 px at 64
    assert ((sizes >= 12) & (sizes <= 28)).all()
    assert ((anchors >= 12) & (anchors <= 28)).all()
    published = make_spec(rectangles, small(anchors="zoo"))
    assert published.detect_layers() == build("yolov3-tiny", width=0.0625, size=64).detect_layers()


def test_unknown_detector_lists_the_known_ones(rectangles):
    with pytest.raises(ConfigError, match=r"yolov3, yolov3-tiny; found 'lenet5'"):
        make_spec(rectangles, small(name="lenet5"))


def test_start_from_a_run_a_model_folder_and_a_darknet_file(finished, rectangles, tmp_path):
    _, out, _, _ = finished
    spec, tensors = load_model(out / "best")
    save_model(tmp_path / "model", spec, tensors)
    write_darknet(tmp_path / "file.weights", spec, tensors)
    for start in (out, tmp_path / "model", tmp_path / "file.weights"):
        loaded = make_network(spec, small(start_from=str(start))).tensors()
        for name, tensor in tensors.items():
            assert np.allclose(loaded[name], tensor, atol=1e-6), (start, name)
    wide = small(width=0.25, start_from=str(out))
    with pytest.raises(ArtefactError, match="of another network"):
        make_network(make_spec(rectangles, wide), wide)


def test_weights_depend_on_the_seed_only(rectangles):
    import torch

    spec = make_spec(rectangles, small())
    torch.manual_seed(1)
    first = make_network(spec, small()).weights()
    torch.manual_seed(2)
    second = make_network(spec, small()).weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", recipe_names("train"))
def test_shipped_recipe_loads_and_fits_its_network(name):
    recipe = load_recipe(name, "train", TrainRecipe)
    spec = build(
        recipe.model.name, width=recipe.model.width, size=recipe.model.size,
        channels=recipe.model.channels, n_classes=1,
    )  # fmt: skip
    assert spec.detect_layers()
