"""A compressed student that learns from the network before compression."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.module import Network
from pneumonia.training.hooks import TrainingHook
from pneumonia.training.task import TrainingBatch, TrainingTask


class Teacher(TrainingHook):
    """A task whose loss also compares the outputs with a frozen network's on the same images.

    The loss is (1 - share) * the task's loss + share * the task's `imitation` of the teacher
    (Hinton et al. 2015, arXiv 1503.02531). It is a training hook as well, to follow the network
    to its device.

    Args:
        network: Copied as it is now.
        share: Weight of the teacher, 0 .. 1.
    """

    def __init__(self, task: TrainingTask, network: Network, share: float) -> None:
        self._task = task
        self._share = share
        self.plan, self.load, self.imitation = task.plan, task.load, task.imitation
        self.evaluate, self.save = task.evaluate, task.save
        # It is never trained: without batch norm it computes the same in less time.
        spec, tensors = fold_batch_norm(network.spec, network.tensors())
        self._network = Network(spec)
        self._network.load_tensors({name: t.detach().clone() for name, t in tensors.items()})
        self._network.eval().requires_grad_(False)
        self._outputs: list[dict[str, Tensor]] = []  # of every part of the step
        self._part = 0

    def before_fit(self, network: Network, ema: Network) -> None:
        """Move the teacher to the network's device."""
        device = next(network.parameters()).device
        self._network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(self, parts: Sequence[TrainingBatch]) -> None:
        """Run the teacher on the images of every part of the step."""
        self._task.prepare(parts)
        device = next(self._network.parameters()).device
        with torch.no_grad():
            self._outputs = [
                self._network(part.images.to(device, memory_format=torch.channels_last))
                for part in parts
            ]
        self._part = 0

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The mixed loss of the next part; `loss_teacher` in metrics.csv is the teacher's share."""
        loss, parts = self._task.loss(outputs, targets)
        teacher = self._outputs[self._part]
        self._part += 1
        apart = self._task.imitation(outputs, teacher, self._outputs)
        total = (1 - self._share) * loss + self._share * apart
        return total, {**parts, "loss": total.item(), "loss_teacher": apart.item()}
