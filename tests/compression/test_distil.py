"""Learning from the network as it was before quantization."""

import csv

import pytest
import torch

from pneumonia.compression.distil import Teacher
from pneumonia.compression.quantize_recipe import QuantizeRecipe
from pneumonia.compression.quantize_run import run_quantize
from pneumonia.network.files import load_model
from pneumonia.network.module import Network
from tests.compression.test_quantize_run import QUICK, trained  # noqa: F401 - a fixture
from tests.training.conftest import tiny_network


class Fixed:
    """A task whose loss is 3."""

    def loss(self, outputs, targets):
        return torch.tensor(3.0), {"loss": 3.0}


def test_the_loss_by_hand():
    network = tiny_network()
    teacher = Teacher(Fixed(), network, 0.25)
    images = torch.rand(2, 1, *[network.spec.input.height] * 2)
    student = Network(network.spec)
    student.load_tensors({n: t.detach().clone() for n, t in network.tensors().items()})
    teacher.before_fit(student, student)
    outputs = {name: value + 2 for name, value in student.train()(images).items()}
    with torch.no_grad():
        told = network.eval()(images)
    expected = sum(((outputs[n] - told[n]) ** 2).mean().item() for n in told)
    loss, parts = teacher.loss(outputs, None)
    assert float(loss) == pytest.approx(0.75 * 3 + 0.25 * expected, rel=1e-5)
    assert next(iter(parts)) == "loss"
    assert parts["loss"] == pytest.approx(float(loss))
    assert parts["loss_teacher"] == pytest.approx(expected, rel=1e-5)
    teacher.close()
    seen = dict(teacher._told)
    student(images * 0)
    assert all(teacher._told[name] is value for name, value in seen.items())


def test_the_teacher_is_frozen_as_it_was():
    network = tiny_network()
    teacher = Teacher(Fixed(), network, 0.5)
    before = {n: t.clone() for n, t in teacher._network.tensors().items()}
    for weight in network.weights().values():
        weight.data.add_(1)
    network.train()(torch.rand(2, 1, *[network.spec.input.height] * 2))
    assert all(torch.equal(t, before[n]) for n, t in teacher._network.tensors().items())
    assert not any(p.requires_grad for p in teacher._network.parameters())


def test_a_whole_run_with_a_teacher(trained, tmp_path):  # noqa: F811
    run, _ = trained
    recipe = QuantizeRecipe.model_validate({**QUICK, "ladder": ["8-bit"], "distil": 0.5})
    run_quantize(run, recipe, tmp_path / "taught")
    (stage,) = (tmp_path / "taught" / "stages").iterdir()
    for phase in ("admm", "snap"):
        with (stage / phase / "metrics.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert all(float(row["loss_teacher"]) > 0 for row in rows)
    run_quantize(run, recipe.model_copy(update={"distil": 0.0}), tmp_path / "plain")
    taught, plain = (load_model(tmp_path / name / "best")[1] for name in ("taught", "plain"))
    assert any(not torch.equal(taught[name], plain[name]) for name in taught)
