"""Accuracy, rate, bits and storage of every compression method on MNIST and CIFAR-10.

    python -m benchmarks.compression_tables --list
    python -m benchmarks.compression_tables --work runs/tables [--only lenet5/ ...] [--minutes 60]

Each job starts from another one (a dense training, or a milder rung of its ladder), keeps its
network under --work and is not run again: the table grows with the time one gives it. After every
job the JSON file, the page and the picture are written anew; rows of jobs whose network is not
under --work stay as they were recorded. A network is chosen on 5,000 images held out of the
training set; the test set is only measured. Published figures stand beside ours as goals. Data:
$PNEUMONIA_DATA (default ../shared/data); nothing runs without.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.compression_training import (
    BFLOAT16,
    HELD_OUT,
    Images,
    Run,
    Schedule,
    Start,
    accuracy,
    dense,
    irregular,
    logits_of,
    purified,
    quantized,
    read_images,
    structured,
    without_dead_paths,
)
from evaluation.hardware.plots import ParetoPoint, plot_pareto
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.storage_choice import smallest_storage, stored_bytes
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.compression.sets.levels import BINARY, TERNARY, Levels, k_bit
from pneumonia.network.accounting import account
from pneumonia.network.files import load_model, save_model
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes

RESULTS = Path(__file__).parent / "results" / "compression_tables.json"
PICTURE = RESULTS.with_suffix(".png")
PAGE = Path(__file__).parents[1] / "docs" / "compression_results.md"
GOAL_RATE, GOAL_ACCURACY = 200, 0.99
PRUNING = ("irregular", "structured", "narrow", "columns")  # in the names of jobs that prune
MIN_ZEROS = 0.02  # share of exact zeros from which a weight counts as pruned


class Job(NamedTuple):
    """One line of the table: what it starts from, what it does, what was published."""

    parent: str
    run: Run
    published: str
    schedule: Schedule = Schedule()
    group_size: int | None = None  # stored by columns that so many filters share; 0 = all


LENET = ("conv_000", "conv_002", "linear_005", "linear_006")


def keeps(*numbers: int) -> dict[str, int]:
    return dict(zip(LENET, numbers, strict=True))


def bits(*numbers: int) -> dict[str, Levels]:
    return {n: k_bit(b, "coded") for n, b in zip(LENET, numbers, strict=True)}


LENET_EXPONENTS = dict(zip(LENET, (0.35, 0.85, 1.15, 0.6), strict=True))
# Few weights are worth most in the second convolution; hidden units without a reader are wasted.
NARROW_EXPONENTS = dict(zip(LENET, (0.3, 0.65, 1.2, 0.65), strict=True))
NARROW = StructuredMethod(filter_share=0.9, group_size=0, round_to=1)
COLUMNS_ALONE = StructuredMethod(filter_share=0.0, group_size=0, round_to=1)
# Tiny networks cannot learn shifted digits besides the given ones; the dense one teaches them.
STEP = Schedule(4, 3, teacher=0.7)
SLOW = (1.0, 5.0, 25.0)  # few weights are left: the loss needs time to say which
GOAL = Schedule(6, 14, SLOW, teacher=0.7)
LONG = Schedule(8, 40, SLOW, retrain_rate=3e-3, teacher=0.7)
COLOUR = Schedule(4, 10, shift_px=4, retrain_rate=1e-3, teacher=0.5)
COLOUR_BITS = Schedule(4, 8, SLOW, shift_px=4, retrain_rate=1e-3, teacher=0.5)
PANELS = StructuredMethod(filter_share=0.5, group_size=16, round_to=8)
FINE = (0.3, 0.5, 0.7, 0.85, 0.95, 1.0)  # snaps of two levels: small, or they undo each other
JOBS: dict[str, Job] = {
    "lenet5/dense": Job(
        "", dense, "99.2 %", Schedule(retrain_epochs=8, retrain_rate=1e-3, shift_px=1)),
    "lenet5/structured-20": Job(
        "lenet5/dense", structured(20, LENET_EXPONENTS), "", STEP, 0),
    "lenet5/structured-60": Job(
        "lenet5/structured-20", structured(60, LENET_EXPONENTS), "88x at 99.2 %",
        Schedule(5, 10, teacher=0.7), 0),
    "lenet5/irregular-100": Job(
        "lenet5/structured-20", irregular(keeps(200, 1700, 2000, 400)), "85x at 99.2 %",
        Schedule(5, 8, SLOW, teacher=0.7)),
    "lenet5/structured-120": Job(
        "lenet5/structured-60", structured(120, LENET_EXPONENTS), "88x at 99.2 %", GOAL, 0),
    "lenet5/narrow-60": Job(
        "lenet5/structured-20", structured(60, NARROW_EXPONENTS, NARROW), "88x at 99.2 %",
        Schedule(4, 6, SLOW, retrain_rate=3e-3, teacher=0.7), 0),
    "lenet5/narrow-120": Job(
        "lenet5/narrow-60", structured(120, NARROW_EXPONENTS, NARROW), "88x at 99.2 %",
        Schedule(6, 14, SLOW, retrain_rate=3e-3, teacher=0.7), 0),
    "lenet5/narrow-200": Job(
        "lenet5/narrow-120", structured(200, NARROW_EXPONENTS, NARROW),
        "232x with purification, 99.0 %", LONG, 0),
    "lenet5/narrow-200-purified": Job(
        "lenet5/narrow-200", purified(0.01), "232x with purification, 99.0 %",
        Schedule(retrain_epochs=30, retrain_rate=3e-3, teacher=0.7), 0),
    "lenet5/columns-20": Job(
        "lenet5/dense", structured(20, LENET_EXPONENTS, COLUMNS_ALONE), "", STEP, 0),
    "lenet5/columns-20-purified": Job(
        "lenet5/columns-20", purified(0.03), "232x with purification, 99.0 %", STEP, 0),
    "lenet5/structured-60-purified": Job(
        "lenet5/structured-60", purified(0.03), "232x with purification, 99.0 %",
        Schedule(retrain_epochs=10, teacher=0.7), 0),
    "lenet5/4-bit": Job("lenet5/dense", quantized(k_bit(4)), "", Schedule(3, 3, SLOW)),
    "lenet5/ternary": Job(
        "lenet5/4-bit", quantized(TERNARY), "99.2 %", Schedule(3, 6, SLOW)),
    "lenet5/binary": Job(
        "lenet5/ternary", quantized(BINARY, FINE), "99.2 % (all layers)", Schedule(3, 8, SLOW)),
    "lenet5/irregular-200": Job(
        "lenet5/irregular-100", irregular(keeps(150, 800, 950, 245)), "246x at 99.0 %",
        Schedule(8, 40, SLOW, retrain_rate=3e-3, teacher=0.7)),
    "lenet5/irregular-200-quant": Job(
        "lenet5/irregular-200", quantized(bits(7, 6, 4, 6)),
        "1,910x smaller at 99.0 % (prune + 3.4 bits)", Schedule(3, 6, SLOW, teacher=0.7)),
    "lenet5/structured-60-quant": Job(
        "lenet5/structured-60", quantized(bits(7, 6, 4, 6)), "",
        Schedule(3, 6, SLOW, teacher=0.7), 0),
    "vgg16/dense": Job(
        "", dense, "93.5 % (full width, 50,000 images)",
        Schedule(retrain_epochs=40, shift_px=4)),
    "vgg16/structured-4": Job("vgg16/dense", structured(4, method=PANELS), "", COLOUR, 16),
    "vgg16/structured-8": Job(
        "vgg16/structured-4", structured(8, method=PANELS), "29.8x at -0.0 %", COLOUR, 16),
    "vgg16/irregular-10": Job("vgg16/dense", irregular(10.0), "", COLOUR),
    "vgg16/binary": Job(
        "vgg16/dense", quantized(BINARY, FINE), "93.5 % -> 93.5 %", COLOUR_BITS),
    "resnet18/dense": Job(
        "", dense, "93.5-95 % (full width, 50,000 images)",
        Schedule(retrain_epochs=24, shift_px=4)),
    "resnet18/structured-4": Job(
        "resnet18/dense", structured(4, method=PANELS), "", COLOUR, 16),
    "resnet18/structured-8": Job(
        "resnet18/structured-4", structured(8, method=PANELS), "20.9x-59.8x at -0.5 %", COLOUR,
        16),
    "resnet18/irregular-10": Job("resnet18/dense", irregular(10.0), "", COLOUR),
    "resnet18/binary": Job(
        "resnet18/dense", quantized(BINARY, FINE), "93.5 % -> 93.2 %", COLOUR_BITS),
    "lenet5/irregular-350": Job(
        "lenet5/irregular-200", irregular(keeps(110, 490, 460, 160)), "348x at 99.0 %",
        Schedule(6, 24, SLOW, retrain_rate=3e-3, teacher=0.7)),
}  # fmt: skip
NETWORKS = {
    "lenet5": ("mnist", {"channels": 1, "size": 28, "n_classes": 10, "width": 1.0}),
    "vgg16": ("cifar10", {"channels": 3, "size": 32, "n_classes": 10, "width": 0.25}),
    "resnet18": ("cifar10", {"channels": 3, "size": 32, "n_classes": 10, "width": 0.25}),
}


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def network_of(name: str) -> NetworkSpec:
    zoo = name.split("/", maxsplit=1)[0]
    return build(zoo, **NETWORKS[zoo][1])


def dense_weights(name: str) -> int:
    shapes = tensor_shapes(network_of(name))
    return sum(math.prod(shape) for key, shape in shapes.items() if key.endswith(".weight"))


def starting_network(name: str, work: Path) -> Network:
    """Parent network without dead paths: fewer weights to train, identical outputs."""
    job = JOBS[name]
    if not job.parent:
        network = Network(network_of(name))
        initialise(network, torch.Generator().manual_seed(0))
        return network
    spec, tensors = load_model(work / job.parent / "dense_form")
    network = Network(spec)
    network.load_tensors(tensors)
    return without_dead_paths(network)


def pruned_places(network: Network, parent: str) -> dict[str, Tensor]:
    """Masks of the weights that earlier jobs pruned; zeros of ternary weights are levels."""
    if not any(method in parent for method in PRUNING):
        return {}
    found = {name: weight.detach() != 0 for name, weight in network.weights().items()}
    return {n: m for n, m in found.items() if float((~m).float().mean()) >= MIN_ZEROS}


def stored_network(
    network: Network, group_size: int | None
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """What a run of this network would store: dead paths gone, smallest format of each layer."""
    tensors = {n: t.detach().clone().contiguous() for n, t in network.tensors().items()}
    groups = None if group_size is None else dict.fromkeys(network.weights(), group_size)
    spec, tensors = compact(network.spec, tensors, group_sizes=groups)
    return smallest_storage(spec, tensors), tensors


def measure(
    name: str, network: Network, images: Images
) -> tuple[dict[str, object], NetworkSpec, dict[str, Tensor]]:
    """All columns of the table for a network except the run time."""
    job = JOBS[name]
    spec, tensors = stored_network(network, job.group_size)
    stored = Network(spec)
    stored.load_tensors(tensors)
    test = accuracy(stored, images.test)
    low, high = wilson(test, len(images.test[1]))
    layers = spec.weighted()
    total = dense_weights(name)
    kept = account(spec, tensors).totals.kept_weights
    taken = sum(stored_bytes(layer, tensors[f"{layer.name}.weight"].numpy()) for layer in layers)
    n_bits = sum(
        layer.storage.bits * int(tensors[f"{layer.name}.weight"].count_nonzero())
        for layer in layers
    )
    return {
        "job": name, "test_accuracy": round(test, 5), "ci95": [round(low, 5), round(high, 5)],
        "held_out_accuracy": round(accuracy(stored, images.held_out), 5),
        "weights": total, "kept": kept, "rate": round(total / kept, 2),
        "mean_bits": round(n_bits / max(kept, 1), 2),
        "bits": {layer.name: layer.storage.bits for layer in layers},
        "storage": {layer.name: layer.storage.format for layer in layers},
        "bytes_with_indices": taken, "data_reduction": round(4 * total / taken, 1),
        "published": job.published, "schedule": job.schedule._asdict(),
    }, spec, tensors  # fmt: skip


def run_job(name: str, work: Path, images: Images) -> None:
    job, folder = JOBS[name], work / name
    network = starting_network(name, work)
    teacher = None
    if job.schedule.teacher > 0:
        spec, tensors = load_model(work / name.split("/", maxsplit=1)[0] / "dense" / "dense_form")
        best = Network(spec)
        best.load_tensors(tensors)
        teacher = logits_of(best, images.train[0]).clone()
    total = dense_weights(name)
    start = Start(network, pruned_places(network, job.parent), images, job.schedule, total, teacher)
    clock, cpu = time.perf_counter(), time.process_time()
    network = job.run(start)
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    row, spec, tensors = measure(name, network, images)
    save_model(folder / "dense_form", network.spec, network.tensors())
    save_model(folder / "stored", spec, tensors)
    row |= {
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "torch": torch.__version__, "bfloat16": BFLOAT16,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(row, indent=1) + "\n")
    print(
        f"{name}: held out {row['held_out_accuracy']:.4f}, test {row['test_accuracy']:.4f} "
        f"at {row['rate']}x, {row['bytes_with_indices']} B, {cpu:.0f} s of CPU",
        flush=True,
    )


HEAD = """# Compression methods, measured the same way

