"""ADMM in the training loop: rho schedule, Z-step timing, logging and stopping."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pneumonia.compression.admm.engine import Admm, AdmmResidual, KeptWeights, OnNewRho
from pneumonia.compression.sets.constraint import JointConstraint
from pneumonia.network.module import Network
from pneumonia.runs.names import RESIDUALS_TABLE
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.training import distributed
from pneumonia.training.hooks import TrainingHook

COLUMNS = ("update", "round", "rho", "split", "layer", "primal", "dual", "churn")


class Converged(Exception):  # noqa: N818 - not an error, but how a hook ends a fit
    """Raised when all rounds converge before the planned epochs: the weights lie in the set."""


class AdmmSchedule(NamedTuple):
    """Schedule of the penalty rho and of the Z-steps."""

    rho: tuple[float, ...]  # penalty of each round, ascending
    epochs: int  # of the whole fit; they are shared out among the rounds
    # optimiser steps from one Z-step to the next; None = at each epoch's end
    steps_per_update: int | None = None
    on_new_rho: OnNewRho = "rescale"  # see `Admm.set_rho`
    tolerance: float = 1e-2  # a round ends early when no layer's primal residual is larger
    # largest L2 norm of the task's gradient, before the penalty's is added; 0 = no clipping.
    # Clipping the sum instead (in the loop) would cancel any growth of rho
    clip_norm: float = 0.0
    # size of the penalty's own step after each of the optimiser (`Admm.pull`), best its learning
    # rate; None = the penalty's gradient is added to the task's
    tau: float | None = None
    kept: KeptWeights = "held"  # see `Admm`

    def epochs_of_round(self) -> list[int]:
        """Epochs of each round, split as equally as possible."""
        n = len(self.rho)
        return [(i + 1) * self.epochs // n - i * self.epochs // n for i in range(n)]


class AdmmHook(TrainingHook):
    """Runs the ADMM engine over a fit: one round per rho.

    Args:
        out: Folder for residuals.csv.
    """

    def __init__(
        self, constraints: Sequence[JointConstraint], schedule: AdmmSchedule, out: Path
    ) -> None:
        self.engine = Admm(constraints, schedule.rho[0], schedule.kept)
        self.schedule = schedule
        self.out = out
        self.round = 0
        self.epoch_in_round = 0
        self.steps = 0
        self.updates = 0
        self.finished = False
        self.last: list[AdmmResidual] = []
        self._rows: list[Sequence[object]] = []
        self._restored = False

    def before_fit(self, network: Network, ema: Network) -> None:
        """Start at the weights, or go on with restored Z and U."""
        if self._restored:
            self.engine.match_layout(network.weights())
        else:
            self.engine.start(network.weights())

    def after_backward(self, network: Network) -> None:
        """Add the penalty's gradient, if configured; raises `Converged` after the last round."""
        if self.finished:
            raise Converged
        if self.schedule.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.schedule.clip_norm)
        if self.schedule.tau is None:
            self.engine.add_penalty_gradient(network.weights())

    def after_step(self, network: Network, ema: Network) -> None:
        """Apply the implicit penalty step, if configured, and a Z-step if one is due."""
        if self.schedule.tau is not None:
            self.engine.pull(network.weights(), self.schedule.tau)
        self.steps += 1
        every = self.schedule.steps_per_update
        if every is not None and self.steps % every == 0:
            self._update(network.weights())

    def after_epoch(self, network: Network, epoch: int) -> dict[str, float]:
        """A Z-step if they go by epochs; next round when this one is over or has converged."""
        weights = network.weights()
        if self.schedule.steps_per_update is None:
            self._update(weights)
        row = {
            "admm_round": float(self.round + 1),
            "admm_rho": self.engine.rho,
            "admm_primal_max": max((r.primal for r in self.last), default=0.0),
            "admm_dual_max": max((r.dual for r in self.last), default=0.0),
            "admm_churn_max": max((r.churn for r in self.last), default=0.0),
        }
        self._write()
        self.epoch_in_round += 1
        converged = bool(self.last) and row["admm_primal_max"] < self.schedule.tolerance
        if converged or self.epoch_in_round >= self.schedule.epochs_of_round()[self.round]:
            self._next_round(weights)
        return row

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Z, U and where the schedule stands."""
        values = {
            "round": self.round,
            "epoch_in_round": self.epoch_in_round,
            "steps": self.steps,
            "updates": self.updates,
            "finished": self.finished,
            "rho": self.engine.rho,
            "last": [list(residual) for residual in self.last],
        }
        return self.engine.state(), values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore the value of `state`; later rows of residuals.csv are dropped."""
        self.engine.load_state(tensors)
        self.engine.rho = float(values["rho"])
        self.round = int(values["round"])
        self.epoch_in_round = int(values["epoch_in_round"])
        self.steps = int(values["steps"])
        self.updates = int(values["updates"])
        self.finished = bool(values["finished"])
        self.last = [AdmmResidual(*row) for row in values["last"]]
        self._rows = [row for row in read_rows(self.out) if int(str(row[0])) <= self.updates]
        self._restored = True

    def _update(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.last = self.engine.update(weights)
        self.updates += 1
        self._rows += [
            (self.updates, self.round + 1, self.engine.rho, r.split, r.layer,
             f"{r.primal:.6g}", f"{r.dual:.6g}", f"{r.churn:.6g}")
            for r in self.last
        ]  # fmt: skip

    def _next_round(self, weights: Mapping[str, nn.Parameter]) -> None:
        if self.round + 1 == len(self.schedule.rho):
            self.finished = True
            return
        self.round += 1
        self.epoch_in_round = 0
        self.engine.set_rho(self.schedule.rho[self.round], weights, self.schedule.on_new_rho)

    def _write(self) -> None:
        if distributed.is_first():
            write_text(str(self.out / RESIDUALS_TABLE), csv_text(COLUMNS, self._rows))


def read_rows(folder: Path) -> Sequence[Sequence[object]]:
    """Rows of a folder's residuals.csv as they were written; none without a file."""
    path = folder / RESIDUALS_TABLE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [tuple(row) for row in csv.reader(stream)][1:]
