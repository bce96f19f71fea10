"""Learning from the network as it was before quantization."""

import csv

import pytest
import torch

from pneumonia.compression.distil import Teacher
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.compression.run import run_compression
from pneumonia.network.files import load_model
from pneumonia.training.task import TrainingBatch
from tests.support.tiny import QUICK_QUANTIZE, tiny_network


class Fixed:
    """A task whose loss is 3, and whose imitation is the mean squared difference."""

    plan = load = evaluate = save = None

    def prepare(self, parts):
        pass

    def loss(self, outputs, targets):
        return torch.tensor(3.0), {"loss": 3.0}

    def imitation(self, outputs, teacher, batch):
        return sum(((outputs[name] - teacher[name]) ** 2).mean() for name in teacher)


def batch_of(images):
    return TrainingBatch(images, torch.zeros(0, 6), ("image",) * len(images))


def images_of(network):
    return torch.rand(2, 1, *[network.spec.input.height] * 2)


def test_the_loss_by_hand():
    network = tiny_network()
    teacher = Teacher(Fixed(), network, 0.25)
    images = images_of(network)
    with torch.no_grad():
        expected = network.eval()(images)
    student = tiny_network(seed=5)
    for weight in network.weights().values():
        weight.data.add_(1)  # the teacher stays as it was
    teacher.before_fit(student, student)
    teacher.prepare([batch_of(images)])
    outputs = {name: value + 2 for name, value in student.train()(images).items()}
    apart = sum(((outputs[n] - expected[n]) ** 2).mean().item() for n in expected)
    loss, parts = teacher.loss(outputs, None)
    assert float(loss) == pytest.approx(0.75 * 3 + 0.25 * apart, rel=1e-5)
    assert next(iter(parts)) == "loss"
    assert parts["loss"] == pytest.approx(float(loss))
    assert parts["loss_teacher"] == pytest.approx(apart, rel=1e-5)


def test_each_part_of_a_step_is_compared_with_the_teacher_on_its_own_images():
    network = tiny_network()
    teacher, student = Teacher(Fixed(), network, 1.0), tiny_network(seed=5)
    parts = [images_of(network), images_of(network) * 0]
    teacher.before_fit(student, student)
    teacher.prepare([batch_of(images) for images in parts])
    with torch.no_grad():
        for images in parts:
            expected = network.eval()(images)
            outputs = {name: value + 1 for name, value in expected.items()}
            loss, _ = teacher.loss(outputs, None)
            assert float(loss) == pytest.approx(len(expected), rel=1e-5)


@pytest.mark.slow
def test_a_whole_run_with_a_teacher(tiny_run, tmp_path):
    recipe = QuantizeRecipe.model_validate({**QUICK_QUANTIZE, "ladder": ["8-bit"], "distil": 0.5})
    run_compression(tiny_run.run, recipe, tmp_path / "taught")
    (stage,) = (tmp_path / "taught" / "stages").iterdir()
    for phase in ("admm", "snap"):
        with (stage / phase / "metrics.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert all(float(row["loss_teacher"]) > 0 for row in rows)
    run_compression(tiny_run.run, recipe.model_copy(update={"distil": 0.0}), tmp_path / "plain")
    taught, plain = (load_model(tmp_path / name / "best")[1] for name in ("taught", "plain"))
    assert any(not torch.equal(taught[name], plain[name]) for name in taught)