Written by `python -m benchmarks.compression_tables`; every row is one job of that script, chosen on
{held_out:,} images held out of the training set and measured once on the test set (10,000 images,
95 % Wilson interval). **These are small public image sets, not radiographs.**

* rate = weights of the dense network / weights stored, all layers counted, dead paths removed
* bits = mean of the stored weights that are not zero
* kB = weights with all indices and scales, as the file holds them (without its header, biases and
  batch norm); smaller = the dense float32 weights over that
* CPU = this job alone, on one core; it starts from the job named "from"
* published = what the literature reports for the same kind of constraint, mostly with far longer
  training: the goal, not our result

| job | from | rate | bits | kB | smaller | test accuracy | 95 % | CPU, min | published |
|---|---|---|---|---|---|---|---|---|---|
"""
FOOT = """
![LeNet-5: test accuracy against how much smaller](../benchmarks/results/compression_tables.png)

{reached}
LeNet-5 is the 20-50-500-10 network of the pruning literature (430,500 weights) on MNIST. Jobs with
a teacher (its share is in `schedule` of the JSON file) learn from the dense network's logits.
Training is in bfloat16 where the processor computes it (`bfloat16` in the JSON file; rows without
that key were, too), so the minutes of rows of different machines do not compare.
"""
FOOT_COLOUR = """
vgg16 and resnet18 are narrow (width {width}) and trained for {epochs} epochs on 25,000 CIFAR-10
images that went through lossy JPEG: their rows compare the methods with each other, and are **not**
comparable with the published full-width figures beside them.
"""


def recorded_rows(work: Path) -> list[dict[str, Any]]:
    """Rows of all jobs: from --work where it has the job, else as they were recorded."""
    rows = {row["job"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.is_file() else {}
    for name in JOBS:
        result = work / name / "result.json"
        if result.is_file():
            rows[name] = json.loads(result.read_text())
    return [rows[name] for name in JOBS if name in rows]


def kind_of(name: str) -> str:
    """Colour of a job in the picture."""
    for word, kind in (
        ("-quant", "pruned and quantized"), ("irregular", "irregular"), ("dense", "dense"),
        ("bit", "quantized"), ("nary", "quantized"),
    ):  # fmt: skip
        if word in name:
            return kind
    return "structured"


def write_picture(rows: list[dict[str, Any]]) -> None:
    """LeNet-5: test accuracy against how much smaller the stored weights are."""
    own = [row for row in rows if row["job"].startswith("lenet5/")]
    points = [
        ParetoPoint(
            row["job"].split("/")[1], kind_of(row["job"]), row["data_reduction"],
            *(100 * share for share in (row["test_accuracy"], *row["ci95"])),
        )
        for row in own
    ]  # fmt: skip
    PICTURE.write_bytes(
        plot_pareto(points, "LeNet-5 on MNIST, test accuracy, %", "times smaller, indices included")
    )


def reached(rows: list[dict[str, Any]]) -> str:
    """Text: largest LeNet-5 rate at the accuracy goal, irregular and structured."""
    lines = []
    for kind in ("irregular", "structured"):
        own = [r for r in rows if r["job"].startswith("lenet5/") and kind_of(r["job"]) == kind]
        good = [r for r in own if r["test_accuracy"] >= GOAL_ACCURACY]
        best = max(good, key=lambda row: row["rate"], default=None)
        if best is None:
            continue
        verdict = "reached" if best["rate"] >= GOAL_RATE else "**not reached**"
        lines.append(
            f"Goal of {GOAL_RATE}x at {GOAL_ACCURACY:.1%} test accuracy, {kind}: {verdict}; "
            f"largest rate at that accuracy {best['rate']:.1f}x ({best['job'].split('/')[1]}, "
            f"{best['test_accuracy']:.2%})."
        )
    return "\n".join(lines) + "\n"


def write_tables(work: Path) -> None:
    """The JSON results, the page and the picture: every finished job."""
    rows = recorded_rows(work)
    if not rows:
        return
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_picture(rows)
    lines = []
    for row in rows:
        low, high = row["ci95"]
        lines.append(
            f"| {row['job']} | {JOBS[row['job']].parent.split('/')[-1]} | {row['rate']:.1f} "
            f"| {row['mean_bits']:.1f} | {row['bytes_with_indices'] / 1000:.2f} "
            f"| {row['data_reduction']:.0f}x | {row['test_accuracy']:.2%} "
            f"| {low:.2%} .. {high:.2%} | {row['cpu_seconds'] / 60:.1f} | {row['published']} |"
        )
    epochs = " and ".join(
        str(JOBS[f"{zoo}/dense"].schedule.retrain_epochs) for zoo in ("vgg16", "resnet18")
    )
    width = NETWORKS["vgg16"][1]["width"]
    in_colour = any(not row["job"].startswith("lenet5/") for row in rows)
    foot = FOOT.format(reached=reached(rows))
    PAGE.write_text(
        HEAD.format(held_out=HELD_OUT) + "\n".join(lines) + "\n" + foot
        + (FOOT_COLOUR.format(width=width, epochs=epochs) if in_colour else "")
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/tables"))
    parser.add_argument("--only", nargs="*", help="jobs, or prefixes such as lenet5/")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no job after so long")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(JOBS))
        return
    images: dict[str, Images] = {}
    begin = time.perf_counter()
    for name, job in JOBS.items():
        wanted = not options.only or any(name.startswith(only) for only in options.only)
        done = (options.work / name / "result.json").is_file()
        ready = not job.parent or (options.work / job.parent / "result.json").is_file()
        late = time.perf_counter() - begin > 60 * options.minutes
        if not wanted or done or not ready or late:
            continue
        data = NETWORKS[name.split("/")[0]][0]
        if data not in images:
            images = {data: read_images(data, network_of(name))}  # one data set in memory
        run_job(name, options.work, images[data])
        write_tables(options.work)
    write_tables(options.work)


if __name__ == "__main__":
    main()
