"""The networks of `engine_vs_peers`: YOLOv3-416 of width 1 with random weights and real sparsity.

Every kind of pruning at 9x and 36x as the projections leave it behind: filters (a compact dense
network), columns shared by a group of filters, both together, patterns shared by a group with
connectivity, and free patterns (every filter its own channels and patterns). And the model that
ships with the package.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reporting import processor_s
from deploy_jetson.kernels.generate import generate_library, model_chooser
from deploy_jetson.kernels.plan.layer_problem import problems_of
from deploy_jetson.kernels.targets import Target
from deploy_jetson.kernels.tune.tuner import tune
from pneumonia.exporting.onnx_graph import emit_onnx
from pneumonia.network.zoo import build
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes
from pneumonia.runtime.storage.bundle import load_bundle

SIDE = 416
SHIPPED = Path(__file__).parents[2] / "pneumonia" / "models" / "default"
# The first layer and the heads' last ones keep all their weights, as in the papers.
NEVER_PRUNED = ("conv_000", "conv_081", "conv_093", "conv_105")
GROUP = 32  # filters that share columns or patterns
PATTERNS = ((0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8),
            (1, 3, 4, 5), (1, 3, 4, 7), (1, 4, 5, 7), (3, 4, 5, 7))  # fmt: skip
Weights = np.ndarray[Any, np.dtype[np.float32]]
Tensors = dict[str, Weights]


class BenchmarkNetwork(NamedTuple):
    """One network."""

    name: str  # in the results
    kind: str  # how it is pruned
    rate: int = 1  # weights of the dense network over weights kept; 1 = not pruned
    width: float = 1.0  # of the network's hidden layers: less than 1 where filters are gone
    peers: bool = False  # whether the peers run the same file


CASES = {
    case.name: case
    for case in (
        BenchmarkNetwork("dense", "dense", peers=True),
        BenchmarkNetwork("compact9", "filter", 9, 1 / 3, peers=True),
        BenchmarkNetwork("compact36", "filter", 36, 1 / 6, peers=True),
        BenchmarkNetwork("columns9", "column", 9),
        BenchmarkNetwork("columns36", "column", 36),
        # half of the rate by filters (width squared), the rest by columns of what is left
        BenchmarkNetwork("combined9", "combined", 9, 1 / 2),
        BenchmarkNetwork("combined36", "combined", 36, 1 / 2),
        BenchmarkNetwork("group_patterns9", "group pattern", 9),
        BenchmarkNetwork("group_patterns36", "group pattern", 36),
        BenchmarkNetwork("patterns9", "free pattern", 9),
        BenchmarkNetwork("shipped", "shipped", peers=True),
    )
}


def network(case: BenchmarkNetwork) -> tuple[NetworkSpec, Tensors]:
    """Spec without batch norm, and dense tensors with the case's zeros."""
    if case.kind == "shipped":
        bundle = load_bundle(str(SHIPPED))
        return bundle.spec, dict(bundle.weights())
    spec = build("yolov3", width=case.width, channels=1, size=SIDE)
    spec = spec.replace_layers({
        layer.name: layer._replace(batch_norm=False, bias=True)
        for layer in spec.layers if isinstance(layer, Conv)
    })  # fmt: skip
    generator = np.random.default_rng(0)
    tensors: Tensors = {}
    for name, shape in tensor_shapes(spec).items():
        scale = 0.1 if name.endswith(".bias") else np.sqrt(2 / np.prod(shape[1:]))
        tensors[name] = (generator.standard_normal(shape) * scale).astype(np.float32)
    for layer in spec.weighted():
        if layer.name not in NEVER_PRUNED:
            weight = tensors[layer.name + ".weight"]
            keep = kept(case, weight, getattr(layer, "stride", 1), generator)
            tensors[layer.name + ".weight"] = scaled(weight, keep)
    return spec, tensors


