"""Accuracy, rate, bits and storage of every compression method on MNIST and CIFAR-10.

    python -m benchmarks.compression.tables --list
    python -m benchmarks.compression.tables --work runs/tables [--only lenet5/ ...] [--minutes 60]

Each job starts from another one (a dense training, or a milder rung of its ladder), keeps its
network under --work and is not run again: the table grows with the time one gives it. After every
job the JSON file, the page and the picture are written anew; rows of jobs whose network is not
under --work stay as they were recorded. A network is chosen on 5,000 images held out of the
training set; the test set is only measured. Published figures stand beside ours as goals. Data:
$PNEUMONIA_DATA (default ../shared/data); nothing runs without.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.compression.jobs import JOBS, NETWORKS, dense_weights, network_of
from benchmarks.compression.methods import Schedule, Start, remove_dead_paths
from benchmarks.compression.page import write_tables
from benchmarks.compression.training import (
    BFLOAT16,
    Distorted,
    Fresh,
    Images,
    Samples,
    accuracy,
    read_images,
)
from benchmarks.reporting import argument_parser, write_results
from evaluation.metrics.intervals import wilson
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.storage_choice import smallest_storage, stored_bytes
from pneumonia.compression.quantize.mismatch import simulate_chips
from pneumonia.network.accounting import account
from pneumonia.network.files import load_model, save_model
from pneumonia.network.module import Network, initialise
from pneumonia.runtime.model.spec import NetworkSpec

PRUNING = (
    "irregular", "structured", "narrow", "grouped", "columns", "filters", "kernels", "darb",
    "crossbar",
)  # fmt: skip
CHIP_SIGMA = 0.1  # deviation of a programmed state, in steps between states
MIN_ZEROS = 0.02  # share of exact zeros from which a weight counts as pruned


def folder_of(name: str, seed: int, work: Path) -> Path:
    return work / name / f"seed{seed}"


def loaded(folder: Path) -> Network:
    spec, tensors = load_model(folder)
    network = Network(spec)
    network.load_tensors(tensors)
    return network


def starting_network(name: str, seed: int, work: Path) -> Network:
    """Parent network without dead paths: fewer weights to train, identical outputs."""
    parent = JOBS[name].parent
    if parent:
        return remove_dead_paths(loaded(folder_of(parent, seed, work) / "dense_form"))
    network = Network(network_of(name))
    initialise(network, torch.Generator().manual_seed(seed))
    return network


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
    name: str, seed: int, network: Network, images: Images
) -> tuple[dict[str, object], NetworkSpec, dict[str, Tensor]]:
    """All columns of the table for a network except the run time."""
    job = JOBS[name]
    spec, tensors = stored_network(network, job.group_size)
    stored = Network(spec)
    stored.load_tensors(tensors)
    test = accuracy(stored, images.test)
    n_test = len(images.test[1])
    low, high = wilson(test * n_test, n_test)
    layers = spec.weighted()
    total = dense_weights(name)
    kept = account(spec, tensors).totals.kept_weights
    taken = sum(stored_bytes(layer, tensors[f"{layer.name}.weight"].numpy()) for layer in layers)
    n_bits = sum(
        layer.storage.bits * int(tensors[f"{layer.name}.weight"].count_nonzero())
        for layer in layers
    )
    row = {
        "job": name, "seed": seed, "test_accuracy": round(test, 5),
        "ci95": [round(low, 5), round(high, 5)],
        "held_out_accuracy": round(accuracy(stored, images.held_out), 5),
        "weights": total, "kept": kept, "rate": round(total / kept, 2),
        "mean_bits": round(n_bits / max(kept, 1), 2),
        "bits": {layer.name: layer.storage.bits for layer in layers},
        "storage": {layer.name: layer.storage.format for layer in layers},
        "bytes_with_indices": taken, "data_reduction": round(4 * total / taken, 1),
        "published": job.published, "schedule": recorded(job.schedule),
    }  # fmt: skip
    if job.chips:
        chips = simulate_chips(
            stored, CHIP_SIGMA, lambda chip: accuracy(chip, images.test), job.chips, seed
        )
        row["chips"] = {
            "n": job.chips, "sigma_steps": CHIP_SIGMA, "mean": round(chips.mean, 5),
            "percentile_5": round(float(np.percentile(chips.metrics, 5)), 5),
        }  # fmt: skip
    return row, spec, tensors


def recorded(schedule: Schedule) -> dict[str, object]:
    """The schedule for the JSON file."""
    fields = schedule._asdict()
    return fields | {name: fields[name]._asdict() for name in ("cuts", "natural")}


class Data:
    """Images and training samples of one data set at a time, made when first needed."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._zoo = ""
        self._images: Images | None = None
        self._taught: Distorted | None = None

    def images(self, name: str) -> Images:
        """Images of the job's network."""
        zoo = name.split("/", maxsplit=1)[0]
        if zoo != self._zoo or self._images is None:
            self._images, self._taught = read_images(NETWORKS[zoo][0], network_of(name)), None
            self._zoo = zoo
        return self._images

    def samples(self, name: str) -> Samples:
        """What the job trains on: with a teacher, copies that all dense networks labelled."""
        plan, train = JOBS[name].schedule, self.images(name).train
        if plan.teacher == 0:
            return Fresh(train, plan.strength, plan.batch_size)
        if self._taught is None:
            dense = f"{self._zoo}/dense"
            folders = [folder_of(dense, s, self.work) for s in range(JOBS[dense].seeds)]
            teachers = [loaded(folder / "dense_form") for folder in folders]
            file = self.work / self._zoo / "distorted.npz"
            self._taught = Distorted.kept(file, train, teachers, plan.strength)
        self._taught.plain, self._taught.batch_size = plan.plain, plan.batch_size
        return self._taught


