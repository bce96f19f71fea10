"""Recipes of pruning: one file is one whole run, from the dense model to the compacted one."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pneumonia.compression.admm.recipe import AdmmPhase, TrainingPhase
from pneumonia.compression.prune.depth_method import DepthMethod
from pneumonia.compression.prune.layerwise import (
    BlockMethod,
    CrossbarMethod,
    IrregularMethod,
    PatternMethod,
)
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.recipes import RecipePart
from pneumonia.training.config import OptimiserConfig, ScheduleConfig, TrainConfig, TrainRecipe

MAX_RATE = 1e6

AnyMethod = Annotated[
    StructuredMethod | DepthMethod | PatternMethod | BlockMethod | CrossbarMethod | IrregularMethod,
    Field(discriminator="kind"),
]


class LayerChoice(RecipePart):
    """Which convolutions and linear layers may lose weights.

    Attributes:
        include: Globs of layer names.
        exclude: Globs of layers to leave alone after all.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class RateConfig(RecipePart):
    """How the global rate is shared out among the layers.

    Attributes:
        assignment: `uniform`: the same rate everywhere, up to the limits. `sensitivity`: each
            layer alone is projected at the probes and validated; the least sensitive half gets
            more, the most sensitive less.
        probes: Rates of the sensitivity measurement.
        stem_limit: Largest rate of layers that read the image.
        limits: Glob of layer names -> largest rate, over what the run's network keeps of a layer.
        limits_for: Rate of a run that `limits` are meant for: at its square they are squared, so
            that small steps spare a layer as much as large ones. None = whatever the rate is.
    """

    assignment: Literal["uniform", "sensitivity"] = "uniform"
    probes: tuple[float, ...] = (2.0, 4.0, 8.0)
    stem_limit: float = Field(default=1.5, ge=1)
    limits: dict[str, float] = Field(default={})
    limits_for: float | None = Field(default=None, gt=1)

    @field_validator("probes")
    @classmethod
    def _above_one(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) <= 1:
            raise ValueError("expected rates above 1")
        return values

    @field_validator("limits")
    @classmethod
    def _at_least_one(cls, values: dict[str, float]) -> dict[str, float]:
        if values and min(values.values()) < 1:
            raise ValueError("expected rates of at least 1")
        return values


class RetrainPhase(TrainingPhase):
    """Training of what is left, under the hard masks.

    Attributes:
        ema_decay: Decay of the averaged weights; see `ema_decay` of a training run.
    """

    epochs: PositiveInt = 20
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=1e-3)
    schedule: ScheduleConfig = ScheduleConfig(warmup_epochs=0.5)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)


class PurifyPhase(RecipePart):
    """Removal of channels and filters that pruning left with scraps, after the last stage.

    Attributes:
        budget: Largest fall of the validation metric that chooses checkpoints, before retraining;
            the thresholds are raised by bisection as far as it allows.
        retrain_epochs: Masked retraining afterwards; none = as in `retrain`.
    """

    budget: float = Field(ge=0, lt=1)
    retrain_epochs: PositiveInt | None = None


