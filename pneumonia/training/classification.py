"""The classification task: arrays of images and class numbers (LeNet-5, VGG-16, ResNet-18)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pneumonia.network.module import Network
from pneumonia.runtime.errors import TrainingError
from pneumonia.runtime.spec import NetworkSpec
from pneumonia.training import distributed
from pneumonia.training.distributed import total
from pneumonia.training.task import SELECTION, Batch, Sample

EVALUATION_BATCH = 500


class LabelledImages(NamedTuple):
    """Images and their classes.

    Attributes:
        images: uint8 (N, H, W) grey or (N, C, H, W).
        labels: int (N,), class numbers from 0.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


class ClassificationTask:
    """Shuffled batches, cross-entropy, accuracy.

    Args:
        train: Training images.
        val: Validation images.
        spec: The network; its only output are the logits.

    Raises:
        TrainingError: Images or labels do not fit each other or the network.
    """

    def __init__(self, train: LabelledImages, val: LabelledImages, spec: NetworkSpec) -> None:
        for name, part in (("training", train), ("validation", val)):
            _check(name, part, spec)
        self.train = train
        self.val = val
        self.spec = spec
        self.output = spec.outputs[0]

    def plan(self, epoch: int, seed: int) -> list[Sample]:
        """Every image once, shuffled."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.train.labels))
        return [Sample(int(item), 0) for item in order]

    def load(self, samples: Sequence[Sample]) -> Batch:
        """Images as they are, normalised; targets are class numbers (N,) int64."""
        items = [sample.item for sample in samples]
        return Batch(
            self._input(self.train.images[items]),
            torch.from_numpy(self.train.labels[items].astype(np.int64)),
            tuple(str(item) for item in items),
        )

    def _input(self, images: npt.NDArray[np.uint8]) -> Tensor:
        values = torch.from_numpy(images).float().div_(255)
        values = (values - self.spec.input.mean) / self.spec.input.std
        return values[:, None] if values.ndim == 3 else values

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy over the whole batch of all processes."""
        summed = F.cross_entropy(outputs[self.output], targets, reduction="sum")
        loss = summed / total(len(targets), targets.device)
        return loss, {"loss": loss.item()}

    def imitation(self, outputs: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Mean squared difference of the logits (Ba and Caruana 2014, equation 1)."""
        apart = F.mse_loss(outputs[self.output], teacher[self.output])
        return apart / distributed.world_size()

    def evaluate(self, network: Network) -> dict[str, float]:
        """Accuracy and mean cross-entropy of the validation images."""
        device = next(network.parameters()).device
        training = network.training
        network.eval()
        correct = summed = 0.0
        with torch.inference_mode():
            for start in range(0, len(self.val.labels), EVALUATION_BATCH):
                part = slice(start, start + EVALUATION_BATCH)
                labels = torch.from_numpy(self.val.labels[part].astype(np.int64)).to(device)
                logits = network(self._input(self.val.images[part]).to(device))[self.output]
                correct += float((logits.argmax(1) == labels).sum())
                summed += float(F.cross_entropy(logits, labels, reduction="sum"))
        network.train(training)
        n_images = len(self.val.labels)
        accuracy = correct / n_images
        return {"accuracy": accuracy, "cross_entropy": summed / n_images, SELECTION: accuracy}

    def save(self, out: Path) -> None:
        """Accuracy has no file beside the weights."""


def _check(name: str, part: LabelledImages, spec: NetworkSpec) -> None:
    entry = spec.input
    shape = part.images.shape[1:] if part.images.ndim == 4 else (1, *part.images.shape[1:])
    wanted = (entry.channels, entry.height, entry.width)
    if part.images.dtype != np.uint8 or shape != wanted:
        raise TrainingError(
            f"The {name} images do not fit the network's input",
            expected=f"uint8 {wanted}",
            found=f"{part.images.dtype} {shape}",
        )
    if len(part.images) != len(part.labels) or not len(part.labels):
        raise TrainingError(
            f"The {name} images and labels differ in number",
            found=f"{len(part.images)} images, {len(part.labels)} labels",
        )
    n_classes = spec.shapes()[spec.outputs[0]][0]
    if part.labels.min() < 0 or part.labels.max() >= n_classes:
        raise TrainingError(
            f"A {name} label is not a class of the network",
            expected=f"0 to {n_classes - 1}",
            found=f"{part.labels.min()} to {part.labels.max()}",
        )
