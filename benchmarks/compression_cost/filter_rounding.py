"""What multiples of filters gain: one network pruned to one rate with and without `round_to`.

    python -m benchmarks.compression_cost.filter_rounding [ROUNDS]

YOLOv3 of width 0.25 at 256 px with random weights, of which filter pruning leaves a sixth. Runs of
all networks alternate; figures are medians of one thread in milliseconds, on this machine. `padded`
is what TensorRT computes where channels come in eights (NHWC8 in half precision):
multiply-accumulates with both channel counts rounded up, over the network's own.
"""

import math
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.reporting import markdown_table, spent_s
from pneumonia.api.runs import compile_kernels
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.rates import LayerRates, StageStart, plan_rate
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.exporting.bundle import export
from pneumonia.network.files import save_model
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.storage.bundle import load_bundle

RATE, MULTIPLES, ENGINES = 6.0, (1, 4, 8), ("onnxruntime", "kernels")


def pruned(multiple: int, folder: Path) -> Path:
    """Bundle of the network pruned with this `round_to`, with a library for this machine."""
    network = Network(build("yolov3", width=0.25, channels=1, size=256, n_classes=1))
    initialise(network, torch.Generator().manual_seed(0))
    weights = {name: weight.detach() for name, weight in network.weights().items()}
    total = sum(weight.numel() for weight in weights.values())
    start = StageStart(ChannelGraph(network.spec), weights, {}, total)
    method = StructuredMethod(filter_share=1, round_to=multiple, random_starts=0)
    rates = LayerRates(dict.fromkeys(weights, 1.0), {"conv_000": 1.5})
    found = plan_rate(start, method, rates, RATE)
    small, kept = compact(network.spec, network.tensors(), found.masks, found.sets.group_sizes)
    save_model(folder / "run" / "best", small, kept)
    export(folder / "run", folder / "bundle")
    compile_kernels(folder / "bundle", tune=False)
    return folder / "bundle"


def macs(spec: NetworkSpec, multiple: int) -> int:
    """Multiply-accumulates of the convolutions, channel counts rounded up to a multiple."""
    shapes, total = spec.shapes(), 0
    for layer in spec.weighted():
        _, height, width = shapes[layer.name]
        inputs, outputs = (
            math.ceil(n / multiple) * multiple for n in (layer.in_channels, layer.out_channels)
        )
        total += inputs * outputs * math.prod(weight_shape(layer)[2:]) * height * width
    return total


def main(rounds: int = 30) -> None:
    """Print one row a network."""
    with tempfile.TemporaryDirectory() as name:
        bundles = {n: load_bundle(str(pruned(n, Path(name) / str(n)))) for n in MULTIPLES}
        engines = {
            (n, engine): open_engine(bundle, engine, 1)
            for n, bundle in bundles.items()
            for engine in ENGINES
        }
        image = np.random.default_rng(0).random((1, 1, 256, 256)).astype(np.float32)
        times: dict[tuple[int, str], list[float]] = {key: [] for key in engines}
        for _ in range(rounds):
            for key, engine in engines.items():
                times[key].append(1e3 * spent_s(partial(engine.run, image)))
        rows = []
        for n, bundle in bundles.items():
            layers = bundle.spec.weighted()
            off = sum(layer.out_channels % 8 != 0 for layer in layers)
            own = macs(bundle.spec, 1)
            spent = (f"{np.median(times[n, engine]):.2f}" for engine in ENGINES)
            padded = f"{macs(bundle.spec, 8) / own:.3f}"
            rows.append((n, f"{off} of {len(layers)}", f"{own / 1e6:.0f}", padded, *spent))
        head = ("round_to", "off 8", "MMAC", "padded", "ONNX Runtime, ms", "kernels, ms")
        print(markdown_table(head, rows))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
