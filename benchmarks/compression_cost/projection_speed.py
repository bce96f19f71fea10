"""Time of one projection of the whole YOLOv3 (61.5 M parameters) on its coupled structured sets.

    python benchmarks/compression_cost/projection_speed.py [--rate 9]

Goals on 2 cores: filter and column <= 1 s, combined <= 5 s. Also the cost of an ADMM step: the
penalty's gradient beside a plain forward, backward and optimiser step, measured in turn.
Writes benchmarks/results/projection_speed.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from pneumonia.compression.admm.engine import Admm
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.network.module import Network
from pneumonia.network.zoo import build

RESULTS = Path(__file__).parents[1] / "results"
SHARES = {"filter": 1.0, "column": 0.0, "combined": 0.5}
PAIRS = 8


def time_projections(rate: float) -> dict[str, dict[str, float]]:
    network = Network(build("yolov3", width=1.0, channels=3, size=416))
    graph = ChannelGraph(network.spec)
    weights = {name: weight.detach() for name, weight in network.weights().items()}
    rates = dict.fromkeys(weights, rate)
    found = {}
    for name, share in SHARES.items():
        (constraint, *_) = StructuredMethod(filter_share=share).sets(graph, rates).splits
        inputs = {layer: weights[layer] for layer in constraint.layers}
        start, cpu = time.perf_counter(), time.process_time()
        constraint.project(inputs)
        found[name] = {
            "wall_s": round(time.perf_counter() - start, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
        }
    return found


def time_steps() -> dict[str, float]:
    """Median seconds of a plain and of an ADMM step, yolov3 width 0.25, 256 px, batch 16."""
    network = Network(build("yolov3", width=0.25, channels=1, size=256))
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = torch.rand(16, 1, 256, 256).to(memory_format=torch.channels_last)
    graph = ChannelGraph(network.spec)
    weights = network.weights()
    engine = Admm(StructuredMethod().sets(graph, dict.fromkeys(weights, 4.0)).splits, rho=1e-2)
    engine.start(weights)

    def step(with_penalty: bool) -> float:
        start = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(images)
        sum(value.square().mean() for value in outputs.values()).backward()
        if with_penalty:
            engine.add_penalty_gradient(weights)
        optimiser.step()
        return time.process_time() - start

    step(True)
    plain, admm = [], []
    for _ in range(PAIRS):
        plain.append(step(False))
        admm.append(step(True))
    ratios = [a / b for a, b in zip(admm, plain, strict=True)]
    return {
        "plain_step_cpu_s": round(statistics.median(plain), 4),
        "admm_step_cpu_s": round(statistics.median(admm), 4),
        "ratio": round(statistics.median(ratios), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=9.0)
    options = parser.parse_args()
    result = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rate": options.rate,
        "projection": time_projections(options.rate),
        "step": time_steps(),
        "goals": "filter, column <= 1 s; combined <= 5 s; ADMM step <= 1.05x",
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "projection_speed.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
