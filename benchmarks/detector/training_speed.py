"""Does data loading limit training? Whole training steps against bare ones, in one run.

    python -m benchmarks.detector.training_speed --data DATASET --out training_speed.json

Bare: forward, backward and optimiser step on random tensors. Whole: `training.loop.fit` as a user
runs it: images from the dataset, augmentation, the detection loss, clipping, averaged weights.
Blocks of both alternate, so that a busy machine slows both alike; the ratio is the median over
pairs of neighbouring blocks. Without --data the images are phantoms.

`shares_of_a_bare_step` is torch's profile of one bare step by op. With --step-only only that is
measured, and batch norm with its activation, forward and backward, as torch runs it and as
`torch.compile` fuses it (interleaved, least processor time of 15).

`cost_ratio` compares processor time instead of time on the clock, the worker's included; with
`--threads 1` it means something on a busy machine, too.

Aim: a ratio of at least 0.90 for yolov3 of width 0.25 at 256 px, batch 16, 2 cores.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.reporting import argument_parser, environment, write_results
from data_prep.dataset.reader import open_dataset
from data_prep.phantom.study import make_phantoms
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.training.config import TrainRecipe
from pneumonia.training.detector.task import DetectionTask
from pneumonia.training.loading import PREFETCH
from pneumonia.training.loop import fit
from pneumonia.training.optimiser import make_optimiser
from pneumonia.training.run import make_network, make_spec
from pneumonia.training.task import SELECTION_METRIC


class Spent(NamedTuple):
    """Seconds on the clock and of this process's threads on the processors."""

    clock_s: float
    cpu_s: float

    @staticmethod
    def now() -> "Spent":
        """The two clocks."""
        return Spent(time.perf_counter(), time.process_time())

    def until_now(self, steps: int) -> "Spent":
        """Per step, since these readings."""
        now = Spent.now()
        return Spent((now.clock_s - self.clock_s) / steps, (now.cpu_s - self.cpu_s) / steps)


