"""Fine-tuning: a run is trained on, and what pruning removed stays removed."""

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import MaskHook
from pneumonia.compression.phase import RETRAIN
from pneumonia.compression.prune.recipe import FineTuneRecipe, retrain_config
from pneumonia.compression.result import CompressedNetwork, CompressionJob
from pneumonia.network.averaging import average_weights
from pneumonia.network.batch_norm import reestimate_batch_norm
from pneumonia.network.files import load_model, quantized_layers
from pneumonia.network.module import Network
from pneumonia.runtime.errors import ConfigError
from pneumonia.training.task import training_images


def finetune_network(job: CompressionJob, recipe: FineTuneRecipe) -> CompressedNetwork:
    """Train a network inside the masks that it has; every layer keeps its storage.

    Raises:
        ConfigError: Weights are on quantization levels, which training would leave.
    """
    quantized = quantized_layers(job.spec)
    if quantized:
        raise ConfigError(
            "Quantized weights cannot be fine-tuned",
            expected="a run of `train`, `prune` or `finetune`",
            found=f"{len(quantized)} layers on levels, such as {min(quantized)}",
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
    tensors = load_model(run.checkpoint())[1]
    if recipe.parent_share:
        tensors = average_weights(job.spec, job.tensors, tensors, recipe.parent_share)
        network.load_tensors(tensors)
        images = training_images(job.trainer.task, config.seed, config.batch_size)
        reestimate_batch_norm(network, images)
        tensors = network.tensors()
    return CompressedNetwork(
        job.spec,
        tensors,
        recipe.retrain.epochs,
        [folder],
        {"method": "finetune", "settings": recipe.model_dump(mode="json"), "target_rate": 1.0},
        {},
    )