def kept(
    case: BenchmarkNetwork, weight: Weights, stride: int, generator: np.random.Generator
) -> Weights:
    """Mask of the weights the case keeps, shaped like the weight."""
    n_filters, n_channels, side, _ = weight.shape
    if case.kind in ("dense", "filter"):
        return np.ones(weight.shape, bool)
    if case.kind == "free pattern" and side == 3 and stride == 1:
        chosen = generator.random((n_filters, n_channels)) < 9 / 4 / case.rate
        return pattern_mask(chosen, generator).reshape(weight.shape)
    mask = np.zeros((n_filters, n_channels * side * side), bool)
    rate = case.rate * case.width**2
    for first in range(0, n_filters, GROUP):
        if case.kind == "group pattern" and side == 3:
            chosen = np.zeros((1, n_channels), bool)
            n_kept = max(1, round(n_channels * 9 / 4 / rate))
            chosen[0, generator.permutation(n_channels)[:n_kept]] = True
            mask[first : first + GROUP] = pattern_mask(chosen, generator)
        else:
            n_kept = max(1, round(mask.shape[1] / rate))
            mask[first : first + GROUP, generator.permutation(mask.shape[1])[:n_kept]] = True
    return mask.reshape(weight.shape)


def pattern_mask(chosen: Weights, generator: np.random.Generator) -> Weights:
    """(filters, channels * 9): a random pattern in every chosen kernel."""
    taps = np.zeros((len(PATTERNS), 9), bool)
    np.put_along_axis(taps, np.array(PATTERNS), values=True, axis=1)
    masks = taps[generator.integers(len(PATTERNS), size=chosen.shape)] & chosen[..., None]
    return masks.reshape(len(chosen), -1)


def scaled(weight: Weights, keep: Weights) -> Weights:
    """The kept weights, larger by what is gone, so that activations keep their size."""
    share = keep.mean()
    return (weight * keep / np.sqrt(share)).astype(np.float32)


class PreparedLibrary(NamedTuple):
    """A case with its library."""

    case: BenchmarkNetwork  # the case
    library: Path  # path of the shared library
    kinds: dict[str, str]  # layer -> kind of its kernel, in small letters
    layer_gmac: dict[str, float]  # layer -> multiply-adds of its kept weights, in 10^9
    facts: dict[str, Any]  # what the results say about it
    shape: tuple[int, int, int]  # (channels, height, width) of the input


def prepare(case: BenchmarkNetwork, work: Path, target: Target, tuned: bool) -> PreparedLibrary:
    """Write `lib<case>.so` and `<case>.onnx`, and time the generator; tuning is timed apart.

    Weights and plan are not kept: those of all cases together take several GB.
    """
    spec, tensors = network(case)
    onnx = work / f"{case.name}.onnx"
    data = emit_onnx(spec, tensors).model.SerializeToString()
    if not onnx.exists() or onnx.read_bytes() != data:
        for earlier in work.glob(f"{case.name}.*"):  # and what peers' converters made of it
            earlier.unlink()
        onnx.write_bytes(data)
    del data
    facts: dict[str, Any] = {"kind": case.kind}
    choose = model_chooser(target)
    if tuned:
        start = time.perf_counter()
        choices = tune(problems_of(spec, tensors), target, work / "tuning.json")
        facts["tuning_s"] = time.perf_counter() - start
        choose = lambda problem: choices[problem.layer.name]  # noqa: E731
    start, spent = time.perf_counter(), processor_s()
    made = generate_library(spec, tensors, target, work / f"lib{case.name}.so", choose)
    facts["generate_and_compile_s"] = time.perf_counter() - start
    facts["generate_and_compile_cpu_s"] = processor_s() - spent
    shapes = spec.shapes()
    weights = {layer.name: tensors[layer.name + ".weight"] for layer in spec.weighted()}
    pixels = {name: int(np.prod(shapes[name][1:])) for name in weights}
    facts |= {
        "weights": sum(w.size for w in weights.values()),
        "kept_weights": sum(int(np.count_nonzero(w)) for w in weights.values()),
        "gmac": sum(w.size * pixels[name] for name, w in weights.items()) / 1e9,
        "kept_gmac": sum(np.count_nonzero(w) * pixels[name] for name, w in weights.items()) / 1e9,
        "packed_mb": len(made.sources.weights) / 1e6,
        "activations_mb": made.plan.arena_floats * 4 / 1e6,
    }
    kinds = {
        name: type(choice).__name__.removesuffix("Choice").lower()
        for name, choice in made.plan.choices.items()
    }
    layer_gmac = {
        name: float(np.count_nonzero(w)) * pixels[name] / 1e9 for name, w in weights.items()
    }
    return PreparedLibrary(case, made.library, kinds, layer_gmac, facts, shapes["input"])
