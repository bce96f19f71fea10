"""ADMM in the training loop: rounds of rho, Z-step timing, logging and stopping."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia.compression.admm.engine import Admm, AdmmResidual
from pneumonia.compression.admm.recipe import AdmmPhase
from pneumonia.compression.sets.constraint import JointConstraint
from pneumonia.network.module import Network
from pneumonia.runs.names import RESIDUALS_TABLE
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.training import distributed
from pneumonia.training.hooks import TrainingHook

COLUMNS = ("update", "round", "rho", "split", "layer", "primal", "dual", "churn")


class Converged(Exception):  # noqa: N818 - not an error, but how a hook ends a fit
    """Raised when all rounds converge before the planned epochs: the weights are in the set."""


class AdmmHook(TrainingHook):
    """Runs the ADMM engine over a fit: one round per rho.

    The fit must not clip gradients: clipping the sum of the task's and the penalty's would cancel
    any growth of rho.

    Args:
        phase: Its `epochs` are those of the fit; `optimiser.clip_norm` clips the task's gradient.
        out: Folder for residuals.csv.
    """

    def __init__(self, constraints: Sequence[JointConstraint], phase: AdmmPhase, out: Path) -> None:
        self.engine = Admm(constraints, phase.rho[0], phase.kept)
        self.phase = phase
        # size of the penalty's own step; None = its gradient is added to the task's
        self.step = phase.step(phase.optimiser.learning_rate)
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
        clip_norm = self.phase.optimiser.clip_norm
        if clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        if self.step is None:
            self.engine.add_penalty_gradient(network.weights())

    def after_step(self, network: Network, ema: Network) -> None:
        """Apply the implicit penalty step, if configured, and a Z-step if one is due."""
        if self.step is not None:
            self.engine.pull(network.weights(), self.step)
        self.steps += 1
        every = self.phase.steps_per_update
        if every is not None and self.steps % every == 0:
            self._update(network.weights())

    def after_epoch(self, network: Network, epoch: int) -> dict[str, float]:
        """A Z-step if they go by epochs; next round when this one is over or has converged."""
        weights = network.weights()
        if self.phase.steps_per_update is None:
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
        converged = bool(self.last) and row["admm_primal_max"] < self.phase.tolerance
        if converged or self.epoch_in_round >= self.phase.epochs_of_round()[self.round]:
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
        if self.round + 1 == len(self.phase.rho):
            self.finished = True
            return
        self.round += 1
        self.epoch_in_round = 0
        self.engine.set_rho(self.phase.rho[self.round], weights, self.phase.on_new_rho)

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
