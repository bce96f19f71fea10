"""Recipes of quantization: a ladder of level sets, and how each rung is trained."""

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pneumonia.compression.admm.recipe import AdmmRounds, ascending
from pneumonia.compression.quantize.bit_serial import fixed_point
from pneumonia.compression.sets.crossbar import linear_device
from pneumonia.compression.sets.levels import (
    BINARY,
    TERNARY,
    Levels,
    Zero,
    k_bit,
    power_of_two,
    table,
)
from pneumonia.recipes import RecipePart
from pneumonia.runtime.errors import ConfigError, PruneError
from pneumonia.training.config import TrainConfig, TrainRecipe

FINAL_FRACTION = 0.2  # of the learning rate at the end of each training of a rung
_NUMBERED = re.compile(r"(\d{1,2})-bit(-shift|-crossbar|-sot-mram)?")


def levels_of(name: str, pruned: bool, device_levels: tuple[float, ...] = ()) -> Levels:
    """The level set a recipe names.

    Args:
        name: `binary`, `ternary`, `N-bit` (uniform), `N-bit-shift` (powers of two),
            `N-bit-crossbar` (an ideal memristor's states), `N-bit-sot-mram` (fixed point) or
            `device` (the states given).
        pruned: The weight has pruned places; they are not stored, so zero is not a level then.
        device_levels: Of `device`: means of the states of one polarity, ascending.

    Raises:
        ConfigError: Another name, a width the set does not have, or no table for `device`.
    """
    if name == "binary":
        return BINARY
    if name == "ternary":
        return TERNARY
    if name == "device":
        return _device(device_levels)
    found = _NUMBERED.fullmatch(name)
    if found is None:
        raise ConfigError(
            "Unknown level set",
            expected="binary, ternary, N-bit, N-bit-shift, N-bit-crossbar, N-bit-sot-mram, device",
            found=repr(name),
            where="ladder",
        )
    bits, zero = int(found[1]), not pruned
    kind: Zero = "level" if zero else "coded"
    try:
        if found[2] == "-shift":
            return power_of_two(bits, zero)
        if found[2] == "-crossbar":
            return linear_device(bits)
        return fixed_point(bits) if found[2] else k_bit(bits, kind)
    except PruneError as error:
        raise ConfigError(
            error.what, expected=error.expected, found=repr(name), where="ladder"
        ) from None


def _device(device_levels: tuple[float, ...]) -> Levels:
    try:
        return table(device_levels)
    except PruneError as error:
        raise ConfigError(
            error.what, expected=error.expected, found=repr(device_levels), where="device_levels"
        ) from None


class QuantizeRecipe(RecipePart):
    """A whole quantization of a trained or pruned run.

    Attributes:
        ladder: Level sets from the first rung to the last, see `levels_of`; each rung starts
            from the one before.
        device_levels: Means of the states a memristor can be programmed to, ascending, in any
            unit: what the rung `device` quantizes to, with both signs and without zero.
        layers: Globs of the layers to quantize.
        exclude: Globs of layers that stay float; nothing = really all, first and last included.
        admm: Training of each rung with the penalty. See `compression.admm.recipe.AdmmRounds`.
        straight_through_epochs: Epochs between the penalty and the snaps in which the network
            computes with weights on their levels while latent float weights take its gradients
            (`straight_through.py`): what coarse levels need, whose signs must still change;
            0 = none. Every weight is on a level afterwards: `fixed: [1.0]` is right then.
        fixed: Share of the weights on their level after each snap; the last one must be 1.
        snap_epochs: Training epochs after each snap; after the last one only biases and batch norm
            are free.
        learning_rate: Peak of each of these trainings.
        distil: Share of the loss that asks for the outputs of a teacher on the same images; 0 =
            none. It costs a forward pass of the teacher at every step.
        teacher: `parent` = the run's own network, `trained` = that before any compression, or the
            folder of a run or bundle with the same detection heads.
        batch_norm_batches: Training batches on which statistics are measured again at the end of
            each rung; 0 = keep them.
        images_per_epoch: Length of the epochs of all phases; none = as in the parent's training.
        seed: Of order and augmentation.
        threads: Threads that compute a step on the CPU; none = as in the parent's training.
    """

    former_keys: ClassVar[Mapping[str, str]] = {
        "admm_epochs": "admm.epochs", "rho": "admm.rho", "penalty": "admm.penalty",
        "epochs_images": "images_per_epoch",
    }  # fmt: skip

    kind: Literal["quantize"] = "quantize"
    ladder: tuple[str, ...] = Field(default=("8-bit",), min_length=1)
    device_levels: tuple[float, ...] = ()
    layers: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    admm: AdmmRounds = AdmmRounds()
    straight_through_epochs: int = Field(default=0, ge=0)
    fixed: tuple[float, ...] = Field(default=(0.5, 0.75, 0.875, 1.0), min_length=1)
    snap_epochs: PositiveInt = 2
    learning_rate: float = Field(default=5e-4, gt=0)
    distil: float = Field(default=0.0, ge=0, lt=1)
    teacher: str = Field(default="parent", min_length=1)
    batch_norm_batches: int = Field(default=200, ge=0)
    images_per_epoch: PositiveInt | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    threads: int | None = Field(default=None, ge=1, le=256)

    @model_validator(mode="after")
    def _known(self) -> "QuantizeRecipe":
        if self.device_levels and "device" not in self.ladder:
            raise ValueError("device_levels belong to the rung `device`, which ladder lacks")
        for name in self.ladder:
            try:
                levels_of(name, pruned=False, device_levels=self.device_levels)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    @field_validator("fixed")
    @classmethod
    def _complete(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if ascending(values)[-1] != 1:
            raise ValueError("the last share must be 1: every weight ends on a level")
        return values


def quantized_training(training: TrainRecipe, recipe: QuantizeRecipe) -> TrainRecipe:
    """The parent's training with the seed and the length of epochs of a quantization."""
    images = recipe.images_per_epoch or training.data.images_per_epoch
    data = training.data.model_copy(update={"images_per_epoch": images})
    threads = recipe.threads or training.threads
    return training.model_copy(update={"seed": recipe.seed, "data": data, "threads": threads})


def quantizing_config(training: TrainConfig, recipe: QuantizeRecipe) -> TrainConfig:
    """Training settings of both phases of a rung; `epochs` is set by the phase.

    No average, which lags behind weights that are put onto levels.
    """
    # The loss has to keep up with the penalty to the end, and with the last snaps.
    schedule = training.schedule.model_copy(update={"final_fraction": FINAL_FRACTION})
    optimiser = training.optimiser.model_copy(update={"learning_rate": recipe.learning_rate})
    changed = {"ema_decay": 0.0, "early_stop": 0, "optimiser": optimiser, "schedule": schedule}
    return training.model_copy(update=changed)
