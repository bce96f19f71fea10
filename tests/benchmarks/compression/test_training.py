"""Training of the compression tables."""

import pytest
import torch

from benchmarks.compression.training import Course, Fresh, distillation_loss, train
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build


class StopError(Exception):
    """Stands for a kill between two epochs."""


class InterruptedImages(Fresh):
    """Raises at the beginning of the third epoch."""

    epochs = 0

    def epoch(self, generator):
        """See `Samples`."""
        self.epochs += 1
        if self.epochs == 3:
            raise StopError
        yield from super().epoch(generator)


def lenet() -> Network:
    network = Network(build("lenet5", width=0.1))
    initialise(network, torch.Generator().manual_seed(0))
    return network


@pytest.mark.slow
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path):
    generator = torch.Generator().manual_seed(1)
    part = torch.randn(256, 1, 28, 28, generator=generator), torch.arange(256) % 10
    held_out = part[0][:64], part[1][:64]
    course = Course(
        4, 1e-3, average=0.9, select_from=0.5, checkpoint=tmp_path / "run" / "training.pt"
    )
    whole, resumed = lenet(), lenet()
    train(whole, Fresh(part, 1.0), held_out, course, seed=0)
    with pytest.raises(StopError):
        train(lenet(), InterruptedImages(part, 1.0), held_out, course, seed=0)
    assert course.checkpoint.is_file()
    train(resumed, Fresh(part, 1.0), held_out, course, seed=0)
    assert not course.checkpoint.exists()
    for expected, found in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_distillation_by_hand():
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0])
    ln2 = 0.69314718
    loss = distillation_loss(student.detach(), teacher.detach(), labels, share=0.7)
    assert float(loss) == pytest.approx(0.3 * ln2)
    student = student.detach()
    far = torch.tensor([[4.0, 0.0]])
    p = float(torch.sigmoid(torch.tensor(1.0)))  # the teacher at temperature 4
    kl = p * torch.log(torch.tensor(p / 0.5)) + (1 - p) * torch.log(torch.tensor((1 - p) / 0.5))
    loss = distillation_loss(student, far, labels, temperature=4.0, share=1.0)
    assert float(loss) == pytest.approx(16 * float(kl), rel=1e-5)
    distillation_loss(student.clone().requires_grad_(), teacher, labels).backward()
    assert teacher.grad is None
