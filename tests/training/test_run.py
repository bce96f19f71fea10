import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from data_prep.dataset.reader import open_dataset
from pneumonia import cli
from pneumonia.exporting.bundle import export
from pneumonia.network.files import load_model, save_model
from pneumonia.network.zoo import build
from pneumonia.recipes import load_recipe, recipe_names
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.errors import ArtefactError, ConfigError, OutputError, TrainingError
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.training.config import TrainRecipe
from pneumonia.training.run import (
    divergence_warning,
    make_network,
    make_spec,
    run_train,
    training_box_sizes,
)
from pneumonia.training.threads import usable_cores
from tests.network.darknet_files import darknet_bytes
from tests.support.tiny import write_rectangles

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
        "val_predictions.csv", "operating_points.json", "checksums.json",
    }  # fmt: skip
    assert {path.name for path in (out / "last").iterdir()} == {
        "spec.json", "weights.safetensors", "state.safetensors", "state.json", "checksums.json",
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


def test_a_run_is_not_written_into_its_dataset(rectangles_path, tmp_path):
    before = sorted(path.name for path in rectangles_path.iterdir())
    for out in (rectangles_path, rectangles_path / "runs" / "a", tmp_path / "link" / "run"):
        if out.parent == tmp_path / "link":
            out.parent.symlink_to(rectangles_path)
        with pytest.raises(OutputError, match=r"lies in the dataset.*Choose another folder"):
            run_train(rectangles_path, small(), out)
    assert sorted(path.name for path in rectangles_path.iterdir()) == before


@pytest.mark.parametrize("name", ["best/weights.safetensors", "best/operating_points.json",
                                  "last/state.safetensors"])  # fmt: skip
def test_a_flipped_bit_in_a_run_is_refused(finished, rectangles_path, tmp_path, name):
    _, out, _, _ = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-9] ^= 4
    (copy / name).write_bytes(content)
    config = RunFolder(copy).training_recipe(TrainRecipe).model_copy(update={"epochs": 9})
    work = {
        "best": lambda: export(copy, tmp_path / "bundle"),
        "last": lambda: run_train(rectangles_path, config, copy, resume=True),
    }
    with pytest.raises(ArtefactError, match="differs from its checksum") as error:
        work[name.partition("/")[0]]()
    assert name.rpartition("/")[2] in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists()


def test_a_run_without_checksums_is_read(finished, tmp_path):
    _, out, _, _ = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "best" / "checksums.json").unlink()
    assert export(copy, tmp_path / "bundle").out.is_dir()


@pytest.mark.parametrize("left", ["best", "nothing"])
def test_a_run_whose_disk_was_full_in_the_first_epoch_resumes_and_restarts(
    rectangles_path, tmp_path, monkeypatch, left
):
    full = OutputError("Cannot write file", found="No space left on device")

    def refuse(*arguments, **more):
        raise full

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        where = "save_last" if left == "best" else "save_best"
        patched.setattr(f"pneumonia.training.loop.{where}", refuse)
        with pytest.raises(OutputError, match="No space left"):
            run_train(rectangles_path, small(), out)
    assert (out / "best").exists() is (left == "best")
    if left == "nothing":
        copy = shutil.copytree(out, tmp_path / "copy")
        assert run_train(rectangles_path, small(), copy).epochs == 2
    assert run_train(rectangles_path, small(), out, resume=True).epochs == 2


def diverging(learning_rate: float) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {**SMALL, "optimiser": {"learning_rate": learning_rate, "name": "sgd"}, "epochs": 1}
    )


def test_a_diverged_training_ends_with_a_warning(rectangles_path, tmp_path, caplog):
    run_train(rectangles_path, diverging(1000), tmp_path / "out")
    assert "finds nothing" in caplog.text
    assert "lower optimiser.learning_rate (now 1000)" in caplog.text


def test_a_loss_that_is_not_finite_ends_the_training(rectangles_path, tmp_path):
    with pytest.raises(TrainingError, match=r"Loss is not finite.*optimiser\.learning_rate"):
        run_train(rectangles_path, diverging(1e30), tmp_path / "out")


def test_the_warning_by_hand():
    def rows(*found):
        return [{"epoch": float(i), "loss": 1.0, "val_rsna": rsna, "val_auroc": auroc}
                for i, (rsna, auroc) in enumerate(found, 1)]  # fmt: skip

    recipe = TrainRecipe()
    assert divergence_warning(rows((0.1, 0.7), (0.2, 0.8)), recipe) is None
    assert divergence_warning([{"epoch": 1.0, "loss": 1.0}], recipe) is None
    collapsed = divergence_warning(rows((0.1, 0.7), (0.0, 0.5)), recipe)
    assert "after epoch 2: RSNA score 0.0000, AUROC 0.5000; the best epoch had 0.1000" in collapsed
    assert divergence_warning(rows((0.05, 0.5)), recipe) is not None


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow), None])
def test_threads_of_the_recipe_are_used_and_recorded(
    rectangles_path, tmp_path, monkeypatch, threads
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        recipe = small().model_copy(update={"threads": threads, "epochs": 1})
        run_train(rectangles_path, recipe, tmp_path / "out")
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        expected = threads or min(before, usable_cores())
        assert torch.get_num_threads() == record["threads"] == expected
    finally:
        torch.set_num_threads(before)


def test_usable_cores_follow_affinity_quota_and_hyper_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    root, quota = str(tmp_path), tmp_path / "sys/fs/cgroup/cpu.max"
    quota.parent.mkdir(parents=True)
    assert usable_cores(root) == 4
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        path = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(siblings + "\n")
    assert usable_cores(root) == 2
    for text, expected in (("max 100000", 2), ("150000 100000", 1), ("50000 100000", 1)):
        quota.write_text(text)
        assert usable_cores(root) == expected


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
    (tmp_path / "file.weights").write_bytes(darknet_bytes(spec, tensors))
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
