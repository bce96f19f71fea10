"""Interface of a training task: the loop's only access to data, loss and metrics."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from pneumonia.network.module import Network
from pneumonia.runtime.errors import TrainingError
from pneumonia.runtime.model.spec import NetworkSpec

# The key of `TrainingTask.evaluate` that chooses the best epoch; higher wins.
SELECTION_METRIC = "selection_metric"


class EpochSample(NamedTuple):
    """One place in an epoch's order."""

    item: int  # index of the image in the task's data
    seed: int  # of everything random done to this image at this place


class TrainingBatch(NamedTuple):
    """Images as the network takes them, with what the loss needs."""

    images: Tensor  # float32 (N, C, H, W), normalised as the spec's input says
    targets: Tensor  # the task's own
    image_ids: tuple[str, ...]  # one per image, named when training must stop


class TrainingTask(Protocol):
    """Data, loss and metrics of one problem."""

    def plan(self, epoch: int, seed: int) -> Sequence[EpochSample]:
        """The order of one epoch (from 1): a pure function of its arguments, always as long."""
        ...

    def load(self, samples: Sequence[EpochSample]) -> TrainingBatch:
        """Prepare images; a pure function of `samples`, called in a worker process."""
        ...

    def prepare(self, parts: Sequence[TrainingBatch]) -> None:
        """Called before the parts of an optimiser step are computed, with all of them.

        The losses of the parts are added, so `loss` and `imitation` divide by counts over all
        parts: a step in several parts is then the step of one batch.
        """
        ...

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss, and a table for metrics.csv of floats that starts with `loss`.

        Gradients are summed over parts and processes: divide by counts over all of them
        (`prepare`, `distributed.total`), so that the result does not depend on how a batch was
        split.
        """
        ...

    def imitation(
        self,
        outputs: dict[str, Tensor],
        teacher: dict[str, Tensor],
        batch: Sequence[dict[str, Tensor]] = (),
    ) -> Tensor:
        """Distance of the outputs from a teacher's on the same images, on the scale of `loss`.

        `batch` has the teacher's outputs of every part of the step; empty = these images are all.
        Gradients are summed over parts and processes, as in `loss`.
        """
        ...

    def evaluate(self, network: Network) -> dict[str, float]:
        """Metrics of the validation images, SELECTION among them; keeps what `save` writes."""
        ...

    def save(self, out: Path) -> None:
        """Write what belongs to the last evaluation (predictions, thresholds) into a folder."""
        ...


def training_images(task: TrainingTask, seed: int, batch_size: int) -> Iterator[Tensor]:
    """Full batches of the first epoch's images (N, C, H, W), to measure batch norms on."""
    samples = task.plan(1, seed)
    for start in range(0, len(samples) - batch_size + 1, batch_size):
        yield task.load(samples[start : start + batch_size]).images


def check_images(batch: TrainingBatch, spec: NetworkSpec) -> None:
    """Refuse images that are not what the spec's input says.

    Grey 0..1 enters as (x - mean) / std. Values outside, or so close together that the image was
    divided by 255 twice, train to nothing without any error.

    Raises:
        TrainingError: Wrong shape, or values outside the range.
    """
    entry = spec.input
    shape = (entry.channels, entry.height, entry.width)
    if tuple(batch.images.shape[1:]) != shape:
        raise TrainingError(
            "Images do not fit the network's input",
            expected=str(shape),
            found=str(tuple(batch.images.shape[1:])),
        )
    low, high = (float(value) * entry.std + entry.mean for value in batch.images.aminmax())
    if not (-0.01 <= low <= high <= 1.01 and high - low > 2 / 255):
        raise TrainingError(
            "Images are outside the network's input range",
            expected="grey values that fill 0 to 1 (before mean and std)",
            found=f"{low:.4g} to {high:.4g}",
            fix="Images enter as uint8 / 255, once",
        )
