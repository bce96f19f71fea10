import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_prep.dataset.reader import Dataset
from pneumonia.compression.distil import Teacher
from pneumonia.network.files import load_model
from pneumonia.network.module import Network
from pneumonia.runtime.errors import ArtefactError, ConfigError, OutputError, TrainingError
from pneumonia.runtime.storage.tensorfile import read_tensors
from pneumonia.training.config import OptimiserConfig, ScheduleConfig, TrainRecipe
from pneumonia.training.detector.task import DetectionTask
from pneumonia.training.hooks import TrainingHook
from pneumonia.training.journal import read_metrics
from pneumonia.training.loop import FitResult, fit, uses_bf16
from pneumonia.training.task import SELECTION_METRIC
from tests.support.tiny import tiny_network, tiny_spec

TIMES = {"images_per_s", "data_wait_fraction", "epoch_s", "val_s"}
RECIPE = TrainRecipe(epochs=3, batch_size=8, workers=0, device="cpu")


def recipe(**changes: object) -> TrainRecipe:
    return RECIPE.model_copy(update=changes)


class Scripted(DetectionTask):
    """A detection task whose selection metric is given per epoch."""

    def __init__(self, dataset: Dataset, metrics: list[float], first_epoch: int = 1) -> None:
        super().__init__(dataset, tiny_spec(), RECIPE)
        self.metrics = iter(metrics[first_epoch - 1 :])

    def evaluate(self, network: Network) -> dict[str, float]:
        super().evaluate(network)
        return {SELECTION_METRIC: next(self.metrics)}


