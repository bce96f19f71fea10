"""One training inside a stage: a run folder of its own, trained once and resumed where it stopped.

A training that is over leaves `finished.json`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pneumonia.compression.admm.hook import Converged
from pneumonia.network.module import Network
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.training import distributed
from pneumonia.training.config import TrainConfig
from pneumonia.training.hooks import TrainingHook
from pneumonia.training.loop import fit
from pneumonia.training.task import TrainingTask

log = logging.getLogger(__name__)

# Names of the trainings of a stage.
ADMM, RETRAIN, STRAIGHT_THROUGH, SNAP = "admm", "retrain", "straight_through", "snap"
FINISHED = "finished.json"


class Trainer(NamedTuple):
    """What all trainings of a compression share."""

    task: TrainingTask  # data, loss and metrics
    resume: bool = False  # trainings that were interrupted go on
    # called with (done, total, note), the note after the training's name
    progress: Progress | None = None

    def fit(
        self, network: Network, config: TrainConfig, out: Path, hooks: Sequence[TrainingHook]
    ) -> RunFolder:
        """Train a network or resume its training; a hook may end it early (`Converged`).

        Returns:
            The run folder, whose checkpoints are complete in every process.
        """
        folder = RunFolder(out)
        if not is_finished(out):
            label = f"{out.parent.name} {out.name}"

            def progress(done: int, total: int, note: str) -> None:
                report_progress(self.progress, done, total, f"{label}: {note}")

            resume = self.resume and (folder.last.is_dir() or folder.best.is_dir())
            try:
                fit(network, self.task, config, out, hooks, resume, progress)
            except Converged:
                log.info("%s: converged before its last epoch", label)
            if distributed.is_first():
                write_json(str(out / FINISHED), {"epochs": config.epochs})
        wait_for_first(network)
        return folder


def is_finished(out: Path) -> bool:
    """Whether the training of this folder is over."""
    return (out / FINISHED).is_file()


def wait_for_first(network: Network) -> None:
    """Wait until the first process has written its files."""
    distributed.total(0.0, next(network.parameters()).device)
