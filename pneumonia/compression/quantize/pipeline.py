"""Quantization of one network, for any task: layers, rungs, storage."""

from collections.abc import Mapping

from torch import Tensor

from pneumonia.compression.compact.coupling import refuse_unmatched, select_layers
from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.compression.quantize.recipe import QuantizeRecipe, levels_of
from pneumonia.compression.quantize.stage import is_on_levels, quantize_stage
from pneumonia.compression.result import CompressedNetwork, CompressionJob
from pneumonia.compression.sets.levels import Levels
from pneumonia.network.module import Network
from pneumonia.runs.compression import read_compression
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.errors import ArtefactError, ConfigError, PruneError
from pneumonia.runtime.model.spec import NetworkSpec

MIN_ZEROS = 0.02  # share of exact zeros from which a weight counts as pruned


def quantize_network(job: CompressionJob, recipe: QuantizeRecipe) -> CompressedNetwork:
    """Put the weights of a network on the recipe's levels, rung by rung.

    Raises:
        ConfigError: No layer matches.
        ArtefactError: The parent is a quantization whose report cannot be read.
    """
    network = Network(job.spec, job.tensors)
    levelled = layers_with_level_zeros(job.parent)
    masks = {n: m for n, m in pruned_masks(network).items() if n not in levelled}
    names = quantized_names(job.spec, recipe)
    scales: dict[str, float] = {}
    levels: dict[str, Levels] = {}
    folders = []
    for number, rung in enumerate(recipe.ladder, 1):
        levels = {name: levels_of(rung, name in masks, recipe.device_levels) for name in names}
        folders.append(job.out.stages / f"{number}-{rung}")
        scales = quantize_stage(
            network, job.trainer, job.training, recipe, levels, masks, folders[-1]
        )
    _check_levels(network, levels, scales)
    tensors = {name: tensor.detach().clone() for name, tensor in network.tensors().items()}
    return CompressedNetwork(
        smallest_storage(job.spec, tensors),
        tensors,
        len(recipe.ladder)
        * (
            recipe.admm.epochs
            + recipe.straight_through_epochs
            + len(recipe.fixed) * recipe.snap_epochs
        ),
        folders,
        {
            "method": "quantize",
            "settings": recipe.model_dump(mode="json", exclude={"kind", "ladder"}),
            "stages": list(recipe.ladder),
        },
        {
            name: {
                "n_levels": len(chosen.values),
                "scale": scales[name],
                "pruned": name in masks,
            }
            for name, chosen in levels.items()
        },
    )


def _check_levels(
    network: Network, levels: Mapping[str, Levels], scales: Mapping[str, float]
) -> None:
    for name, chosen in levels.items():
        if not is_on_levels(network.weights()[name].detach(), chosen, scales[name]):
            raise PruneError("Weights are not on their levels", where=f"layer {name!r}")


def quantized_names(spec: NetworkSpec, recipe: QuantizeRecipe) -> list[str]:
    """Layers to quantize, in execution order.

    Raises:
        ConfigError: A glob matches none, or none is left; the message names all layers.
    """
    patterns = {"layers": recipe.layers, "exclude": recipe.exclude}
    refuse_unmatched(spec, patterns, ConfigError)
    excluded = set(select_layers(spec, recipe.exclude))
    names = [name for name in select_layers(spec, recipe.layers) if name not in excluded]
    if not names:
        raise ConfigError(
            "No layer is left to quantize",
            expected="fewer excluded layers",
            found=", ".join(recipe.exclude),
            where="exclude",
        )
    return names


def layers_with_level_zeros(run: RunFolder) -> frozenset[str]:
    """Layers of an earlier quantization whose zeros are a level, not pruned places.

    Raises:
        ArtefactError: The run's report does not say.
    """
    if run.record().get("kind") != "quantize":
        return frozenset()
    try:
        layers = [row for row in read_compression(run.path)["layers"] if "scale" in row]
        return frozenset(row["name"] for row in layers if not row["pruned"])
    except (ArtefactError, KeyError, TypeError):
        raise ArtefactError(
            "Report of the quantized run cannot be read",
            expected="its layers",
            where=str(run.path),
            fix="Give the folder as `quantize` wrote it",
        ) from None


def pruned_masks(network: Network) -> dict[str, Tensor]:
    """Masks of the weights that hold zeros an earlier pruning put there."""
    found = {name: weight.detach() != 0 for name, weight in network.weights().items()}
    return {
        name: mask for name, mask in found.items() if float((~mask).float().mean()) >= MIN_ZEROS
    }
