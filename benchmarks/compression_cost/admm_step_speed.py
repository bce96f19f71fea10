"""Cost of an ADMM step: the penalty's gradient beside a plain training step, measured in turn.

    python -m benchmarks.compression_cost.admm_step_speed

Goal: at most 1.05 times the processor time. Writes benchmarks/results/admm_step_speed.json.
"""

import statistics
import time

import torch

from benchmarks.reporting import RESULTS, environment, publish
from pneumonia.compression.admm.engine import Admm
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune.structured_method import StructuredMethod
from pneumonia.network.module import Network
from pneumonia.network.zoo import build

PAIRS = 8


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
    result = {
        **environment("torch"),
        "threads": torch.get_num_threads(),
        "step": time_steps(),
        "goal": "ADMM step <= 1.05x",
    }
    publish(RESULTS / "admm_step_speed.json", result)


if __name__ == "__main__":
    main()
