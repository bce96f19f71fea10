"""Data and training loop of the jobs of `compression_tables`.

Adam, or stochastic gradient descent with momentum, with a warm-up and half a cosine; an exponential
moving average of the weights; training images distorted at random. A job with a teacher learns from
`Distorted`: distorted copies of all training images and the teacher's logits of each copy, made
once. Training runs in bfloat16 where the processor has it, and a pruned LeNet-5 in float32 in C
(`lenet_step`); weights, ADMM and every measurement are float32.
"""

import copy
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compression.distortion import distorted
from benchmarks.compression.lenet_step import is_lenet, lenet_logits
from pneumonia.network.module import Network
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.training.config import TrainConfig
from pneumonia.training.loop import uses_bf16

HELD_OUT = 5000  # images of the training set that choose, and are not trained on
BATCH = 128
WEIGHT_DECAY = 5e-4  # of stochastic gradient descent
COPIES = 10  # distorted copies of every training image that a teacher labels
# Emulated elsewhere, at a tenth of the speed of float32.
BFLOAT16 = uses_bf16(TrainConfig(), torch.device("cpu"))


class Images(NamedTuple):
    """Normalised float32 images (N, C, H, W) and int64 labels (N,) of three parts."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


# --- data ---------------------------------------------------------------------------------------


def data_root() -> Path:
    return Path(os.environ.get("PNEUMONIA_DATA", Path(__file__).parents[3] / "shared" / "data"))


def _read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    if folder.name == "mnist":
        file = np.load(folder / f"mnist_{part}.npz")
        return file["images"][:, None], file["labels"]
    from PIL import Image

    file = np.load(folder / f"cifar10_{part}_jpeg.npz")
    blob, offsets = file["blob"], file["offsets"]
    images = [
        np.asarray(Image.open(io.BytesIO(blob[a:b].tobytes())).convert("RGB"))
        for a, b in pairwise(offsets)
    ]
    return np.stack(images).transpose(0, 3, 1, 2), file["labels"]


def read_images(name: str, spec: NetworkSpec) -> Images:
    folder = data_root() / name
    if not folder.is_dir():
        print(f"skipped: no {name} in {data_root()} (set PNEUMONIA_DATA)")
        sys.exit(0)
    parts = []
    for part in ("train", "test"):
        images, labels = _read(folder, part)
        values = torch.from_numpy(images.copy()).float().div_(255)
        values = (values - spec.input.mean) / spec.input.std
        values = values.contiguous(memory_format=torch.channels_last)
        parts.append((values, torch.from_numpy(labels.astype(np.int64))))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(parts[0][1])))
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    train, test = parts
    return Images((train[0][kept], train[1][kept]), (train[0][held], train[1][held]), test)


# --- samples ------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Images (N, C, H, W), labels int64 (N,), and the teacher's logits (N, K) or None."""

    images: Tensor
    labels: Tensor
    logits: Tensor | None


class Samples(Protocol):
    """What a job learns from."""

    steps_per_epoch: int

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Full batches of one pass over the training images, in random order."""
        ...


class Fresh:
    """The training images with their labels, distorted anew in every epoch."""

    def __init__(
        self, part: tuple[Tensor, Tensor], strength: float, batch_size: int = BATCH
    ) -> None:
        self.images, self.labels = part
        self.strength, self.batch_size = strength, batch_size
        self.steps_per_epoch = len(self.labels) // batch_size

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Batches of one epoch, as `Samples` describes."""
        order = torch.randperm(len(self.labels), generator=generator)
        for batch in order[: self.steps_per_epoch * self.batch_size].split(self.batch_size):
            images = distorted(self.images[batch], self.strength, generator)
            yield Batch(images, self.labels[batch], None)


