"""Batches of an epoch, prepared ahead of the training step."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pneumonia.runtime.errors import TrainingError
from pneumonia.training import distributed
from pneumonia.training.config import TrainConfig
from pneumonia.training.task import EpochSample, TrainingBatch, TrainingTask

PREFETCH = 3  # batches a worker keeps ready


class _Batches(Dataset[TrainingBatch]):
    """Lets a DataLoader prepare whole batches: the key is the list of samples itself."""

    def __init__(self, task: TrainingTask) -> None:
        self.task = task

    def __getitem__(self, samples: Sequence[EpochSample]) -> TrainingBatch:
        return self.task.load(samples)


class _Order(Sampler[list[EpochSample]]):
    """The parts of a run of epochs, one after another."""

    def __init__(self, parts: Callable[[int], list[list[EpochSample]]], epochs: range) -> None:
        self.parts = parts
        self.epochs = epochs

    def __iter__(self) -> Iterator[list[EpochSample]]:
        for epoch in self.epochs:
            yield from self.parts(epoch)


def _say_nothing(*_: object) -> None:
    """Print no exception."""


def _start_worker(worker_id: int) -> None:
    # Ctrl-C reaches the whole process group: the training process ends its workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Torch passes errors of batches to the training process. What is left are connections to one
    # that has ended, which a thread of multiprocessing would print.
    sys.excepthook = _say_nothing
    # One thread per worker: the cores belong to the training step.
    torch.set_num_threads(1)
    try:
        import cv2

        cv2.setNumThreads(0)
    except ImportError:
        pass


@contextmanager
def worker_faults() -> Iterator[None]:
    """Raise a TrainingError when a worker process is killed in this context.

    Torch's handler of SIGCHLD raises a RuntimeError in whatever the training process does then.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            "A process that prepares batches was killed",
            fix="If memory was short, lower batch_size or workers, and resume the run",
        ) from None


class BatchLoader:
    """Batches of a run of epochs, without a pause between them.

    The first batches of an epoch are prepared while the epoch before is validated. The order and
    every random choice come from `task.plan(epoch, seed)`, so that batches do not depend on the
    number of workers or on earlier epochs.

    Args:
        config: Batch size, accumulation, seed, workers, last epoch.
        first_epoch: From 1.

    Attributes:
        steps: Optimiser steps of an epoch; what does not fill a batch is left out.

    Raises:
        TrainingError: The batch cannot be split evenly, or an epoch does not fill one.
    """

    def __init__(self, task: TrainingTask, config: TrainConfig, first_epoch: int) -> None:
        self._task = task
        self._config = config
        self._shares = config.accumulate * distributed.world_size()
        if config.batch_size % self._shares:
            raise TrainingError(
                "Batch cannot be split evenly",
                expected=f"batch_size a multiple of {self._shares} (accumulate x processes)",
                found=str(config.batch_size),
            )
        n_images = len(task.plan(1, config.seed))
        self.steps = n_images // config.batch_size
        if not self.steps:
            raise TrainingError(
                "An epoch has fewer images than a batch",
                expected=f">= {config.batch_size} images (batch_size)",
                found=str(n_images),
                fix="Lower batch_size or set data.images_per_epoch",
            )
        loader = DataLoader(
            _Batches(task),
            sampler=_Order(self._parts, range(first_epoch, config.epochs + 1)),
            batch_size=None,
            num_workers=config.workers,
            worker_init_fn=_start_worker,
            prefetch_factor=PREFETCH if config.workers else None,
            # Its own generator: torch's global one must not depend on how data is loaded.
            generator=torch.Generator().manual_seed(config.seed),
        )
        self._batches: Iterator[TrainingBatch] = iter(loader)

    def _parts(self, epoch: int) -> list[list[EpochSample]]:
        """This process's share of every part of every step of an epoch."""
        plan = list(self._task.plan(epoch, self._config.seed))
        share = self._config.batch_size // self._shares
        first = distributed.rank() * share
        stride = share * distributed.world_size()
        return [
            plan[start + first : start + first + share]
            for start in range(0, self.steps * self._config.batch_size, stride)
        ]

    def __next__(self) -> TrainingBatch:
        """The next batch; an epoch has `steps * accumulate`."""
        return next(self._batches)

    def close(self) -> None:
        """End the worker processes; the loader cannot be used afterwards."""
        del self._batches  # the iterator joins its workers when it goes
