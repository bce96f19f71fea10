"""Torch-Pruning and this package on the same networks: coupled groups, sizes, times, accuracy.

python -m benchmarks.compression.torch_pruning_pair [--cifar] [--seeds 3] [--epochs 4 3] \
    [--out FILE]

Both remove half of the channels of every group of coupled filters, those of least L2 norm, from
the same weights; parameters and MACs of both results are counted by Torch-Pruning's own counter,
ours as the module that `to_torch` gives. With --cifar, a narrow ResNet-18 and a MobileNetV2 are
trained, pruned by both at one shot, and both results are retrained in the same way, with several
seeds; a third arm prunes by ADMM to the same number of weights within the same number of epochs.
Times are processor seconds of one interleaved run, least of five. Needs `pip install torch-pruning`
(MIT).
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.compression.training import Images, read_images
from evaluation.metrics.intervals import t_quantile
from pneumonia.compression.admm.any_network import NetworkPruning
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
from pneumonia.network.zoo import build
from tests.network.torch_networks import NETWORKS, MobileNetV2, network, resnet18

RESULT = Path(__file__).parents[1] / "results" / "torch_pruning_pair.json"
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
RATIO = 0.5  # of the channels that go
REPEATS = 5
# Layers whose outputs leave the network. Of the transformer only the hidden layers of its MLPs are
# compared: Torch-Pruning narrows the residual stream as well, which changes its layer norms.
KEPT = {
    "resnet18": ("fc",), "resnet50": ("fc",), "mobilenetv2": ("classifier.1",),
    "densenet": ("fc",), "unet": ("head",), "yolo": ("box", "cls"),
}  # fmt: skip
CIFAR_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: small_stem(resnet18(16)),
    "mobilenetv2": lambda: small_stem(MobileNetV2()),
}
RHO = (5.0, 20.0, 80.0)  # penalties of ADMM, one after the other
UPDATES = 6  # Z-steps of ADMM in all
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


def small_stem(module: nn.Module) -> nn.Module:
    """The first convolution without its stride: images of 32 x 32 are small already."""
    stem = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    stem.stride = (1, 1)
    return module


def train(
    module: nn.Module,
    images: Images,
    epochs: int,
    rate: float,
    seed: int,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Adam with half a cosine; the same order of images for all."""
    generator = torch.Generator().manual_seed(seed)
    x, y = images.train
    per_epoch = len(x) // 128
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * per_epoch)
    module.train()
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator).split(128)[:per_epoch]
        for number, chosen in enumerate(order):
            optimiser.zero_grad()
            F.cross_entropy(module(x[chosen]), y[chosen]).backward()
            optimiser.step()
            after_step(epoch * per_epoch + number)
            schedule.step()


def by_admm(
    found: ImportedNetwork, images: Images, rate: float, epochs: int, seed: int
) -> nn.Module:
    """ADMM towards the sets that a rate of weights needs, then the hard masks and compaction."""
    plan = NetworkPruning(found, rate, rho=RHO[0])
    plan.start()
    steps = epochs * (len(images.train[0]) // 128)

    def after_step(step: int) -> None:
        plan.pull(1e-3)
        done = (step + 1) * UPDATES // steps
        if done == step * UPDATES // steps:
            return
        plan.update()
        plan.set_rho(RHO[min(done * len(RHO) // UPDATES, len(RHO) - 1)])

    train(found, images, epochs, 1e-3, seed, after_step)
    plan.harden()
    return to_torch(plan.compacted())


def right_answers(module: nn.Module, images: Images) -> Tensor:
    """Which test images are classified right: bool (N,)."""
    module.eval()
    with torch.no_grad():
        batches = zip(*(part.split(500) for part in images.test), strict=True)
        return torch.cat([module(x).argmax(1) == y for x, y in batches])


class PrunedModule(NamedTuple):
    """A pruned module, and the processor seconds that importing and pruning took."""

    module: nn.Module
    pruning_s: float


def planned(prune: Callable[[], nn.Module]) -> PrunedModule:
    """Prune, timed."""
    begin = time.process_time()
    module = prune()
    return PrunedModule(module, time.process_time() - begin)


def one_shot(name: str, seed: int, images: Images, lengths: tuple[int, int]) -> dict[str, Any]:
    """One network and seed: test images right dense, after pruning, and after retraining."""
    torch.manual_seed(seed)
    module = CIFAR_NETWORKS[name]()
    train(module, images, lengths[0], 3e-3, seed)
    dense = right_answers(module, images)
    x = images.test[0][:2]
    found = from_torch(module, x)
    pruned = {
        "torch_pruning": planned(lambda: their_pruning(name, module, x)),
        "ours": planned(lambda: to_torch(our_pruning(name, from_torch(module, x)))),
    }
    weights = [
        sum(part.weight.numel() for part in m.modules() if isinstance(part, WEIGHTED))
        for m in (module, pruned["ours"].module)
    ]
    admm_epochs = lengths[1] // 2
    begin = time.process_time()
    made = by_admm(found, images, weights[0] / weights[1], admm_epochs, seed)
    pruned["ours_admm"] = PrunedModule(made, time.process_time() - begin)
    macs, parameters = tp.utils.count_ops_and_params(module, x[:1])
    row: dict[str, Any] = {
        "dense": {
            "parameters": int(parameters),
            "macs": int(macs),
            "accuracy": float(dense.double().mean()),
        },
    }
    for key, (smaller, pruning_s) in pruned.items():
        macs, parameters = tp.utils.count_ops_and_params(smaller, x[:1])
        before = right_answers(smaller, images)
        train(smaller, images, lengths[1] - admm_epochs * (key == "ours_admm"), 1e-3, seed)
        after = right_answers(smaller, images)
        row[key] = {
            "parameters": int(parameters),
            "macs": int(macs),
            "pruning_s": pruning_s,
            "before_retraining": float(before.double().mean()),
            "after_retraining": float(after.double().mean()),
        }
    return row


def mean_and_interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over the seeds and its 95 % interval by Student's t; of one seed no interval."""
    if len(values) == 1:
        return {"mean": values[0]}
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def accuracies(seeds: int, lengths: tuple[int, int]) -> dict[str, Any]:
    """Accuracy on CIFAR-10 of both libraries: every seed, and the difference with its interval."""
    images = read_images("cifar10", build("resnet18", channels=3, size=32, n_classes=10))
    found: dict[str, Any] = {
        "training_images": len(images.train[0]),
        "test_images": len(images.test[0]),
        "epochs": lengths[0],
        "epochs_of_retraining": lengths[1],
    }
    for name in CIFAR_NETWORKS:
        rows = []
        for seed in range(seeds):
            rows.append(one_shot(name, seed, images, lengths))
            print(f"{name}, seed {seed}: {rows[-1]}", flush=True)
        found[name] = {"seeds": seeds, "summary": summarise(rows), "runs": rows}
    return found


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracy after retraining of every arm, and the differences to Torch-Pruning."""
    summary = {
        key: mean_and_interval([row[key]["after_retraining"] for row in rows])
        for key in ("torch_pruning", "ours", "ours_admm")
    }
    for key in ("ours", "ours_admm"):
        summary[f"{key}_minus_torch_pruning"] = mean_and_interval([
            row[key]["after_retraining"] - row["torch_pruning"]["after_retraining"]
            for row in rows
        ])  # fmt: skip
    return summary


def main() -> None:
    """Compare every network, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", action="store_true", help="accuracy on CIFAR-10 as well")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network")
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=(4, 3), help="of training, of retraining"
    )
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
        results["cifar10"] = accuracies(arguments.seeds, tuple(arguments.epochs))
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
