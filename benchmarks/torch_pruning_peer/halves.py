"""Half of the channels of every group of coupled filters, by Torch-Pruning and by this package."""

import copy

import torch_pruning as tp
from torch import Tensor, nn

from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.network.torch_import.imported import ImportedNetwork

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
RATIO = 0.5  # of the channels that go
# Layers whose outputs leave the network. Of the transformer only the hidden layers of its MLPs are
# compared: Torch-Pruning narrows the residual stream as well, which changes its layer norms.
KEPT = {
    "resnet18": ("fc",), "resnet50": ("fc",), "mobilenetv2": ("classifier.1",),
    "densenet": ("fc",), "unet": ("head",), "yolo": ("box", "cls"),
}  # fmt: skip
VIT_LAYERS = ("block1.mlp.0", "block2.linear1")


def kept_layers(name: str, module: nn.Module) -> list[nn.Module]:
    """Modules that Torch-Pruning leaves alone."""
    if name != "vit":
        return [module.get_submodule(path) for path in KEPT[name]]
    return [
        part for path, part in module.named_modules()
        if path not in VIT_LAYERS and not list(part.children())
    ] + [part for part in module.modules() if isinstance(part, nn.MultiheadAttention)]  # fmt: skip


def their_pruning(name: str, module: nn.Module, x: Tensor) -> nn.Module:
    """A copy with half of the channels; the module is changed in place by the library."""
    smaller = copy.deepcopy(module)
    tp.pruner.BasePruner(
        smaller,
        x,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=kept_layers(name, smaller),
    ).step()
    return smaller


def our_pruning(name: str, found: ImportedNetwork) -> ImportedNetwork:
    """Half of the channels of every free group: a layer's rate counts its inputs as well."""
    graph = ChannelGraph(found.spec)
    layers = VIT_LAYERS if name == "vit" else [layer.name for layer in found.spec.weighted()]
    rates = dict.fromkeys(layers, (1 / RATIO) ** 2)
    method = StructuredMethod(filter_share=1.0, round_to=1)
    sets = method.fitted(found.tensors()).sets(graph, rates)
    weights = {n: found.weights()[n].detach() for n in rates}
    masks = {n: p.mask for n, p in sets.hard.project(weights).items()}
    return found.resized(*compact(found.spec, found.tensors(), masks))