class Noise(TrainingHook):
    """Draws from torch's generator and keeps a count and a tensor, as ADMM does."""

    def __init__(self) -> None:
        self.calls = 0
        self.total = torch.zeros(3)

    def after_backward(self, network: Network) -> None:
        self.calls += 1
        weight = network.weights()["a"]
        assert weight.grad is not None
        weight.grad += 0.01 * torch.randn_like(weight)
        self.total += torch.rand(3)

    def after_epoch(self, network: Network, epoch: int) -> dict[str, float]:
        return {"noise_calls": float(self.calls)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        return {"total": self.total}, {"calls": self.calls}

    def load_state(self, tensors, values) -> None:
        self.total = tensors["total"].clone()
        self.calls = values["calls"]


class InterruptAt:
    """Raises what Ctrl-C raises, at a step of the run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, done: int, total: int, note: str) -> None:
        if done == self.step:
            raise KeyboardInterrupt


def run(
    dataset: Dataset, config: TrainRecipe, out: Path, resume: bool = False, progress=None
) -> FitResult:
    torch.manual_seed(99 if resume else 5)  # what the process did before must not matter
    torch.randn(7)
    task = DetectionTask(dataset, tiny_spec(), config)
    return fit(tiny_network(), task, config, out, [Noise()], resume, progress)


def timeless(out: Path) -> list[dict[str, float]]:
    rows = read_metrics(out / "metrics.csv")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.mark.parametrize(
    ("optimiser", "workers", "precision"), [("adamw", 1, "bf16"), ("sgd", 0, "fp32")]
)
def test_interrupted_and_resumed_equals_uninterrupted(
    rectangles, tmp_path, optimiser, workers, precision
):
    config = recipe(
        optimiser=OptimiserConfig(name=optimiser, learning_rate=0.01),
        workers=workers,
        precision=precision,
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(rectangles, config, whole)
    steps = 3  # of an epoch: 24 images in batches of 8
    with pytest.raises(KeyboardInterrupt):
        run(rectangles, config, broken, progress=InterruptAt(steps + 2))
    before = (broken / "last" / "state.json").read_text()
    assert json.loads(before)["epoch"] == 1
    assert [row["epoch"] for row in timeless(broken)] == [1]
    with pytest.raises(KeyboardInterrupt):  # interrupted again, in the epoch after
        run(rectangles, config, broken, resume=True, progress=InterruptAt(2 * steps + 1))
    result = run(rectangles, config, broken, resume=True)
    assert result.epochs == 3
    for name in ("last/weights.safetensors", "last/state.safetensors", "last/state.json",
                 "last/spec.json", "best/weights.safetensors", "best/metrics.json",
                 "best/val_predictions.csv", "best/operating_points.json"):  # fmt: skip
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert timeless(broken) == timeless(whole)
    assert timeless(whole)[-1]["noise_calls"] == 9
    assert not list(broken.glob(".part*"))


def test_result_does_not_depend_on_workers(rectangles, tmp_path):
    for workers in (0, 2):
        run(rectangles, recipe(epochs=1, workers=workers), tmp_path / str(workers))
    states = [read_tensors(str(tmp_path / w / "last/state.safetensors")) for w in "02"]
    assert states[0].keys() == states[1].keys()
    assert all((states[0][name] == states[1][name]).all() for name in states[0])


@pytest.mark.parametrize(
    ("precision", "capabilities", "bf16"),
    [("auto", {"avx512_bf16": True}, True), ("auto", {"avx2": True}, False),
     ("bf16", {}, True), ("fp32", {"amx_bf16": True}, False)],
)  # fmt: skip
def test_automatic_precision_follows_the_processor(monkeypatch, precision, capabilities, bf16):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert uses_bf16(recipe(precision=precision), torch.device("cpu")) is bf16


def test_seed_changes_the_run(rectangles, tmp_path):
    for seed in (0, 1):
        run(rectangles, recipe(epochs=1, seed=seed), tmp_path / str(seed))
    assert timeless(tmp_path / "0") != timeless(tmp_path / "1")


def test_checkpoint_holds_the_averaged_weights(rectangles, tmp_path):
    run(rectangles, recipe(epochs=1), tmp_path)
    _, exported = load_model(tmp_path / "last")
    raw = read_tensors(str(tmp_path / "last/state.safetensors"))
    assert any((exported[n].numpy() != raw[f"weights/{n}"]).any() for n in exported)


def fit_scripted(dataset, metrics, config, out, resume=False):
    first = 1 + (json.loads((out / "last/state.json").read_text())["epoch"] if resume else 0)
    return fit(tiny_network(), Scripted(dataset, metrics, first), config, out, resume=resume)


def test_best_is_kept_and_a_resume_never_overwrites_a_better_one(rectangles, tmp_path):
    script = [0.1, 0.7, 0.3, 0.5, 0.69, 0.2]
    result = fit_scripted(rectangles, script, recipe(epochs=4), tmp_path)
    assert (result.best_metric, result.best_epoch) == (0.7, 2)
    best = (tmp_path / "best/weights.safetensors").read_bytes()
    predictions = (tmp_path / "best" / "val_predictions.csv").read_bytes()
    # a longer run is a resume with more epochs; 0.69 and 0.2 are worse than 0.7
    result = fit_scripted(rectangles, script, recipe(epochs=6), tmp_path, resume=True)
    assert (result.best_metric, result.best_epoch, result.epochs) == (0.7, 2, 6)
    assert (tmp_path / "best/weights.safetensors").read_bytes() == best
    assert (tmp_path / "best" / "val_predictions.csv").read_bytes() == predictions
    assert json.loads((tmp_path / "best/metrics.json").read_text())["epoch"] == 2
    assert [row["epoch"] for row in timeless(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_resume_of_a_finished_run_does_nothing(rectangles, tmp_path):
    fit_scripted(rectangles, [0.1, 0.2, 0.3], RECIPE, tmp_path)
    state = (tmp_path / "last/state.safetensors").read_bytes()
    result = fit_scripted(rectangles, [], RECIPE, tmp_path, resume=True)
    assert (result.best_metric, result.epochs) == (0.3, 3)
    assert (tmp_path / "last/state.safetensors").read_bytes() == state


def test_a_run_from_before_a_key_existed_resumes_with_its_default(rectangles, tmp_path):
    script = [0.1, 0.2, 0.3, 0.4]
    fit_scripted(rectangles, script, RECIPE, tmp_path)
    path = tmp_path / "last/state.json"
    state = json.loads(path.read_text())
    del state["config"]["model"]["image_head"]
    path.write_text(json.dumps(state))
    result = fit_scripted(rectangles, script, recipe(epochs=4), tmp_path, resume=True)
    assert result.epochs == 4
    other = recipe(model=RECIPE.model.model_copy(update={"image_head": True}), epochs=4)
    with pytest.raises(ArtefactError, match=r"model\.image_head"):
        fit_scripted(rectangles, script, other, tmp_path, resume=True)


def test_early_stop_counts_epochs_since_the_best(rectangles, tmp_path):
    script = [0.5, 0.1, 0.6, 0.2, 0.3, 0.9, 0.9]
    result = fit_scripted(rectangles, script, recipe(epochs=7, early_stop=2), tmp_path)
    assert (result.epochs, result.best_epoch) == (5, 3)


def test_nan_metric_is_never_best(rectangles, tmp_path):
    result = fit_scripted(rectangles, [math.nan, 0.0, math.nan], RECIPE, tmp_path)
    assert (result.best_epoch, result.best_metric) == (2, 0.0)


def test_validates_every_nth_and_the_last_epoch(rectangles, tmp_path):
    fit_scripted(rectangles, [0.1, 0.2], recipe(validate_every=2), tmp_path)
    assert ["val_selection_metric" in row for row in timeless(tmp_path)] == [False, True, True]


def test_a_run_is_not_overwritten_without_resume(rectangles, tmp_path):
    fit_scripted(rectangles, [0.1], recipe(epochs=1), tmp_path)
    with pytest.raises(OutputError, match=r"holds a run already.*Resume it"):
        fit_scripted(rectangles, [0.1], recipe(epochs=1), tmp_path)


def test_resume_refuses_another_recipe_but_not_more_epochs(rectangles, tmp_path):
    fit_scripted(rectangles, [0.1], recipe(epochs=1), tmp_path)
    slower = recipe(optimiser=OptimiserConfig(learning_rate=0.5))
    with pytest.raises(ArtefactError, match=r"optimiser.learning_rate = 0.002; found 0.5"):
        fit_scripted(rectangles, [0.1, 0.2], slower, tmp_path, resume=True)
    with pytest.raises(ArtefactError, match="Nothing to resume"):
        fit(tiny_network(), Scripted(rectangles, []), RECIPE, tmp_path / "other", resume=True)


def test_a_run_that_stopped_between_its_first_checkpoints_starts_again(rectangles, tmp_path):
    """The disk was full after best/ and before last/."""
    fit_scripted(rectangles, [0.1], recipe(epochs=1), tmp_path / "whole")
    fit_scripted(rectangles, [0.1], recipe(epochs=1), tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "last")
    task = Scripted(rectangles, [0.1])
    assert fit(tiny_network(), task, recipe(epochs=1), tmp_path / "part", resume=True).epochs == 1
    whole, part = (load_model(tmp_path / name / "last")[1] for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_a_gpu_that_does_not_exist_is_refused_in_one_line(rectangles, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"No GPU is usable.*Set device to auto or cpu"):
        fit_scripted(rectangles, [0.1], recipe(device="cuda"), tmp_path)


def test_resume_refuses_another_network_and_other_hooks(rectangles, tmp_path):
    fit_scripted(rectangles, [0.1], recipe(epochs=1), tmp_path)
    other = Network(tiny_spec(batch_norm=False))
    with pytest.raises(ArtefactError, match="another network"):
        fit(other, Scripted(rectangles, [0.1]), RECIPE, tmp_path, resume=True)
    with pytest.raises(ArtefactError, match=r"other training hooks; expected 1; found 0"):
        fit(tiny_network(), Scripted(rectangles, []), RECIPE, tmp_path, [Noise()], resume=True)


def test_nan_loss_names_the_table_and_the_images(rectangles, tmp_path):
    class Broken(Scripted):
        def loss(self, outputs, targets):
            loss, parts = super().loss(outputs, targets)
            return loss * math.nan, {**parts, "loss": math.nan}

    task = Broken(rectangles, [])
    with pytest.raises(TrainingError) as caught:
        fit(tiny_network(), task, RECIPE, tmp_path)
    text = str(caught.value)
    for sample in task.plan(1, 0)[:8]:
        assert rectangles.records[sample.item].image_id in text
    assert "loss nan" in text
    assert "loss_box" in text
    assert "epoch 1, step 1" in text
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize(
    ("factor", "found"),
    [(255.0, "found 0 to 1"), (1 / 255, "to 0.00"), (-1.0, "found -0."), (math.nan, "nan")],
)
def test_images_outside_the_input_range_are_refused(rectangles, tmp_path, factor, found):
    class WrongRange(Scripted):
        def load(self, samples):
            batch = super().load(samples)
            return batch._replace(images=batch.images * factor)

    with pytest.raises(TrainingError, match="outside the network's input range") as caught:
        fit(tiny_network(), WrongRange(rectangles, []), RECIPE, tmp_path)
    assert found in str(caught.value)


def test_masks_of_a_hook_hold_in_weights_and_average(rectangles, tmp_path):
    class Mask(TrainingHook):
        def before_fit(self, network, ema):
            self.after_step(network, ema)

        def after_step(self, network, ema):
            for each in (network, ema):
                with torch.no_grad():
                    each.weights()["b"][:8] = 0.0

    network = tiny_network()
    fit(network, Scripted(rectangles, [0.1, 0.2, 0.3]), RECIPE, tmp_path, [Mask()])
    for tensors in (network.tensors(), load_model(tmp_path / "best")[1]):
        assert (tensors["b.weight"][:8] == 0).all()
        assert (tensors["b.weight"][8:] != 0).any()


def test_a_killed_worker_is_one_error(rectangles, tmp_path, monkeypatch):
    def killed(self, samples):
        os.kill(os.getpid(), signal.SIGKILL)  # in a worker process, as when memory is full

    monkeypatch.setattr(DetectionTask, "load", killed)
    with pytest.raises(TrainingError, match=r"prepares batches was killed.*workers.*resume"):
        run(rectangles, recipe(workers=1), tmp_path / "run")


def test_epoch_too_short_for_a_batch_and_uneven_parts(rectangles, tmp_path):
    with pytest.raises(TrainingError, match=r"fewer images than a batch; expected >= 25"):
        fit(tiny_network(), Scripted(rectangles, []), recipe(batch_size=25), tmp_path)
    with pytest.raises(TrainingError, match="cannot be split evenly"):
        fit(tiny_network(), Scripted(rectangles, []), recipe(accumulate=3), tmp_path)


@pytest.mark.parametrize("taught", [False, True])
def test_a_step_in_parts_is_the_step_of_one_batch(rectangles, tmp_path, taught):
    """Parts with different numbers of boxes: each is divided by the counts of the whole batch."""
    weights = []
    for accumulate in (1, 4):
        config = recipe(
            epochs=1, batch_size=24, accumulate=accumulate, precision="fp32", ema_decay=0,
            optimiser=OptimiserConfig(name="sgd", learning_rate=1, momentum=0, clip_norm=0),
            schedule=ScheduleConfig(warmup_epochs=0), validate_every=1,
        )  # fmt: skip
        task = DetectionTask(rectangles, tiny_spec(batch_norm=False), config)
        assert len({len(task.dataset.boxes(s.item)) for s in task.plan(1, 0)[:6]}) > 1
        teacher = tiny_network(seed=3, batch_norm=False)
        learnt = Teacher(task, teacher, 0.5) if taught else task
        network = tiny_network(batch_norm=False)
        before = {name: tensor.clone() for name, tensor in network.tensors().items()}
        fit(network, learnt, config, tmp_path / str(accumulate))
        weights.append({n: tensor - before[n] for n, tensor in network.tensors().items()})
    for name, whole in weights[0].items():
        assert whole.abs().max() > 0
        assert weights[1][name] == pytest.approx(whole, abs=1e-6 * float(whole.abs().max()) + 1e-8)
    losses = [read_metrics(tmp_path / n / "metrics.csv")[0]["loss"] for n in "14"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_a_finished_run_is_not_made_shorter(rectangles, tmp_path):
    fit_scripted(rectangles, [0.1, 0.2], recipe(epochs=2), tmp_path)
    before = (tmp_path / "last" / "state.json").read_bytes()
    with pytest.raises(ArtefactError, match=r"epochs of at least 2.*found 1"):
        fit_scripted(rectangles, [], recipe(epochs=1), tmp_path, resume=True)
    assert (tmp_path / "last" / "state.json").read_bytes() == before


def test_run_folder_has_plots_and_tensorboard(rectangles, tmp_path):
    fit_scripted(rectangles, [0.1], recipe(epochs=1), tmp_path)
    for name in ("loss.png", "metrics.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.slow
def test_learns_to_find_the_rectangles(rectangles, tmp_path):
    config = recipe(
        epochs=40, batch_size=8, ema_decay=0.9, optimiser=OptimiserConfig(learning_rate=0.01)
    )
    task = DetectionTask(rectangles, tiny_spec(), config)
    result = fit(tiny_network(), task, config, tmp_path)
    assert result.best_metric > 0.5
    rows = timeless(tmp_path)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert max(row["val_auroc"] for row in rows) > 0.95
