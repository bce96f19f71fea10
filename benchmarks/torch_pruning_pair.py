"""Torch-Pruning and this package on the same networks: coupled groups, sizes, times, accuracy.

python -m benchmarks.torch_pruning_pair [--cifar] [--out FILE]

Both remove half of the channels of every group of coupled filters, those of least L2 norm, from
the same weights; parameters and MACs of both results are counted by Torch-Pruning's own counter,
ours as the module that `to_torch` gives. With --cifar, a narrow ResNet-18 is trained, pruned by
both, and both results are retrained in the same way. Times are processor seconds of one interleaved
run, least of five. Needs `pip install torch-pruning` (MIT).
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.compression_training import Images, read_images
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
from pneumonia.network.zoo import build
from tests.network.torch_networks import NETWORKS, network, resnet18

RESULT = Path(__file__).parent / "results" / "torch_pruning_pair.json"
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
RATIO = 0.5  # of the channels that go
REPEATS = 5
# Layers whose outputs leave the network. Of the transformer only the hidden layers of its MLPs are
# compared: Torch-Pruning narrows the residual stream as well, which changes its layer norms.
KEPT = {
    "resnet18": ("fc",), "resnet50": ("fc",), "mobilenetv2": ("classifier.1",),
    "densenet": ("fc",), "unet": ("head",), "yolo": ("box", "cls"),
}  # fmt: skip
VIT_LAYERS = ("block1.mlp.0", "block2.linear1")


def their_groups(module: nn.Module, x: Tensor) -> set[frozenset[str]]:
    """Layers that lose output channels together."""
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=x)
    names = {part: name for name, part in module.named_modules()}
    found = set()
    for group in graph.get_all_groups(root_module_types=list(WEIGHTED)):
        members = {
            names[dependency.target.module]
            for dependency, _ in group
            if isinstance(dependency.target.module, WEIGHTED)
            and graph.is_out_channel_pruning_fn(dependency.handler)
        }
        found.add(frozenset(members))
    return found


def our_groups(found: ImportedNetwork) -> set[frozenset[str]]:
    """The same of our graph."""
    return {frozenset(group.layers) for group in ChannelGraph(found.spec).components()}


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
    sets = StructuredMethod(filter_share=1.0, round_to=1).sets(graph, rates)
    weights = {n: found.weights()[n].detach() for n in rates}
    masks = {n: p.mask for n, p in sets.hard.project(weights).items()}
    return found.resized(*compact(found.spec, found.tensors(), masks))


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def least(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The least time of each of two interleaved works."""
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def compare(name: str) -> dict[str, Any]:
    """Groups, sizes and times of one network."""
    module, x = network(name)
    found = from_torch(module, x)
    theirs, ours = their_groups(module, x), our_groups(found)
    smaller = to_torch(our_pruning(name, found).eval())
    counts = {
        "dense": tp.utils.count_ops_and_params(module, x[:1]),
        "ours": tp.utils.count_ops_and_params(smaller, x[:1]),
    }
    failure = ""
    try:
        their_smaller = their_pruning(name, module, x)
        counts["torch_pruning"] = tp.utils.count_ops_and_params(their_smaller, x[:1])
    except Exception as error:  # whatever it is, the other networks go on
        failure = f"{type(error).__name__}: {error}"
    graph_times = [
        (seconds(lambda: their_groups(module, x)), seconds(lambda: our_groups(found)))
        for _ in range(REPEATS)
    ]
    whole_times = [
        (
            0.0 if failure else seconds(lambda: their_pruning(name, module, x)),
            seconds(lambda: our_pruning(name, found)),
        )
        for _ in range(REPEATS)
    ]
    import_time = min(seconds(lambda: from_torch(module, x)) for _ in range(2))
    return {
        "groups": len(ours),
        "groups_equal": theirs == ours,
        "groups_of_torch_pruning_alone": sorted(map(sorted, theirs - ours)),
        "groups_of_ours_alone": sorted(map(sorted, ours - theirs)),
        "macs": {key: int(macs) for key, (macs, _) in counts.items()},
        "parameters": {key: int(parameters) for key, (_, parameters) in counts.items()},
        "seconds_groups": dict(zip(("torch_pruning", "ours"), least(graph_times), strict=True)),
        "seconds_pruning": dict(zip(("torch_pruning", "ours"), least(whole_times), strict=True)),
        "seconds_import_with_verification": import_time,
        "torch_pruning_failed": failure,
    }


# --- accuracy -----------------------------------------------------------------------------------


def train(module: nn.Module, images: Images, epochs: int, rate: float) -> None:
    """Adam with half a cosine; the same order of images for every module."""
    generator = torch.Generator().manual_seed(1)
    x, y = images.train
    steps = epochs * (len(x) // 128)
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    module.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(128)[: len(x) // 128]:
            optimiser.zero_grad()
            F.cross_entropy(module(x[chosen]), y[chosen]).backward()
            optimiser.step()
            schedule.step()


def accuracy(module: nn.Module, images: Images) -> float:
    """Share of test images that are right."""
    module.eval()
    with torch.no_grad():
        batches = zip(*(part.split(500) for part in images.test), strict=True)
        right = [(module(x).argmax(1) == y).sum() for x, y in batches]
    return float(torch.stack(right).sum()) / len(images.test[1])


def one_shot(epochs: int, again: int) -> dict[str, Any]:
    """Accuracy dense, right after pruning, and after the same retraining."""
    images = read_images("cifar10", build("resnet18", channels=3, size=32, n_classes=10))
    torch.manual_seed(0)
    module = resnet18(16)
    train(module, images, epochs, 3e-3)
    x = images.test[0][:2]
    module.eval()
    results: dict[str, Any] = {"network": "resnet18, width 16", "dense": accuracy(module, images)}
    pruned = {
        "torch_pruning": their_pruning("resnet18", module, x),
        "ours": to_torch(our_pruning("resnet18", from_torch(module, x))),
    }
    for key, smaller in pruned.items():
        before = accuracy(smaller, images)
        train(smaller, images, again, 1e-3)
        results[key] = {
            "parameters": sum(p.numel() for p in smaller.parameters()),
            "before_retraining": before,
            "after_retraining": accuracy(smaller, images),
        }
    return {**results, "epochs": epochs, "epochs_of_retraining": again}


def main() -> None:
    """Compare every network, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", action="store_true", help="accuracy on CIFAR-10 as well")
    parser.add_argument("--epochs", type=int, nargs=2, default=(4, 2))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "torch_pruning": tp.__version__, "channels_removed": RATIO, "networks": {},
    }  # fmt: skip
    for name in NETWORKS:
        row = results["networks"][name] = compare(name)
        print(
            f"{name:12} groups {row['groups']:3} {'equal' if row['groups_equal'] else 'differ':6}"
            f" parameters {row['parameters']} MACs {row['macs']}"
            f" s {row['seconds_groups']} {row['seconds_pruning']} {row['torch_pruning_failed']}"
        )
    if arguments.cifar:
        results["cifar10"] = one_shot(*arguments.epochs)
        print(results["cifar10"])
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
