"""Two more questions of `engine_vs_peers`: lists in pieces or whole, weights in fewer bits."""

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.cases import CASES, GROUP, network
from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.kind import Choice
from deploy_jetson.kernels.kinds.registry import KINDS, candidates, kind_of, predicted_cycles
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.plan.steps import variants_of
from deploy_jetson.kernels.plan.weight_store import STORAGES
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.tune.bench import LayerBench, candidate_steps
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.model.layers import Conv

# (filters, channels, kernel, stride, output side) of YOLOv3's layers
LAYERS = ((128, 64, 3, 1, 104), (256, 128, 3, 1, 52), (512, 256, 3, 1, 26), (1024, 512, 3, 1, 13),
          (1024, 512, 3, 2, 13), (256, 512, 1, 1, 26))  # fmt: skip
DENSITIES = (1.0, 1 / 9, 1 / 36)
TRIED = 6  # of each way, the cost model's favourites
STORAGE_CASES = ("columns9", "shipped")
STORAGE_ROUNDS = 15


def layers(target: Target) -> list[dict[str, Any]]:
    """The quickest column kernel with its list whole and in pieces, and Winograd."""
    rows = []
    for shape in LAYERS:
        for density in DENSITIES:
            problem = column_problem(shape, density)
            ways = {
                "whole": favourites(problem, target, "columns", lambda c: not c.piece_bytes),
                "pieces": favourites(problem, target, "columns", lambda c: c.piece_bytes),
                "winograd": favourites(problem, target, "winograd", lambda c: True),
            }
            found = measured(problem, ways, target)
            macs = np.count_nonzero(problem.weight) * shape[4] ** 2
            rows.append({"layer": shape, "density": density, "kept_gmac": macs / 1e9, **found})
            print(rows[-1], flush=True)
    return rows


def column_problem(shape: tuple[int, int, int, int, int], density: float) -> LayerProblem:
    """A layer whose groups of filters keep random columns."""
    filters, channels, kernel, stride, side = shape
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((filters, channels * kernel**2)).astype(np.float32)
    kept = max(1, round(matrix.shape[1] * density))
    for first in range(0, filters, GROUP):
        matrix[first : first + GROUP, generator.permutation(matrix.shape[1])[kept:]] = 0
    layer = Conv("layer", ("input",), channels, filters, kernel, stride, kernel // 2)
    weight = matrix.reshape(filters, channels, kernel, kernel)
    return LayerProblem(layer, weight, side * stride, side * stride, side, side, planar=False)


def favourites(
    problem: LayerProblem, target: Target, kind: str, fits: Callable[[Any], bool]
) -> list[Choice]:
    """The cost model's best choices of a kind that fit."""
    analysis = LayerAnalysis(problem)
    legal = [c for c in KINDS[kind].candidates(analysis, target) if fits(c)]
    return sorted(legal, key=lambda c: predicted_cycles(analysis, c, target))[:TRIED]


def measured(
    problem: LayerProblem, ways: dict[str, list[Choice]], target: Target
) -> dict[str, float | None]:
    """Milliseconds of the quickest choice of every way, all interleaved."""
    choices = [choice for some in ways.values() for choice in some]
    steps, _ = candidate_steps(problem, choices, target)
    variants = variants_of([step for parts in steps for step in parts], target)
    with closing(LayerBench(target, variants)) as bench:
        seconds = dict(zip(choices, bench.seconds(problem, choices), strict=True))
    return {
        f"{way}_ms": min((seconds[c] * 1e3 for c in some), default=None)
        for way, some in ways.items()
    }


def storage(work: Path, target: Target) -> list[dict[str, Any]]:
    """Size, load, time and error of a library whose weights are stored in fewer bits.

    All storages use the same kernels, those the cost model likes best without Winograd.
    """

    def choose(problem: LayerProblem) -> Choice:
        analysis = LayerAnalysis(problem)
        legal = [c for c in candidates(analysis, target) if kind_of(c).name != "winograd"]
        return min(legal, key=lambda c: predicted_cycles(analysis, c, target))

    rows = []
    for name in STORAGE_CASES:
        spec, tensors = network(CASES[name])
        opened = {}
        for stored in STORAGES:
            library = work / f"lib{name}-{stored}.so"
            made = generate_library(spec, tensors, target, library, choose, storage=stored)
            KernelLibrary(str(library)).close()  # the file is in the system's cache from here on
            start = time.perf_counter()
            opened[stored] = KernelLibrary(str(library))
            rows.append({
                "case": name, "storage": stored, "library_mb": library.stat().st_size / 1e6,
                "file_mb": len(made.sources.weights) / 1e6,
                "memory_mb": made.sources.image_bytes / 1e6,
                "load_ms": (time.perf_counter() - start) * 1e3,
            })  # fmt: skip
        compare(rows[-len(STORAGES) :], opened)
    return rows


def compare(rows: list[dict[str, Any]], opened: dict[str, KernelLibrary]) -> None:
    """Add interleaved times and the error against float32 to the rows."""
    image = np.random.default_rng(1).standard_normal(next(iter(opened.values())).input_shape)
    seconds: dict[str, list[float]] = {stored: [] for stored in opened}
    for _ in range(STORAGE_ROUNDS):
        for stored, library in opened.items():
            start = time.process_time()
            library.run(image)
            seconds[stored].append(time.process_time() - start)
    heads = {stored: library.run(image) for stored, library in opened.items()}
    for row in rows:
        row["ms"] = statistics.median(seconds[row["storage"]]) * 1e3
        row["error"] = max(
            float(np.abs(heads[row["storage"]][name] - value).max() / np.abs(value).max())
            for name, value in heads[STORAGES[0]].items()
        )
        print(row, flush=True)
    for library in opened.values():
        library.close()