class Distorted:
    """Distorted copies of the training images with a teacher's logits of each.

    Args:
        labels: Of the N training images, int64 (N,).
        images: uint8 (copies * N, C, H, W), the undistorted ones first.
        logits: Teacher's, of every copy: float32 (copies * N, K).
        low: Value of an image's code 0.
        step: Difference of the values of two neighbouring codes.
        plain: Share of an epoch's images that are not distorted.
        batch_size: Images of a step.
    """

    def __init__(
        self,
        labels: Tensor,
        images: Tensor,
        logits: Tensor,
        low: float,
        step: float,
        plain: float = 1 / COPIES,
        batch_size: int = BATCH,
    ) -> None:
        self.plain, self.batch_size = plain, batch_size
        self.labels, self.images, self.logits = labels, images, logits
        self.low, self.step = low, step
        self.n_images = len(labels)
        self.copies = len(images) // len(labels)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch, as `Samples` describes."""
        return self.n_images // self.batch_size

    @classmethod
    def kept(
        cls, file: Path, part: tuple[Tensor, Tensor], teachers: Sequence[Network], strength: float
    ) -> "Distorted":
        """The copies in `file`, which is made first if need be: mean logits of all teachers."""
        images, labels = part
        low = float(images.min())
        step = (float(images.max()) - low) / 255
        if not file.is_file():
            generator = torch.Generator().manual_seed(2)
            codes, logits = [], []
            for number in range(COPIES):
                for chunk in images.split(2000):
                    changed = distorted(chunk, strength if number else 0.0, generator)
                    codes.append(((changed - low) / step).round().to(torch.uint8).contiguous())
                    logits.append(mean_logits(teachers, codes[-1].float() * step + low))
            np.savez(file, images=torch.cat(codes).numpy(), logits=torch.cat(logits).numpy())
        made = np.load(file)
        return cls(
            labels, torch.from_numpy(made["images"]), torch.from_numpy(made["logits"]), low, step
        )

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Batches of one epoch: one copy of every image, chosen at random."""
        order = torch.randperm(self.n_images, generator=generator)
        which = torch.randint(1, self.copies, (self.n_images,), generator=generator)
        which[torch.rand(self.n_images, generator=generator) < self.plain] = 0
        place = which * self.n_images + order
        n_used, size = self.steps_per_epoch * self.batch_size, self.batch_size
        for at, batch in zip(place[:n_used].split(size), order[:n_used].split(size), strict=True):
            images = self.images[at].float().mul_(self.step).add_(self.low)
            yield Batch(images, self.labels[batch], self.logits[at])


@torch.inference_mode()
def mean_logits(networks: Sequence[Network], images: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
        return torch.stack([logits_of(network, images) for network in networks]).mean(0)


@torch.inference_mode()
def logits_of(network: Network, images: Tensor) -> Tensor:
    network.eval()
    output = network.spec.outputs[0]
    parts = images.split(1000)
    return torch.cat([network(part)[output].flatten(1).float() for part in parts])


def accuracy(network: Network, part: tuple[Tensor, Tensor]) -> float:
    hits = logits_of(network, part[0]).argmax(1) == part[1]
    return float(hits.double().mean())


# --- training -----------------------------------------------------------------------------------


class Course(NamedTuple):
    """One training: how long, how fast, and what happens around each step.

    Attributes:
        epochs: Passes over the training images.
        learning_rate: Largest one.
        momentum: Of stochastic gradient descent (Nesterov, weight decay 5e-4); 0 = Adam without
            weight decay.
        teacher: Share of the loss that the teacher's logits get.
        smoothing: Label smoothing of the cross-entropy without a teacher.
        average: Decay of the moving average per step; 0 = none.
        warm_up: Share of the steps in which the learning rate rises.
        after_step: Called after the optimiser.
        every: Steps between two calls of `update`; 0 = never.
        update: Called every so many steps with the share of the training that is done.
        select_from: Share of the training after which the best weights on the held-out images are
            kept; 1 = the last weights.
        zeros_stay: Weights that are zero need no gradient.
        checkpoint: File that is written after each epoch, from which a stopped training goes on;
            removed at the end. None = none.
    """

    epochs: int
    learning_rate: float
    momentum: float = 0.0
    teacher: float = 0.0
    smoothing: float = 0.0
    average: float = 0.0
    warm_up: float = 0.0
    after_step: Callable[[], None] = lambda: None
    every: int = 0
    update: Callable[[float], None] = lambda _: None
    select_from: float = 1.0
    zeros_stay: bool = False
    checkpoint: Path | None = None


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0, share: float = 0.7
) -> Tensor:
    """(1 - share) * cross-entropy + share * T**2 * KL(teacher_T || student_T), batch mean.

    Args:
        student: Logits (N, K).
        teacher: Logits (N, K); no gradient flows into them.
        labels: int64 (N,).
        temperature: Softens both distributions.
        share: Weight of the teacher, 0 .. 1.
    """
    with torch.no_grad():
        target = F.log_softmax(teacher / temperature, dim=1)
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1), target, reduction="batchmean", log_target=True
    )
    return (1 - share) * F.cross_entropy(student, labels) + share * temperature**2 * soft


def loss_of(network: Network, batch: Batch, course: Course) -> Tensor:
    if is_lenet(network):
        logits = lenet_logits(network, batch.images, every=not course.zeros_stay)
    else:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            logits = network(images)[network.spec.outputs[0]].flatten(1).float()
    if batch.logits is None or course.teacher == 0:
        return F.cross_entropy(logits, batch.labels, label_smoothing=course.smoothing)
    return distillation_loss(logits, batch.logits, batch.labels, share=course.teacher)


def optimiser_of(parameters: list[Tensor], course: Course) -> torch.optim.Optimizer:
    if course.momentum:
        return torch.optim.SGD(
            parameters, course.learning_rate, course.momentum, weight_decay=WEIGHT_DECAY,
            nesterov=True, fused=True,
        )  # fmt: skip
    return torch.optim.Adam(parameters, lr=course.learning_rate, fused=True)


def train(
    network: Network,
    samples: Samples,
    held_out: tuple[Tensor, Tensor],
    course: Course,
    seed: int,
) -> None:
    """Train in place.

    Args:
        network: Trained.
        samples: What it learns from.
        held_out: Images that choose among the epochs.
        course: How.
        seed: Of order and distortion.
    """
    network.to(memory_format=torch.channels_last)
    parameters = list(network.parameters())
    optimiser = optimiser_of(parameters, course)
    averaged = [p.detach().clone() for p in parameters] if course.average else []
    generator = torch.Generator().manual_seed(100 + seed)
    n_steps = course.epochs * samples.steps_per_epoch
    first, step, best = 0, 0, (-1.0, copy.deepcopy(network.state_dict()))
    if course.checkpoint is not None and course.checkpoint.is_file():
        kept = torch.load(course.checkpoint)
        first, step, best = kept["epoch"], kept["step"], kept["best"]
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        generator.set_state(kept["generator"])
        averaged = kept["averaged"]
    for epoch in range(first, course.epochs):
        network.train()
        for batch in samples.epoch(generator):
            done = step / n_steps
            rate = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done))
            rate *= min(1.0, (done + 0.01) / (course.warm_up + 0.01))
            optimiser.param_groups[0]["lr"] = float(course.learning_rate * rate)
            optimiser.zero_grad()
            loss_of(network, batch, course).backward()
            optimiser.step()
            course.after_step()
            step += 1
            if averaged:
                decay = min(course.average, (1 + step) / (10 + step))
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, parameters, 1 - decay)
            if course.every and step % course.every == 0:
                course.update(step / n_steps)
        if epoch + 1 > course.select_from * course.epochs or epoch + 1 == course.epochs:
            last = [p.detach().clone() for p in parameters]
            _put(parameters, averaged or last)
            score = accuracy(network, held_out)
            if score >= best[0]:
                best = (score, copy.deepcopy(network.state_dict()))
            _put(parameters, last)
        if course.checkpoint is not None:
            write_checkpoint(course.checkpoint, {
                "epoch": epoch + 1, "step": step, "best": best, "averaged": averaged,
                "network": network.state_dict(), "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
            })  # fmt: skip
    if course.checkpoint is not None:
        course.checkpoint.unlink(missing_ok=True)
    network.load_state_dict(best[1])
    print(f"  {course.epochs} epochs, held out {best[0]:.4f}", flush=True)


def write_checkpoint(file: Path, values: dict[str, object]) -> None:
    """Replace the file as a whole, so that an interruption leaves the last one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    torch.save(values, new)
    new.replace(file)


@torch.no_grad()
def _put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