def run_job(name: str, seed: int, data: Data) -> None:
    job, folder = JOBS[name], folder_of(name, seed, data.work)
    network = starting_network(name, seed, data.work)
    images, masks = data.images(name), pruned_places(network, job.parent)
    start = Start(
        network, masks, images, data.samples(name), job.schedule, dense_weights(name), seed,
        folder / "training.pt",
    )  # fmt: skip
    clock, cpu = time.perf_counter(), time.process_time()
    network = job.run(start)
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    row, spec, tensors = measure(name, seed, network, images)
    save_model(folder / "dense_form", network.spec, network.tensors())
    save_model(folder / "stored", spec, tensors)
    row |= {
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "torch": torch.__version__, "bfloat16": BFLOAT16,
    }  # fmt: skip
    write_results(folder / "result.json", row)
    print(
        f"{name} seed {seed}: held out {row['held_out_accuracy']:.4f}, "
        f"test {row['test_accuracy']:.4f} at {row['rate']}x, {row['bytes_with_indices']} B, "
        f"{cpu:.0f} s of CPU",
        flush=True,
    )


def wanted_jobs(only: Sequence[str] | None, seeds: Sequence[int] | None) -> list[tuple[str, int]]:
    """Names and seeds of the jobs that --only and --seeds choose, parents first."""
    chosen = [
        (name, seed)
        for name, job in JOBS.items()
        if not only or name.startswith(tuple(only))
        for seed in range(job.seeds)
        if not seeds or seed in seeds
    ]
    if not chosen:
        sys.exit(
            f"No job matches --only {only} --seeds {seeds}; --list prints the names of all jobs"
        )
    return chosen


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/tables"))
    parser.add_argument("--only", nargs="*", help="jobs, or prefixes such as lenet5/")
    parser.add_argument("--seeds", type=int, nargs="*", help="seeds to run; default: all")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no job after so long")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(JOBS))
        return
    data, begin = Data(options.work), time.perf_counter()
    for name, seed in wanted_jobs(options.only, options.seeds):
        if (folder_of(name, seed, options.work) / "result.json").is_file():
            continue
        if time.perf_counter() - begin > 60 * options.minutes:
            break
        parent = JOBS[name].parent
        if parent and not (folder_of(parent, seed, options.work) / "result.json").is_file():
            sys.exit(
                f"{name} starts from {parent} of the same seed, and {options.work} has none of "
                f"seed {seed}; run it first: --only {parent} --seeds {seed}"
            )
        run_job(name, seed, data)
        write_tables(options.work)
    write_tables(options.work)


if __name__ == "__main__":
    main()
