"""Learning from the network as it was before quantization."""

import csv

import pytest
import torch

from pneumonia.compression.distil import Teacher
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.compression.run import run_compression
from pneumonia.network.files import load_model
from tests.tiny import QUICK_QUANTIZE, tiny_network


class Fixed:
    """A task whose loss is 3, and whose imitation is the mean squared difference."""

    def loss(self, outputs, targets):
        return torch.tensor(3.0), {"loss": 3.0}

    def imitation(self, outputs, teacher):
        return sum(((outputs[name] - teacher[name]) ** 2).mean() for name in teacher)


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
    outputs = {name: value + 2 for name, value in student.train()(images).items()}
    apart = sum(((outputs[n] - expected[n]) ** 2).mean().item() for n in expected)
    loss, parts = teacher.loss(outputs, None)
    assert float(loss) == pytest.approx(0.75 * 3 + 0.25 * apart, rel=1e-5)
    assert next(iter(parts)) == "loss"
    assert parts["loss"] == pytest.approx(float(loss))
    assert parts["loss_teacher"] == pytest.approx(apart, rel=1e-5)


def test_the_teacher_runs_only_while_a_network_is_trained():
    network = tiny_network()
    teacher, student = Teacher(Fixed(), network, 1.0), tiny_network(seed=5)
    images = images_of(network)
    teacher.before_fit(student, student)
    outputs = student.train()(images)
    loss = float(teacher.loss(outputs, None)[0])
    student.eval()(images * 0)
    teacher.after_fit()
    student.train()(images * 0)
    assert float(teacher.loss(outputs, None)[0]) == loss


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
