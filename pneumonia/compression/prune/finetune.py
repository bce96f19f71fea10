"""Fine-tuning: a run is trained on, and what pruning removed stays removed."""

from typing import Literal

from pydantic import Field, PositiveInt

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.phase import RETRAIN
from pneumonia.compression.prune.masks import MaskHook
from pneumonia.compression.prune.recipe import RetrainPhase, retrain_config
from pneumonia.compression.result import CompressedNetwork, CompressionJob
from pneumonia.network.files import load_model
from pneumonia.network.module import Network
from pneumonia.recipes import RecipePart
from pneumonia.runtime.errors import ConfigError
from pneumonia.training.config import TrainRecipe

FLOAT_BITS = 32


class FineTuneRecipe(RecipePart):
    """A whole fine-tuning of a trained or pruned run.

    Attributes:
        retrain: See RetrainPhase.
        distil: Share of the loss that asks for the outputs of a teacher on the same images; 0 =
            none. It costs a forward pass of the teacher at every step.
        teacher: `trained` = the network before anything was compressed, `parent` = the run's own.
        images_per_epoch: Length of the epochs; none = as in the parent's training.
        validate_every: Epochs between validations; none = as in the parent's training.
        seed: Of order and augmentation; none = as in the parent's training.
        threads: Threads that compute a step on the CPU; none = as in the parent's training.
    """

    retrain: RetrainPhase = RetrainPhase()
    distil: float = Field(default=0.0, ge=0, lt=1)
    teacher: Literal["trained", "parent"] = "trained"
    images_per_epoch: PositiveInt | None = None
    validate_every: PositiveInt | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    threads: int | None = Field(default=None, ge=1, le=256)


def finetuned_training(training: TrainRecipe, recipe: FineTuneRecipe) -> TrainRecipe:
    """The parent's training with the epochs and the seed of a fine-tuning."""
    changed: dict[str, object] = recipe.model_dump(
        include={"validate_every", "seed", "threads"}, exclude_none=True
    )
    if recipe.images_per_epoch is not None:
        length = {"images_per_epoch": recipe.images_per_epoch}
        changed["data"] = training.data.model_copy(update=length)
    return training.model_copy(update=changed)


def finetune_network(job: CompressionJob, recipe: FineTuneRecipe) -> CompressedNetwork:
    """Train a network inside the masks that it has; every layer keeps its storage.

    Raises:
        ConfigError: Weights are on quantization levels, which training would leave.
    """
    quantized = [layer.name for layer in job.spec.weighted() if layer.storage.bits < FLOAT_BITS]
    if quantized:
        raise ConfigError(
            "Quantized weights cannot be fine-tuned",
            expected="a run of `train`, `prune` or `finetune`",
            found=f"{len(quantized)} layers on levels, first {quantized[0]}",
            where=str(job.parent.path),
            fix="Fine-tune the run that was quantized, then quantize it again",
        )
    spec, folder = job.spec.densely_stored(), job.out.stages / "01-finetune"
    network = Network(spec, job.tensors)
    # Also of layers that are stored densely: there, too, a zero is what pruning left.
    masks = {name: weight.detach() != 0 for name, weight in network.weights().items()}
    hook = MaskHook(ChannelGraph(spec), masks)
    config = retrain_config(job.training, recipe.retrain)
    run = job.trainer.fit(network, config, folder / RETRAIN, [hook])
    return CompressedNetwork(
        job.spec,
        load_model(run.checkpoint())[1],
        recipe.retrain.epochs,
        [folder],
        {"method": "finetune", "settings": recipe.model_dump(mode="json"), "target_rate": 1.0},
        {},
    )
