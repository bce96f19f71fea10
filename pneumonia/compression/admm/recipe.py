"""Recipe keys of training with the penalty of ADMM, for pruning and quantization."""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from pneumonia.compression.admm.engine import KeptWeights, OnNewRho
from pneumonia.recipes import RecipePart
from pneumonia.training.config import OptimiserConfig, ScheduleConfig


class AdmmRounds(RecipePart):
    """ADMM of one rung of a quantization: a round per rho, a Z-step after each epoch.

    Attributes:
        epochs: Epochs with the penalty; they are shared out among the rounds.
        penalty: `proximal`: an exact step on the penalty, of size learning_rate, follows each
            step of the optimiser: right for Adam, whose normalisation would drown the penalty.
            `gradient`: the penalty's gradient joins the task's: right for SGD.
        rho: Penalty of each round, ascending. With `proximal`, W goes the share
            1 - (1 + learning_rate * rho) ** -steps of the way to Z - U in an epoch of so many
            steps: the last round should make that nearly 1.
    """

    epochs: PositiveInt = 6
    penalty: Literal["proximal", "gradient"] = "proximal"
    rho: tuple[float, ...] = Field(default=(10.0, 40.0, 160.0), min_length=1)

    def step(self, learning_rate: float) -> float | None:
        """Size of the penalty's own step; none = its gradient is added to the task's."""
        return learning_rate if self.penalty == "proximal" else None

    @field_validator("rho")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return ascending(values)

    @model_validator(mode="after")
    def _enough_epochs(self) -> Self:
        if self.epochs < len(self.rho):
            raise ValueError(f"expected at least one epoch per rho ({len(self.rho)})")
        return self


class TrainingPhase(RecipePart):
    """Training inside a stage; what is not named here is as in the parent's training.

    Attributes:
        epochs: Length.
        optimiser: See `training.config.OptimiserConfig`.
        schedule: See `training.config.ScheduleConfig`.
        batch_size: Images of one optimiser step; none = as in the parent's training.
    """

    epochs: PositiveInt
    optimiser: OptimiserConfig
    schedule: ScheduleConfig
    batch_size: PositiveInt | None = None


class AdmmPhase(AdmmRounds, TrainingPhase):
    """ADMM-regularised training; `optimiser.clip_norm` clips the task's gradient alone.

    Attributes:
        rho: Penalty of each round, ascending; the epochs are shared out among the rounds. With
            `proximal`, W goes the share 1 - (1 + learning_rate * rho) ** -steps_per_update of
            the way to Z - U between Z-steps: the last round should make that nearly 1.
        steps_per_update: Optimiser steps between Z-steps; none = one Z-step per epoch.
        on_new_rho: `rescale` carries the multiplier over to the next rho; `restart` sets U to 0
            and Z to the projection of W.
        kept: Weights that the last Z-step kept are `held` near it by the penalty, or `free`: then
            it pulls the others alone, for short runs (docs/explanation/admm.md).
        tolerance: A round ends early once max ||W - Z|| / ||W|| over the layers is below this.
    """

    epochs: PositiveInt = 12
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=1e-3, weight_decay=0.0)
    schedule: ScheduleConfig = ScheduleConfig(warmup_epochs=0.5, final_fraction=0.2)
    rho: tuple[float, ...] = Field(default=(5.0, 20.0, 80.0), min_length=1)
    steps_per_update: PositiveInt | None = None
    on_new_rho: OnNewRho = "rescale"
    kept: KeptWeights = "held"
    tolerance: float = Field(default=1e-2, gt=0, lt=1)

    def epochs_of_round(self) -> list[int]:
        """Epochs of each round, split as equally as possible."""
        n = len(self.rho)
        return [(i + 1) * self.epochs // n - i * self.epochs // n for i in range(n)]


def ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    """The values themselves; a ValueError unless they are positive and each above the last."""
    if values[0] <= 0 or any(a >= b for a, b in pairwise(values)):
        raise ValueError("expected ascending positive numbers")
    return values
