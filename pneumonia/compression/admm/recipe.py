"""Recipe keys of ADMM that pruning and quantization share."""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from pneumonia.recipes import RecipePart


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


def ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    """The values themselves; a ValueError unless they are positive and each above the last."""
    if values[0] <= 0 or any(a >= b for a, b in pairwise(values)):
        raise ValueError("expected ascending positive numbers")
    return values
