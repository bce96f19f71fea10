"""Accuracy, rate, bits and storage of every compression method on MNIST and CIFAR-10.

    python -m benchmarks.compression_tables --list
    python -m benchmarks.compression_tables --work runs/tables [--only lenet5/irregular-200]

Each job starts from another one (a dense training, or a milder rung of its ladder), keeps its
network under --work and is not run again: the table grows with the time one gives it. A network
is chosen on images held out of the training set; the test set is only measured. Published figures
stand beside ours as goals. Data: $PNEUMONIA_DATA (default ../shared/data); nothing runs without.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pneumonia.compression.admm import Admm
from pneumonia.compression.bn_reestimate import reestimate_batch_norm
from pneumonia.compression.compaction import compact
from pneumonia.compression.constraint import JointConstraint, PerLayer
from pneumonia.compression.coupling import ChannelGraph
from pneumonia.compression.methods.irregular import Irregular
from pneumonia.compression.methods.quantize import (
    BINARY,
    TERNARY,
    Levels,
    Quantized,
    best_scale,
    k_bit,
)
from pneumonia.compression.network_set import realised_weights
from pneumonia.compression.rates import LayerRates, Situation, plan_rate
from pneumonia.compression.snap import ProgressiveSnap
from pneumonia.compression.storage_choice import smallest_storage
from pneumonia.compression.structured_method import StructuredMethod
from pneumonia.network.files import load_model, save_model
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build
from pneumonia.runtime.spec import NetworkSpec

RESULTS = Path(__file__).parent / "results" / "compression_tables"
HELD_OUT = 5000
BATCH = 128


class Images(NamedTuple):
    """Normalised float32 images (N, C, H, W) and int64 labels (N,) of three parts."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Schedule(NamedTuple):
    """Epochs of the two halves of a job, and rho of the first."""

    admm_epochs: int = 6
    retrain_epochs: int = 10
    rho: tuple[float, ...] = (1e-2, 1e-1, 1.0)  # Adam drowns less
    updates_per_epoch: int = 4
    learning_rate: float = 1e-3
    shift_px: int = 1  # training images are moved by up to so many pixels


class Start(NamedTuple):
    """Where a job begins."""

    network: Network
    masks: dict[str, Tensor]
    images: Images
    schedule: Schedule


class Job(NamedTuple):
    """One line of the table: what it starts from, what it does, what was published."""

    parent: str
    run: Callable[[Start], dict[str, Tensor]]
    published: str
    schedule: Schedule = Schedule()
    structured: bool = False


# --- data ---------------------------------------------------------------------------------------


def data_root() -> Path:
    return Path(os.environ.get("PNEUMONIA_DATA", Path(__file__).parents[2] / "shared" / "data"))


def _read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    if folder.name == "mnist":
        file = np.load(folder / f"mnist_{part}.npz")
        return file["images"][:, None], file["labels"]
    import io

    from PIL import Image

    file = np.load(folder / f"cifar10_{part}_jpeg.npz")
    blob, offsets = file["blob"], file["offsets"]
    images = [
        np.asarray(Image.open(io.BytesIO(blob[a:b].tobytes())).convert("RGB"))
        for a, b in pairwise(offsets)
    ]
    return np.stack(images).transpose(0, 3, 1, 2), file["labels"]


def read_images(name: str, spec: NetworkSpec) -> Images:
    folder = data_root() / name
    if not folder.is_dir():
        print(f"skipped: no {name} in {data_root()} (set PNEUMONIA_DATA)")
        sys.exit(0)
    parts = []
    for part in ("train", "test"):
        images, labels = _read(folder, part)
        values = torch.from_numpy(images.copy()).float().div_(255)
        values = (values - spec.input.mean) / spec.input.std
        parts.append((values, torch.from_numpy(labels.astype(np.int64))))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(parts[0][1])))
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    train, test = parts
    return Images((train[0][kept], train[1][kept]), (train[0][held], train[1][held]), test)


# --- training -----------------------------------------------------------------------------------


