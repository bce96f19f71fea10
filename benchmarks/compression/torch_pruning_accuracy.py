"""The accuracy part of `torch_pruning_pair`: CIFAR-10 after pruning and after retraining."""

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

from benchmarks.compression.torch_pruning_halves import WEIGHTED, our_pruning, their_pruning
from benchmarks.compression.training import Images, read_images
from evaluation.metrics.intervals import t_quantile
from pneumonia.compression.admm.any_network import NetworkPruning
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
from pneumonia.network.zoo import build
from pneumonia.runtime.atomic import write_json
from tests.network.torch_networks import MobileNetV2, resnet18

CIFAR_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: small_stem(resnet18(16)),
    "mobilenetv2": lambda: small_stem(MobileNetV2()),
}
RHO = (5.0, 20.0, 80.0)  # penalties of ADMM, one after the other
UPDATES = 6  # Z-steps of ADMM in all
LEARNING_RATES = (3e-3, 1e-3)  # first of training, of retraining
ARMS = ("torch_pruning", "ours", "ours_filters", "ours_admm")


def small_stem(module: nn.Module) -> nn.Module:
    """The first convolution without its stride: images of 32 x 32 are small already."""
    stem = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    stem.stride = (1, 1)
    return module


class Part(NamedTuple):
    """Epochs `first` to before `last` of a training of `total` epochs."""

    first: int
    last: int
    total: int


def whole(epochs: int) -> Part:
    """A training in one part."""
    return Part(0, epochs, epochs)


def train(
    module: nn.Module,
    images: Images,
    part: Part,
    rate: float,
    seed: int,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Adam with half a cosine over the whole training; the same order of images for all."""
    generator = torch.Generator().manual_seed(seed)
    x, y = images.train
    per_epoch = len(x) // 128
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    module.train()
    for epoch in range(part.last):
        order = torch.randperm(len(x), generator=generator).split(128)[:per_epoch]
        if epoch < part.first:
            continue
        for step, chosen in enumerate(order, epoch * per_epoch):
            optimiser.param_groups[0]["lr"] = (
                rate * (1 + math.cos(math.pi * step / (part.total * per_epoch))) / 2
            )
            optimiser.zero_grad()
            F.cross_entropy(module(x[chosen]), y[chosen]).backward()
            optimiser.step()
            after_step(step)


def by_admm(
    found: ImportedNetwork, images: Images, rate: float, part: Part, seed: int
) -> nn.Module:
    """ADMM towards the sets that a rate of weights needs, then the hard masks and compaction."""
    plan = NetworkPruning(found, rate, rho=RHO[0])
    plan.start()
    steps = part.last * (len(images.train[0]) // 128)

    def after_step(step: int) -> None:
        plan.pull(LEARNING_RATES[1])
        done = (step + 1) * UPDATES // steps
        if done == step * UPDATES // steps:
            return
        plan.update()
        plan.set_rho(RHO[min(done * len(RHO) // UPDATES, len(RHO) - 1)])

    train(found, images, part, LEARNING_RATES[1], seed, after_step)
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


def trained(name: str, seed: int, images: Images, epochs: int, file: Path) -> nn.Module:
    """The dense network, from the file if it is there."""
    torch.manual_seed(seed)
    module = CIFAR_NETWORKS[name]()
    if file.is_file():
        module.load_state_dict(torch.load(file))
        return module
    train(module, images, whole(epochs), LEARNING_RATES[0], seed)
    torch.save(module.state_dict(), file)
    return module


def one_row(
    name: str, seed: int, images: Images, lengths: tuple[int, int], file: Path
) -> dict[str, Any]:
    """One network and seed: test images right dense, after pruning, and after retraining.

    Args:
        name: Of `CIFAR_NETWORKS`.
        seed: Of the weights and of the order of images.
        images: To train with and to test on.
        lengths: Epochs of training and of retraining.
        file: Of the trained weights.
    """
    module = trained(name, seed, images, lengths[0], file)
    dense = right_answers(module, images)
    x = images.test[0][:2]
    found = from_torch(module, x)
    pruned = {
        "torch_pruning": planned(lambda: their_pruning(name, module, x)),
        "ours": planned(lambda: to_torch(our_pruning(name, from_torch(module, x)))),
        "ours_filters": planned(
            lambda: to_torch(our_pruning(name, from_torch(module, x), "filters"))
        ),
    }
    weights = [
        sum(part.weight.numel() for part in m.modules() if isinstance(part, WEIGHTED))
        for m in (module, pruned["ours"].module)
    ]
    admm_epochs = lengths[1] // 2
    penalised = Part(0, admm_epochs, lengths[1])
    pruned["ours_admm"] = planned(
        lambda: by_admm(found, images, weights[0] / weights[1], penalised, seed)
    )
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
        left = Part(admm_epochs * (key == "ours_admm"), lengths[1], lengths[1])
        train(smaller, images, left, LEARNING_RATES[1], seed)
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


def cifar_images(size: int, count: int) -> Images:
    """CIFAR-10 with the first `count` training images; at 16 px each pixel is the mean of four."""
    found = read_images("cifar10", build("resnet18", channels=3, size=32, n_classes=10))
    x, y = found.train
    parts = ((x[:count], y[:count]), found.held_out, found.test)
    if size == 16:
        parts = tuple((F.avg_pool2d(images, 2), labels) for images, labels in parts)  # type: ignore[assignment]
    return Images(*((x.contiguous(memory_format=torch.channels_last), y) for x, y in parts))


def accuracies(
    seeds: int, lengths: tuple[int, int], size: int, count: int, work: Path
) -> dict[str, Any]:
    """Accuracy on CIFAR-10 of both libraries: every seed, and the difference with its interval."""
    work = work / f"{size}px-{count}-{lengths[0]}-{lengths[1]}"  # nothing of other settings
    work.mkdir(parents=True, exist_ok=True)
    images = cifar_images(size, count)
    found: dict[str, Any] = {
        "training_images": len(images.train[0]),
        "test_images": len(images.test[0]),
        "size_px": size,
        "epochs": lengths[0],
        "epochs_of_retraining": lengths[1],
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CIFAR_NETWORKS}
    for seed in range(seeds):
        for name in CIFAR_NETWORKS:
            file = work / f"{name}-{seed}.json"
            if not file.is_file():
                row = one_row(name, seed, images, lengths, file.with_suffix(".pt"))
                write_json(str(file), row)
            rows[name].append(json.loads(file.read_text(encoding="utf-8")))
            print(f"{name}, seed {seed}: {rows[name][-1]}", flush=True)
    for name, done in rows.items():
        found[name] = {"seeds": seeds, "summary": summarise(done), "runs": done}
    return found


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracy after retraining of every arm, and the differences to Torch-Pruning."""
    summary = {
        key: mean_and_interval([row[key]["after_retraining"] for row in rows]) for key in ARMS
    }
    for key in ARMS[1:]:
        summary[f"{key}_minus_torch_pruning"] = mean_and_interval([
            row[key]["after_retraining"] - row["torch_pruning"]["after_retraining"]
            for row in rows
        ])  # fmt: skip
    return summary