class PruneRecipe(RecipePart):
    """A whole pruning run.

    Attributes:
        rate: Dense / remaining weights of all convolutions and linear layers, as realised after
            compaction.
        ladder: Stages on the way: m = m rates in geometric steps; or the rates before the last.
            Each stage is ADMM, hard mask, retraining; supports are nested.
        constraint: The method and its settings.
        layers: See LayerChoice.
        rates: See RateConfig.
        admm: See AdmmPhase.
        retrain: See RetrainPhase.
        purify: See PurifyPhase; none = no purification.
        distil: Share of the loss, in both phases, that asks for the outputs of a teacher on the
            same images; 0 = none. It costs a forward pass of the teacher at every step.
        teacher: `trained` = the network before anything was compressed, `parent` = the run's own,
            or the folder of a run or bundle with the same detection heads.
        images_per_epoch: Length of the epochs of all phases; none = as in the parent's training.
        validate_every: Epochs between validations; none = as in the parent's training.
        threads: Threads that compute a step on the CPU; none = as in the parent's training.
    """

    rate: float = Field(gt=1, le=MAX_RATE)
    ladder: PositiveInt | tuple[float, ...] = 1
    constraint: AnyMethod
    layers: LayerChoice = LayerChoice()
    rates: RateConfig = RateConfig()
    admm: AdmmPhase = AdmmPhase()
    retrain: RetrainPhase = RetrainPhase()
    purify: PurifyPhase | None = None
    distil: float = Field(default=0.0, ge=0, lt=1)
    teacher: str = Field(default="trained", min_length=1)
    images_per_epoch: PositiveInt | None = None
    validate_every: PositiveInt | None = None
    threads: int | None = Field(default=None, ge=1, le=256)

    @field_validator("ladder")
    @classmethod
    def _rising(cls, ladder: int | tuple[float, ...]) -> int | tuple[float, ...]:
        if isinstance(ladder, tuple) and any(b <= a for a, b in pairwise((1.0, *ladder))):
            raise ValueError("expected ascending rates above 1")
        return ladder

    @model_validator(mode="after")
    def _ladder_leads_to_rate(self) -> "PruneRecipe":
        if isinstance(self.ladder, tuple) and self.ladder and min(self.ladder) >= self.rate:
            raise ValueError(f"expected ladder to start below rate ({self.rate:g})")
        return self


class FineTuneRecipe(RecipePart):
    """A whole fine-tuning of a trained or pruned run.

    Attributes:
        retrain: See RetrainPhase.
        parent_share: Share of the parent's weights in the result, which is the average of both
            (`network.averaging`); 0 = the trained weights alone. 0.5 is worth a try where the new
            images are much like the old ones, or where it shall remain good on the old ones.
        distil: Share of the loss that asks for the outputs of a teacher on the same images; 0 =
            none. It costs a forward pass of the teacher at every step.
        teacher: `trained` = the network before anything was compressed, `parent` = the run's own,
            or the folder of a run or bundle with the same detection heads.
        images_per_epoch: Length of the epochs; none = as in the parent's training.
        validate_every: Epochs between validations; none = as in the parent's training.
        seed: Of order and augmentation; none = as in the parent's training.
        threads: Threads that compute a step on the CPU; none = as in the parent's training.
    """

    retrain: RetrainPhase = RetrainPhase()
    parent_share: float = Field(default=0.0, ge=0, lt=1)
    distil: float = Field(default=0.0, ge=0, lt=1)
    teacher: str = Field(default="trained", min_length=1)
    images_per_epoch: PositiveInt | None = None
    validate_every: PositiveInt | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    threads: int | None = Field(default=None, ge=1, le=256)


def pruned_training(training: TrainRecipe, recipe: PruneRecipe | FineTuneRecipe) -> TrainRecipe:
    """The parent's training with the epochs of a pruning recipe, or with those and the seed."""
    changed: dict[str, object] = recipe.model_dump(
        include={"validate_every", "seed", "threads"}, exclude_none=True
    )
    if recipe.images_per_epoch is not None:
        length = {"images_per_epoch": recipe.images_per_epoch}
        changed["data"] = training.data.model_copy(update=length)
    return training.model_copy(update=changed)


def admm_config(training: TrainConfig, phase: AdmmPhase) -> TrainConfig:
    """Training settings of an ADMM phase.

    No average, whose lag would be read as a residual; no clipping in the loop, which would scale
    the penalty down with the rest (`AdmmHook` clips the task's own gradient).
    """
    return training.model_copy(
        update={
            "epochs": phase.epochs,
            "optimiser": phase.optimiser.model_copy(update={"clip_norm": 0.0}),
            "schedule": phase.schedule,
            "ema_decay": 0.0,
            "early_stop": 0,
            "validate_every": phase.epochs,  # the unprojected weights' metric decides nothing
            "batch_size": phase.batch_size or training.batch_size,
        }
    )


def retrain_config(training: TrainConfig, phase: RetrainPhase) -> TrainConfig:
    """Training settings of masked retraining."""
    return training.model_copy(
        update={
            "epochs": phase.epochs,
            "optimiser": phase.optimiser,
            "schedule": phase.schedule,
            "ema_decay": phase.ema_decay,
            "batch_size": phase.batch_size or training.batch_size,
        }
    )
