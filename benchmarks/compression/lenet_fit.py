"""Training of a pruned LeNet-5 in C (`lenet_fit.c`): whole epochs, and its Fisher matrix.

A network of 2,000 parameters is so small that its Fisher matrix, the curvature of its loss, is
computed and inverted within seconds (`Tiny.fisher`) for natural gradient (`Tiny.fit`).

    python -m benchmarks.compression.lenet_fit

compares logits and gradients of single images with PyTorch's on a random pruned network.
"""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.compression.lenet_step import compiled
from benchmarks.compression.training import Distorted
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build

SOURCE = Path(__file__).with_suffix(".c")
Floats = NDArray[np.float32]
ROWS_PER_PARAMETER = 2  # gradients that a Fisher matrix is estimated from
LEAST_ROWS = 4000


def library() -> ctypes.CDLL:
    found = compiled(SOURCE)
    if found is None:
        sys.exit("No C compiler was found; install one or name it in $CC")
    return found


def _at(array: NDArray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


class Pictures:
    """Training images as codes with a teacher's logits, from `Distorted`."""

    def __init__(self, samples: Distorted) -> None:
        self.codes = samples.images.numpy().reshape(len(samples.images), -1)
        self.logits = samples.logits.numpy()
        self.labels = samples.labels.numpy()
        self.low, self.step = ctypes.c_float(samples.low), ctypes.c_float(samples.step)
        self.copies, self.n = samples.copies, samples.n_images

    def draw(
        self, rng: np.random.Generator, plain: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """One copy of every image: its place, label and teacher's logits."""
        order = rng.permutation(self.n)
        which = rng.integers(1, self.copies, self.n)
        which[rng.random(self.n) < plain] = 0
        place = which * self.n + order
        return place, self.labels[order], self.logits[place]


class NaturalCourse(NamedTuple):
    """How `Tiny.fit` trains."""

    epochs: int = 3
    rate: float = 0.03
    n_images: int = 11_264  # of an epoch, a multiple of `batch`
    batch: int = 512
    share: float = 1.0  # of the teacher in the loss
    temperature: float = 1.0
    plain: float = 0.2  # share of images without distortion
    decay: float = 0.99  # of the moving average
    momentum: float = 0.9  # of natural gradient


class Cuts(NamedTuple):
    """In how many parts something is done to the weights, and the training between and after."""

    parts: int = 8
    epochs: int = 3  # after each part
    rounds: int = 12  # after the last, with one curvature each
    epochs_per_round: int = 4
    damping: float = 1e-4  # of the curvature when costs are computed
    damping_of_steps: float = 1e-3  # and in training
    exchanges: int = 0  # of `exchange_columns` after the last part
    candidates: int = 60  # columns of each layer that an exchange may take back


def softmax(logits: Floats) -> Floats:
    """Softmax of each row."""
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)  # type: ignore[no-any-return]


class Tiny:
    """Weights and biases of a LeNet-5 as one array.

    Args:
        tensors: w1, b1, ... w4, b4; weights that are zero are pruned.

    Attributes:
        params: All of them.
        free: Places in `params` of those that training changes.
        tied: Number of each free parameter; equal numbers change alike. None = all on their own.
    """

    def __init__(self, tensors: Sequence[NDArray]) -> None:
        self.shapes = [t.shape for t in tensors]
        self.sizes = np.array([len(t) for t in tensors[1::2]], np.int32)
        self.params = np.concatenate([t.ravel() for t in tensors]).astype(np.float32)
        self.is_weight = np.concatenate(
            [np.full(t.size, k % 2 == 0) for k, t in enumerate(tensors)]
        )
        self.free = np.flatnonzero((self.params != 0) | ~self.is_weight).astype(np.int32)
        self.tied: NDArray[np.int32] | None = None

    def tensors(self) -> list[Floats]:
        """As they were given."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        parts = np.split(self.params, ends)
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def n_weights(self) -> int:
        """Weights that are not zero."""
        return int(self.is_weight[self.free].sum())

    def outputs(self, pictures: Pictures, place: NDArray[np.int64]) -> Floats:
        """Logits (N, K) of the copies at `place`."""
        n = len(place)
        padded = np.resize(place, (n + 15) // 16 * 16)
        logits = np.empty((len(padded), int(self.sizes[3])), np.float32)
        library().outputs(
            _at(self.sizes), _at(self.params), len(padded), _at(pictures.codes), _at(padded),
            pictures.low, pictures.step, _at(logits),
        )  # fmt: skip
        return logits[:n]

    def gradients(self, pictures: Pictures, place: NDArray[np.int64], of_logits: Floats) -> Floats:
        """Gradient (N, free parameters) of every image, N a multiple of 16."""
        out = np.empty((len(place), len(self.free)), np.float32)
        every = int(((self.params == 0) & self.is_weight)[self.free].any())
        library().image_gradients(
            _at(self.sizes), _at(self.params), len(self.free), _at(self.free), every, len(place),
            _at(pictures.codes), _at(place), pictures.low, pictures.step,
            _at(np.ascontiguousarray(of_logits)), _at(out),
        )  # fmt: skip
        return out

    def fisher(
        self, pictures: Pictures, rng: np.random.Generator, plain: float, temperature: float
    ) -> NDArray[np.float64]:
        """Fisher matrix of the free parameters, mean over images.

        Images and classes are drawn by their share of the trace, so that few are enough.
        """
        n = max(ROWS_PER_PARAMETER * len(self.free), LEAST_ROWS) // 16 * 16
        place = pictures.draw(rng, plain)[0][: 2 * n]
        p = softmax(self.outputs(pictures, place).astype(np.float64) / temperature)
        size = p * (1 - 2 * p + (p**2).sum(1, keepdims=True))
        share = 0.9 * size / size.sum() + 0.1 / size.size
        drawn = rng.choice(size.size, n, p=share.ravel() / share.sum())
        image, label = np.divmod(drawn, p.shape[1])
        of_logits = p[image]
        of_logits[np.arange(n), label] -= 1
        weight = p[image, label] / (n * share.ravel()[drawn])
        of_logits *= np.sqrt(weight)[:, None]
        rows = torch.from_numpy(self.gradients(pictures, place[image], of_logits.astype("f4")))
        if self.tied is not None:
            sums = torch.zeros(len(rows), int(self.tied.max()) + 1)
            rows = sums.index_add_(1, torch.from_numpy(self.tied), rows)
        return (rows.T @ rows).double().numpy() / len(place)

    def drawn_by_gradient(
        self, pictures: Pictures, rng: np.random.Generator, course: NaturalCourse
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
        """Places, labels, teacher's logits and weights of an epoch, out of twice as many images.

        An image is drawn by the size of its gradient and weighs the inverse of its probability:
        most images of a trained network have next to none (Katharopoulos and Fleuret 2018).
        """
        n = course.n_images
        place, label, logits = (part[: 2 * n] for part in pictures.draw(rng, course.plain))
        own = self.outputs(pictures, place)
        hard = softmax(own)
        hard[np.arange(len(label)), label] -= 1
        soft = softmax(own / course.temperature) - softmax(logits / course.temperature)
        size = np.abs((1 - course.share) * hard + course.share * course.temperature * soft).sum(1)
        share = 0.8 * size / size.sum() + 0.2 / len(size)
        chosen = rng.choice(len(size), n, p=share / share.sum())
        weight = (1 / (len(size) * share[chosen])).astype(np.float32)
        return place[chosen], label[chosen], logits[chosen], weight

    def fit(
        self, pictures: Pictures, rng: np.random.Generator, course: NaturalCourse,
        inverse: Floats, ends: tuple[float, float],
    ) -> None:  # fmt: skip
        """Train the free parameters; the result is their moving average.

        Args:
            pictures: What it learns from.
            rng: Of order and copies.
            course: How.
            inverse: Of the curvature.
            ends: First and last shares of the learning rate, with half a cosine between.
        """
        tied = np.arange(len(self.free), dtype=np.int32) if self.tied is None else self.tied
        momentum, average = np.zeros(len(inverse), np.float32), self.params[self.free].copy()
        n_steps = course.n_images // course.batch
        done = np.arange(course.epochs * n_steps) / (course.epochs * n_steps)
        first, last = ends
        rates = course.rate * (last + (first - last) * 0.5 * (1 + np.cos(np.pi * done)))
        for epoch, own in enumerate(rates.astype(np.float32).reshape(course.epochs, n_steps)):
            place, label, logits, weight = self.drawn_by_gradient(pictures, rng, course)
            library().fit(
                _at(self.sizes), _at(self.params), len(self.free), _at(self.free), len(inverse),
                _at(tied), _at(pictures.codes), _at(place), _at(label), _at(logits), _at(weight),
                pictures.low, pictures.step, n_steps, course.batch, epoch * n_steps,
                ctypes.c_float(course.share), ctypes.c_float(course.temperature), _at(own),
                _at(inverse), ctypes.c_float(course.momentum), ctypes.c_float(course.decay),
                _at(momentum), _at(average),
            )  # fmt: skip
        self.params[self.free] = average


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    network = Network(build("lenet5", width=0.2))
    initialise(network, generator)
    with torch.no_grad():
        for weight in network.weights().values():
            weight.mul_(torch.rand(weight.shape, generator=generator) < 0.2)
    tiny = Tiny([p.detach().numpy() for p in network.parameters()])
    codes = torch.randint(0, 256, (64, 1, 28, 28), generator=generator).to(torch.uint8)
    labels, of_logits = torch.zeros(64, dtype=torch.int64), torch.randn(64, 10, generator=generator)
    pictures = Pictures(Distorted(labels, codes, of_logits, -0.4, 0.01))
    place = np.arange(64)
    logits = network(codes * 0.01 - 0.4)[network.spec.outputs[0]].flatten(1)
    np.testing.assert_allclose(tiny.outputs(pictures, place), logits.detach(), rtol=1e-4, atol=1e-6)
    of_free = tiny.gradients(pictures, place, of_logits.numpy())
    free, tiny.free = tiny.free, np.arange(len(tiny.params), dtype=np.int32)
    rows = tiny.gradients(pictures, place, of_logits.numpy())
    for image, (row, own) in enumerate(zip(rows, of_free, strict=True)):
        network.zero_grad()
        (logits[image] @ of_logits[image]).backward(retain_graph=True)
        whole = np.concatenate([p.grad.numpy().ravel() for p in network.parameters()])
        np.testing.assert_allclose(row, whole, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(own, whole[free], rtol=1e-3, atol=1e-5)
    print(f"{len(free)} parameters: logits and gradients of {len(rows)} images agree")


if __name__ == "__main__":
    main()