class BareSteps:
    """Forward, backward and optimiser step on one random batch."""

    def __init__(self, network: Network, recipe: TrainRecipe) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()
        self.optimiser = make_optimiser(network, recipe.optimiser)
        self.bf16 = recipe.precision == "bf16"
        entry = network.spec.input
        images = torch.rand(recipe.batch_size, entry.channels, entry.height, entry.width)
        self.images = images.to(memory_format=torch.channels_last)

    def run(self, steps: int) -> Spent:
        """Time per step."""
        started = Spent.now()
        for _ in range(steps):
            self.optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                outputs = self.network(self.images)
            torch.stack([value.square().mean() for value in outputs.values()]).sum().backward()
            self.optimiser.step()
        return started.until_now(steps)

    def shares(self) -> dict[str, float]:
        """Share of one step's time that each of the ten costliest ops takes, largest first."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.run(1)
        spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
        costliest = sorted(spent, key=lambda key: -spent[key])[:10]
        return {key: round(spent[key] / sum(spent.values()), 4) for key in costliest}


def norm_ms() -> dict[str, float]:
    """Batch norm and LeakyReLU of one layer (8, 64, 64, 64) in bf16: milliseconds of a step."""
    norm = torch.nn.BatchNorm2d(64)
    x = torch.randn(8, 64, 64, 64).to(torch.bfloat16, memory_format=torch.channels_last)
    x.requires_grad_()

    def forward(x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(F.batch_norm(x, None, None, gain, shift, training=True), 0.1)

    ways = {"torch": forward, "compiled": torch.compile(forward)}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(17):
        for way, run in ways.items():
            started = Spent.now()
            run(x, norm.weight, norm.bias).sum().backward()
            times[way].append(1e3 * started.until_now(1).cpu_s)
    return {way: round(min(found[2:]), 3) for way, found in times.items()}


class Alternate:
    """A progress callback: times whole steps, and after each block runs a bare block."""

    def __init__(self, bare: BareSteps, block: int) -> None:
        self.bare = bare
        self.block = block
        self.whole: list[Spent] = []
        self.bare_spent: list[Spent] = []
        self.started = Spent.now()

    def __call__(self, done: int, total: int, note: str) -> None:
        """After step `done` of the run."""
        place = done % (self.block + PREFETCH)
        if place == PREFETCH:  # what was prepared during the bare block is used up
            self.started = Spent.now()
        elif place == 0:
            whole = self.started.until_now(self.block)
            bare = self.bare.run(self.block)
            self.whole.append(whole)
            self.bare_spent.append(bare)
            ratio = bare.clock_s / whole.clock_s
            print(f"whole {whole.clock_s:.3f} s, bare {bare.clock_s:.3f} s, ratio {ratio:.3f}")


class WithoutValidation(DetectionTask):
    """Only training steps are measured."""

    def evaluate(self, network: Network) -> dict[str, float]:
        """No validation."""
        return {SELECTION_METRIC: 0.0}

    def save(self, out: Path) -> None:
        """Nothing to write."""


def measure(data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    steps = arguments.pairs * (arguments.block + PREFETCH)
    recipe = TrainRecipe.model_validate(
        {
            "model": {"name": "yolov3", "width": arguments.width, "size": arguments.size},
            "data": {"images_per_epoch": steps * arguments.batch},
            "epochs": 1,
            "batch_size": arguments.batch,
            "precision": arguments.precision,
            "workers": arguments.workers,
            "device": "cpu",
        }
    )
    dataset = open_dataset(data)
    spec = make_spec(dataset, recipe)
    bare = BareSteps(make_network(spec, recipe), recipe)
    bare.run(3)  # the first steps choose and compile kernels
    alternate = Alternate(bare, arguments.block)
    with tempfile.TemporaryDirectory() as folder:
        task = WithoutValidation(dataset, spec, recipe)
        fit(make_network(spec, recipe), task, recipe, Path(folder), progress=alternate)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the worker, which has ended
    worker_s = (spent.ru_utime + spent.ru_stime) / steps
    # the first pair warms up
    pairs = list(zip(alternate.bare_spent, alternate.whole, strict=True))[1:]
    bare_s = statistics.median(b.clock_s for b, _ in pairs)
    whole_s = statistics.median(w.clock_s for _, w in pairs)
    return {
        "benchmark": "training_speed",
        "ratio": round(statistics.median(b.clock_s / w.clock_s for b, w in pairs), 4),
        "aim": 0.90,
        "cost_ratio": round(statistics.median(b.cpu_s / (w.cpu_s + worker_s) for b, w in pairs), 4),
        "whole_images_per_s": round(recipe.batch_size / whole_s, 2),
        "bare_images_per_s": round(recipe.batch_size / bare_s, 2),
        "shares_of_a_bare_step": bare.shares(),
        "worker_ms_per_image": round(1e3 * worker_s / recipe.batch_size, 3),
        "pairs_clock_s": [[round(b.clock_s, 4), round(w.clock_s, 4)] for b, w in pairs],
        "pairs_cpu_s": [[round(b.cpu_s, 4), round(w.cpu_s, 4)] for b, w in pairs],
        "settings": {**vars(arguments), "data": "given" if arguments.data else "phantoms"},
        "images": {"source": dict(dataset.info["source"]), "count": len(dataset)},
        "threads": torch.get_num_threads(),
        **environment("torch"),
    }


def measure_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """Only the network: shares of a bare step, and the cost of batch norm."""
    model = {"name": "yolov3", "width": arguments.width, "size": arguments.size}
    recipe = TrainRecipe.model_validate(
        {"model": model, "batch_size": arguments.batch, "precision": arguments.precision}
    )
    network = build("yolov3", width=arguments.width, size=arguments.size, channels=1, n_classes=1)
    bare = BareSteps(Network(network), recipe)
    bare.run(2)
    return {
        "benchmark": "training_step",
        "shares_of_a_bare_step": bare.shares(),
        "batch_norm_and_activation_ms": norm_ms(),
        "settings": vars(arguments) | {"data": None},
        "threads": torch.get_num_threads(),
        **environment("torch"),
    }


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, help="dataset folder; phantoms without it")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="torch threads; all cores without it")
    parser.add_argument("--block", type=int, default=10, help="timed steps of a block")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--step-only", action="store_true", help="profile of a bare step alone")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.step_only:
        result = measure_step(arguments)
        result["settings"].pop("out")
        print(json.dumps(result, indent=1))
        if arguments.out:
            write_results(arguments.out, result)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = Path(folder) / "phantoms"
            make_phantoms(data, 96, size=512)
        result = measure(data, arguments)
    result["settings"].pop("out")
    print(json.dumps({key: result[key] for key in result if "pairs" not in key}, indent=1))
    if arguments.out:
        write_results(arguments.out, result)
    return 0 if result["ratio"] >= result["aim"] else 1


if __name__ == "__main__":
    sys.exit(main())
