"""Batches of an epoch, prepared ahead of the training step."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pneumonia.runtime.errors import TrainingError
from pneumonia.training import distributed
from pneumonia.training.config import TrainConfig
from pneumonia.training.task import Batch, Sample, Task


class _Batches(Dataset[Batch]):
    """Lets a DataLoader prepare whole batches: the key is the list of samples itself."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, samples: Sequence[Sample]) -> Batch:
        return self.task.load(samples)


class _Order(Sampler[list[Sample]]):
    """The parts of the epoch that is set, in order."""

    parts: Sequence[list[Sample]] = ()

    def __iter__(self) -> Iterator[list[Sample]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def _start_worker(worker_id: int) -> None:
    # One thread per worker: the cores belong to the training step.
    torch.set_num_threads(1)
    try:
        import cv2

        cv2.setNumThreads(0)
    except ImportError:
        pass


class EpochLoader:
    """Batches of any epoch; worker processes live from the first epoch to `close`.

    The order and every random choice come from `task.plan(epoch, seed)`, so that batches do not
    depend on the number of workers or on earlier epochs.

    Args:
        task: Plans and prepares.
        config: Batch size, accumulation, seed, workers.

    Attributes:
        steps: Optimiser steps of an epoch; what does not fill a batch is left out.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.task = task
        self.config = config
        self.shares = config.accumulate * distributed.world_size()
        if config.batch_size % self.shares:
            raise TrainingError(
                "Batch cannot be split evenly",
                expected=f"batch_size a multiple of {self.shares} (accumulate x processes)",
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
        self._order = _Order()
        self._loader = DataLoader(
            _Batches(task),
            sampler=self._order,
            batch_size=None,
            num_workers=config.workers,
            worker_init_fn=_start_worker,
            persistent_workers=config.workers > 0,
            prefetch_factor=2 if config.workers else None,
            # Its own generator: torch's global one must not depend on how data is loaded.
            generator=torch.Generator().manual_seed(config.seed),
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This process's share of every part of every step: `steps * accumulate` batches."""
        plan = list(self.task.plan(epoch, self.config.seed))
        share = self.config.batch_size // self.shares
        first = distributed.rank() * share
        stride = share * distributed.world_size()
        self._order.parts = [
            plan[start + first : start + first + share]
            for start in range(0, self.steps * self.config.batch_size, stride)
        ]
        return iter(self._loader)

    def close(self) -> None:
        """End the worker processes; the loader cannot be used afterwards."""
        del self._loader  # its iterator joins the workers when it goes