@torch.inference_mode()
def accuracy(network: Network, part: tuple[Tensor, Tensor]) -> float:
    network.eval()
    output = network.spec.outputs[0]
    hits = [
        (network(images)[output].argmax(1) == labels).sum()
        for images, labels in zip(part[0].split(1000), part[1].split(1000), strict=True)
    ]
    return float(torch.stack(hits).sum()) / len(part[1])


def augmented(images: Tensor, shift_px: int, generator: torch.Generator) -> Tensor:
    """Shift each quarter of the batch; colour images are flipped, too."""
    if images.shape[1] == 3:
        flip = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if shift_px == 0:
        return images
    size, padded = images.shape[2], F.pad(images, (shift_px,) * 4)
    places = torch.randint(0, 2 * shift_px + 1, (4, 2), generator=generator).tolist()
    return torch.cat(
        [
            part[:, :, y : y + size, x : x + size]
            for part, (y, x) in zip(padded.chunk(4), places, strict=True)
        ]
    )


def train(
    start: Start,
    epochs: int,
    *,
    after_backward: Callable[[], None] = lambda: None,
    after_step: Callable[[], None] = lambda: None,
    every: int = 0,
    update: Callable[[], None] = lambda: None,
    select: bool = False,
) -> None:
    """Adam with half a cosine; `select` ends with the best weights on the held-out images."""
    network, (images, labels) = start.network, start.images.train
    output = network.spec.outputs[0]
    optimiser = torch.optim.Adam(network.parameters(), lr=start.schedule.learning_rate)
    generator = torch.Generator().manual_seed(1)
    n_steps = epochs * (len(labels) // BATCH)
    step, best = 0, (-1.0, {})
    for _ in range(epochs):
        network.train()
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            if len(batch) < BATCH:
                continue
            for group in optimiser.param_groups:
                cosine = 0.5 * (1 + np.cos(np.pi * step / n_steps))
                group["lr"] = start.schedule.learning_rate * (0.02 + 0.98 * cosine)
            inputs = augmented(images[batch], start.schedule.shift_px, generator)
            logits = network(inputs)[output].flatten(1)
            optimiser.zero_grad()
            F.cross_entropy(logits, labels[batch]).backward()
            after_backward()
            optimiser.step()
            after_step()
            step += 1
            if every and step % every == 0:
                update()
        if select:
            score = accuracy(network, start.images.held_out)
            if score >= best[0]:
                best = (score, {k: v.clone() for k, v in network.state_dict().items()})
    if select:
        network.load_state_dict(best[1])


@torch.no_grad()
def hold(network: Network, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        network.weights()[name].masked_fill_(~mask, 0.0)


def run_admm(start: Start, splits: list[JointConstraint]) -> None:
    """The ADMM half: one round per rho; what an earlier rung removed stays zero."""
    network, plan = start.network, start.schedule
    engine = Admm(splits, plan.rho[0])
    engine.start(network.weights())
    per_epoch = len(start.images.train[1]) // BATCH
    every = per_epoch // plan.updates_per_epoch
    n_updates = plan.admm_epochs * plan.updates_per_epoch
    done = 0

    def update() -> None:
        nonlocal done
        engine.update(network.weights())
        done += 1
        now = plan.rho[min(done * len(plan.rho) // n_updates, len(plan.rho) - 1)]
        if now != engine.rho:
            engine.set_rho(now, network.weights(), "rescale")

    train(
        start, plan.admm_epochs, every=every, update=update,
        after_backward=lambda: engine.add_penalty_gradient(network.weights()),
        after_step=lambda: hold(network, start.masks),
    )  # fmt: skip


# --- methods ------------------------------------------------------------------------------------


def dense(start: Start) -> dict[str, Tensor]:
    train(start, start.schedule.retrain_epochs, select=True)
    return {}


def irregular(keep: Mapping[str, int]) -> Callable[[Start], dict[str, Tensor]]:
    def run(start: Start) -> dict[str, Tensor]:
        constraint = PerLayer({name: Irregular(n) for name, n in keep.items()})
        run_admm(start, [constraint])
        weights = {n: w.detach() for n, w in start.network.weights().items()}
        masks = {name: p.mask for name, p in constraint.project(weights).items()}
        return retrain(start, {n: m & start.masks.get(n, m) for n, m in masks.items()})

    return run


def retrain(start: Start, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    hold(start.network, masks)
    train(
        start, start.schedule.retrain_epochs, select=True,
        after_step=lambda: hold(start.network, masks),
    )  # fmt: skip
    hold(start.network, masks)
    return masks


def structured(
    rate: float, exponents: Mapping[str, float], filter_share: float = 0.6, group_size: int = 0
) -> Callable[[Start], dict[str, Tensor]]:
    def run(start: Start) -> dict[str, Tensor]:
        graph = ChannelGraph(start.network.spec)
        method = StructuredMethod(filter_share=filter_share, group_size=group_size, round_to=1)
        rates = LayerRates(dict(exponents), {})

        def plan() -> dict[str, Tensor]:
            weights = {n: w.detach() for n, w in start.network.weights().items()}
            total = sum(weight.numel() for weight in weights.values())
            situation = Situation(graph, weights, start.masks, total)
            return plan_rate(situation, method, rates, rate)

        run_admm(start, list(plan().sets.splits))
        return retrain(start, plan().masks)

    return run


def quantized(
    levels: Mapping[str, Levels] | Levels, shares: tuple[float, ...] = (0.5, 0.75, 0.875, 1.0)
) -> Callable[[Start], dict[str, Tensor]]:
    """ADMM towards levels, then progressive snap until every weight is on one."""

    def run(start: Start) -> dict[str, Tensor]:
        weights = {n: w.detach() for n, w in start.network.weights().items()}
        chosen = {n: levels[n] if isinstance(levels, Mapping) else levels for n in weights}
        alive = {
            n: start.masks.get(n, torch.ones_like(w, dtype=torch.bool)) for n, w in weights.items()
        }
        sets = {n: Quantized(chosen[n], alive[n]) for n in weights}
        run_admm(start, [PerLayer(sets)])
        fixed = {n: Quantized(chosen[n], alive[n], best_scale(weights[n][alive[n]], chosen[n]))
                 for n in weights}  # fmt: skip
        snapping = ProgressiveSnap(start.network.weights(), fixed)
        before = 0.0
        for share in shares:
            snapping.advance(1.0 if share == 1 else (share - before) / (1 - before))
            before = share
            epochs = max(1, start.schedule.retrain_epochs // len(shares))
            train(start, epochs, after_step=snapping.hold, select=True)
            snapping.hold()
        assert snapping.fixed_share() == 1.0
        batches = start.images.train[0][: 200 * BATCH].split(BATCH)
        reestimate_batch_norm(start.network, batches)
        return start.masks

    return run


LENET = ("conv_000", "conv_002", "linear_005", "linear_006")


def keeps(*numbers: int) -> dict[str, int]:
    return dict(zip(LENET, numbers, strict=True))


def bits(*numbers: int) -> dict[str, Levels]:
    return {n: k_bit(b, "coded") for n, b in zip(LENET, numbers, strict=True)}


LENET_EXPONENTS = dict(zip(LENET, (0.35, 0.85, 1.15, 0.6), strict=True))
LONG = Schedule(admm_epochs=9, retrain_epochs=24, shift_px=1)
JOBS: dict[str, Job] = {
    "lenet5/dense": Job("", dense, "99.2 %", Schedule(retrain_epochs=15)),
    "lenet5/irregular-40": Job(
        "lenet5/dense", irregular(keeps(300, 3500, 6200, 800)), "40x-85x at 99.2 %"),
    "lenet5/irregular-120": Job(
        "lenet5/irregular-40", irregular(keeps(190, 1250, 1750, 390)), "120x-167x at 99.2 %"),
    "lenet5/irregular-200": Job(
        "lenet5/irregular-120", irregular(keeps(150, 800, 950, 245)), "167x-246x at 99.0 %", LONG),
    "lenet5/irregular-200-quant": Job(
        "lenet5/irregular-200", quantized(bits(7, 6, 4, 6)),
        "prune + 3.4-bit mean, 1,910x data reduction at 99.0 %"),
    "lenet5/4-bit": Job("lenet5/dense", quantized(k_bit(4)), ""),
    "lenet5/ternary": Job("lenet5/4-bit", quantized(TERNARY), "ternary 99.2 %"),
    "lenet5/binary": Job(
        "lenet5/ternary", quantized(BINARY), "fully binary 99.2 % (all layers)", LONG),
    "lenet5/structured-20": Job(
        "lenet5/dense", structured(20, LENET_EXPONENTS), "", structured=True),
    "lenet5/structured-60": Job(
        "lenet5/structured-20", structured(60, LENET_EXPONENTS), "88x at 99.2 %", LONG, True),
    "lenet5/structured-100": Job(
        "lenet5/structured-60", structured(100, LENET_EXPONENTS), "88x at 99.2 %", LONG, True),
    "lenet5/structured-160": Job(
        "lenet5/structured-100", structured(160, LENET_EXPONENTS), "232x + purification",
        LONG, True),
    "lenet5/structured-100-quant": Job(
        "lenet5/structured-100", quantized(bits(7, 6, 4, 6)), "", structured=True),
    "lenet5/irregular-300": Job(
        "lenet5/irregular-200", irregular(keeps(120, 570, 560, 180)), "348x at 99.0 %", LONG),
    "lenet5/irregular-350": Job(
        "lenet5/irregular-300", irregular(keeps(110, 490, 460, 160)), "348x at 99.0 %", LONG),
    "resnet18/dense": Job("", dense, "93.5-95 % (full width, 50k images)", Schedule(
        retrain_epochs=15)),
    "resnet18/irregular-10": Job("resnet18/dense", lambda start: irregular(
        {n: max(16, w.numel() // 10) for n, w in start.network.weights().items()})(start),
        "", Schedule(4, 6, shift_px=4)),
    "resnet18/structured-6": Job("resnet18/dense", lambda start: structured(
        6, {n: 0.5 if n == "conv_000" else 1.0 for n in start.network.weights()}, 0.5, 16)(start),
        "20.9x-59.8x at -0.5 %", Schedule(4, 6, shift_px=4), True),
    "resnet18/binary": Job(
        "resnet18/dense", quantized(BINARY, (0.5, 1.0)), "fully binary 93.5 % -> 93.2 %",
        Schedule(4, 6, shift_px=4)),
}  # fmt: skip
NETWORKS = {
    "lenet5": ("mnist", {"channels": 1, "size": 28, "n_classes": 10, "width": 1.0}),
    "resnet18": ("cifar10", {"channels": 3, "size": 32, "n_classes": 10, "width": 0.25}),
}


# --- table --------------------------------------------------------------------------------------


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def report(name: str, job: Job, start: Start, masks: dict[str, Tensor], seconds: float) -> dict:
    network = start.network
    tensors = {n: t.detach().clone() for n, t in network.tensors().items()}
    weights = {n: w.detach() for n, w in network.weights().items()}
    total = sum(w.numel() for w in weights.values())
    kept = sum(int(torch.count_nonzero(w)) for w in weights.values())
    spec = network.spec
    realised = total / kept
    if job.structured:
        alive = {n: w != 0 for n, w in weights.items()}
        realised = total / sum(realised_weights(ChannelGraph(spec), alive).values())
        groups = dict.fromkeys(weights, 0)
        spec, tensors = compact(spec, tensors, alive, groups)
    spec = smallest_storage(spec, tensors)
    test = accuracy(network, start.images.test)
    low, high = wilson(test, len(start.images.test[1]))
    return {
        "job": name, "test_accuracy": round(test, 5), "ci95": [round(low, 5), round(high, 5)],
        "held_out_accuracy": round(accuracy(network, start.images.held_out), 5),
        "weights": total, "kept": kept, "rate": round(total / kept, 2),
        "realised_rate": round(realised, 2),
        "bits": {layer.name: layer.storage.bits for layer in spec.weighted()},
        "storage": {layer.name: layer.storage.format for layer in spec.weighted()},
        "published": job.published, "seconds": round(seconds, 1),
        "schedule": job.schedule._asdict(),
        "_spec": spec, "_tensors": tensors,
    }  # fmt: skip


def network_of(name: str) -> NetworkSpec:
    zoo = name.split("/", maxsplit=1)[0]
    return build(zoo, **NETWORKS[zoo][1])


def run_job(name: str, work: Path, images: Images) -> None:
    job, folder = JOBS[name], work / name
    network = Network(network_of(name))
    masks: dict[str, Tensor] = {}
    if job.parent:
        _, tensors = load_model(work / job.parent / "dense_form")
        network.load_tensors(tensors)
        sparse = not job.parent.endswith(("dense", "bit", "ternary", "binary"))
        if sparse:
            masks = {n: w.detach() != 0 for n, w in network.weights().items()}
    else:
        initialise(network, torch.Generator().manual_seed(0))
    start = Start(network, masks, images, job.schedule)
    clock = time.perf_counter()
    masks = job.run(start)
    row = report(name, job, start, masks, time.perf_counter() - clock)
    save_model(folder / "dense_form", network.spec, network.tensors())
    spec, tensors = row.pop("_spec"), row.pop("_tensors")
    save_model(folder / "stored", spec, tensors)
    row["file_bytes"] = (folder / "stored" / "weights.safetensors").stat().st_size
    row["dense_file_bytes"] = (folder / "dense_form" / "weights.safetensors").stat().st_size
    (folder / "result.json").write_text(json.dumps(row, indent=1) + "\n")
    print(f"{name}: {row['test_accuracy']:.4f} at {row['realised_rate']}x, "
          f"{row['file_bytes']} B, {row['seconds']} s", flush=True)  # fmt: skip


def write_table(work: Path) -> None:
    """results/compression_tables.{json,md}: every finished job; unfinished ones are not listed."""
    rows = [
        json.loads((work / name / "result.json").read_text())
        for name in JOBS
        if (work / name / "result.json").is_file()
    ]
    if not rows:
        return
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        "# Compression methods, measured the same way", "",
        "Test accuracy with its 95 % Wilson interval (10,000 images); rate = weights / stored "
        "weights after dead paths were removed, all layers counted; file = weights.safetensors "
        "with all indices, against the dense float32 file. resnet18 is width 0.25 on the 30,000 "
        "images there are: not comparable with published full-width figures. Published = figures "
        "of the literature for the same kind of constraint.", "",
        "| job | rate | bits | file, kB | smaller | test accuracy | 95 % | min | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        used = sorted(set(row["bits"].values()))
        smaller = row["dense_file_bytes"] / row["file_bytes"]
        lines.append(
            f"| {row['job']} | {row['realised_rate']:.1f} | {'/'.join(map(str, used))} "
            f"| {row['file_bytes'] / 1000:.1f} | {smaller:.1f}x "
            f"| {row['test_accuracy']:.2%} | {row['ci95'][0]:.2%} .. {row['ci95'][1]:.2%} "
            f"| {row['seconds'] / 60:.1f} | {row['published']} |"
        )
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/tables"))
    parser.add_argument("--only", nargs="*", help="jobs, or prefixes such as lenet5/")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(JOBS))
        return
    images: dict[str, Images] = {}
    for name, job in JOBS.items():
        wanted = not options.only or any(name.startswith(only) for only in options.only)
        done = (options.work / name / "result.json").is_file()
        ready = not job.parent or (options.work / job.parent / "result.json").is_file()
        if not wanted or done or not ready:
            continue
        data = NETWORKS[name.split("/")[0]][0]
        if data not in images:
            images[data] = read_images(data, network_of(name))
        run_job(name, options.work, images[data])
        write_table(options.work)
    write_table(options.work)


if __name__ == "__main__":
    main()
