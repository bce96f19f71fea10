"""The accuracy part of `pair`: CIFAR-10 after pruning and after retraining."""

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
from benchmarks.reporting import write_results
from benchmarks.torch_pruning_peer.halves import WEIGHTED, our_pruning, their_pruning
from evaluation.metrics.intervals import t_quantile
from pneumonia.compression.network_pruning import NetworkPruning
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
from pneumonia.network.zoo import build
from tests.network.torch_import.torch_networks import MobileNetV2, resnet18

CIFAR_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: small_stem(resnet18(16)),
    "mobilenetv2": lambda: small_stem(MobileNetV2()),
}
RHO = (10.0, 50.0, 250.0)  # penalties of ADMM, one after the other
UPDATES = 6  # Z-steps of ADMM in all
LEARNING_RATES = (3e-3, 1e-3)  # first of training, of retraining


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


def prune_by_admm(
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


def trained(name: str, seed: int, images: Images, epochs: int, file: Path) -> nn.Module:
    """The dense network, from the file if it is there; without dropout, which is not imported."""
    torch.manual_seed(seed)
    module = CIFAR_NETWORKS[name]()
    if file.is_file():
        module.load_state_dict(torch.load(file))
    else:
        train(module, images, whole(epochs), LEARNING_RATES[0], seed)
        torch.save(module.state_dict(), file)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


class Experiment(NamedTuple):
    """A trained network that every arm prunes and retrains."""

    name: str  # of `CIFAR_NETWORKS`
    seed: int  # of the weights and of the order of images
    module: nn.Module  # dense; not changed
    images: Images  # to train with and to test on
    epochs: int  # of retraining, those of ADMM included

    def imported(self) -> ImportedNetwork:
        """A fresh import."""
        return from_torch(self.module, self.images.test[0][:2])


def our_admm(task: Experiment) -> nn.Module:
    """ADMM in the first part of the epochs, to the number of weights of `our_pruning`."""
    smaller = to_torch(our_pruning(task.name, task.imported()))
    before, after = (
        sum(part.weight.numel() for part in m.modules() if isinstance(part, WEIGHTED))
        for m in (task.module, smaller)
    )
    part = Part(0, task.epochs // 2, task.epochs)
    return prune_by_admm(task.imported(), task.images, before / after, part, task.seed)


ARMS: dict[str, Callable[[Experiment], nn.Module]] = {
    "torch_pruning": lambda task: their_pruning(task.name, task.module, task.images.test[0][:2]),
    "ours": lambda task: to_torch(our_pruning(task.name, task.imported())),
    "ours_admm": our_admm,
}


def measured(module: nn.Module, images: Images) -> dict[str, Any]:
    """Size and accuracy."""
    macs, parameters = tp.utils.count_ops_and_params(module, images.test[0][:1])
    accuracy = float(right_answers(module, images).double().mean())
    return {"parameters": int(parameters), "macs": int(macs), "accuracy": accuracy}


def measured_arm(task: Experiment, arm: str) -> dict[str, Any]:
    """Size and accuracy of an arm, before and after retraining, and processor time of pruning."""
    begin = time.process_time()
    smaller = ARMS[arm](task)
    pruning_s = time.process_time() - begin
    row = measured(smaller, task.images)
    row["before_retraining"] = row.pop("accuracy")
    first = task.epochs // 2 if arm == "ours_admm" else 0
    part = Part(first, task.epochs, task.epochs)
    train(smaller, task.images, part, LEARNING_RATES[1], task.seed)
    row["after_retraining"] = float(right_answers(smaller, task.images).double().mean())
    return {**row, "pruning_s": pruning_s}


def one_row(
    name: str, seed: int, images: Images, lengths: tuple[int, int], file: Path
) -> dict[str, Any]:
    """One network and seed, dense and by every arm that the file does not have yet.

    Args:
        name: Of `CIFAR_NETWORKS`.
        seed: Of the weights and of the order of images.
        lengths: Epochs of training and of retraining.
        file: JSON of the row; the dense weights lie beside it.
    """
    row = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if all(arm in row for arm in ARMS):
        return row
    module = trained(name, seed, images, lengths[0], file.with_suffix(".pt"))
    row["dense"] = row.get("dense") or measured(module, images)
    task = Experiment(name, seed, module, images, lengths[1])
    for arm in ARMS:
        if arm not in row:
            row[arm] = measured_arm(task, arm)
            write_results(file, row)
            print(f"{name}, seed {seed}, {arm}: {row[arm]}", flush=True)
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
    seeds: Sequence[int], lengths: tuple[int, int], size: int, count: int, work: Path
) -> dict[str, Any]:
    """Accuracy on CIFAR-10 of both libraries: every seed, and the difference with its interval.

    Args:
        seeds: Trainings of each network of `CIFAR_NETWORKS`.
        lengths: Epochs of training and of retraining.
        size: Of the images in px.
        count: Training images.
        work: Folder of trained networks and finished rows.
    """
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
    for name, n_seeds in zip(CIFAR_NETWORKS, seeds, strict=True):
        rows = [
            one_row(name, seed, images, lengths, work / f"{name}-{seed}.json")
            for seed in range(n_seeds)
        ]
        found[name] = {"seeds": n_seeds, "summary": summarise(rows), "runs": rows}
    return found


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracy after retraining of every arm, and the differences to Torch-Pruning."""
    summary = {
        key: mean_and_interval([row[key]["after_retraining"] for row in rows]) for key in ARMS
    }
    for key in list(ARMS)[1:]:
        summary[f"{key}_minus_torch_pruning"] = mean_and_interval([
            row[key]["after_retraining"] - row["torch_pruning"]["after_retraining"]
            for row in rows
        ])  # fmt: skip
    return summary
