"""int8 kernels against float32 kernels and the int8 of ONNX Runtime and ncnn, on one thread.

    python -m benchmarks.engine.int8 --work DIR [--case compact36] [--target x86-avx2]

The network is one of `engine_cases` with random weights, quantized by what `pneumonia quantize`
calls. Every round runs each engine once; of all rounds the shortest CPU time and the median count.
ncnn runs in the environment of `vs_peers`, in a process of its own.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.engine import peers
from benchmarks.engine.cases import CASES, network
from benchmarks.engine.ncnn_int8 import write_int8
from benchmarks.engine.runner import Runner
from deploy_jetson.kernels.compile.lower import Chooser
from deploy_jetson.kernels.generate import generate_library, model_chooser
from deploy_jetson.kernels.int8_weights import read_quantization
from deploy_jetson.kernels.plan.layer_problem import problems_of
from deploy_jetson.kernels.targets import TARGETS, find_target
from deploy_jetson.kernels.tune.tuner import tune
from pneumonia.exporting.int8 import quantize_onnx
from pneumonia.exporting.onnx_graph import emit_onnx
from pneumonia.runtime.engines.kernel_library import KernelLibrary

CALIBRATION_IMAGES = 2
Run = Callable[[], float]


def timed(run: Callable[[], Any]) -> Run:
    """The same run, returning its CPU seconds."""

    def once() -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    return once


def prepare(case: str, target_name: str, work: Path, tuned: bool) -> dict[str, Run]:
    """Engine's name -> one run of it on an image, returning its CPU seconds."""
    spec, tensors = network(CASES[case])
    target = find_target(target_name)
    shape = (spec.input.channels, spec.input.height, spec.input.width)
    generator = np.random.default_rng(1)
    images = [generator.standard_normal(shape, np.float32) for _ in range(CALIBRATION_IMAGES)]
    files = {kind: work / f"{case}_{kind}.onnx" for kind in ("fp32", "int8")}
    if not files["int8"].exists():
        files["fp32"].write_bytes(emit_onnx(spec, tensors).model.SerializeToString())
        files["int8"].write_bytes(quantize_onnx(files["fp32"], images).data)
    runs: dict[str, Run] = {}
    whole_numbers = read_quantization(files["int8"], spec)
    for kind, quantization in (("fp32", None), ("int8", whole_numbers)):
        choose: Chooser = model_chooser(target)
        if tuned:
            problems = problems_of(spec, tensors, quantization=quantization)
            choices = tune(problems, target, work / f"tuning-{kind}.json")
            choose = lambda problem, chosen=choices: chosen[problem.layer.name]  # noqa: E731
        made = generate_library(
            spec, tensors, target, work / f"lib{case}-{target.name}-{kind}.so", choose,
            quantization=quantization,
        )  # fmt: skip
        engine = KernelLibrary(str(made.library), threads=1)
        runs[f"kernels {kind}"] = timed(lambda engine=engine: engine.run(images[0]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for kind, path in files.items():
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: images[0][None]}
        runs[f"ONNX Runtime {kind}"] = timed(lambda s=session, feed=feed: s.run(None, feed))
    names = {kind: path.stem for kind, path in files.items()}
    peers.install(work)
    peers.convert(work, names["fp32"], shape)
    write_int8(work / names["fp32"], work / names["int8"], tensors, whole_numbers)
    for kind, name in names.items():
        runs[f"ncnn {kind}"] = Runner("ncnn", name, shape, work).once
    return runs


def measure(runs: dict[str, Run], rounds: int) -> dict[str, dict[str, float]]:
    """Engine's name -> shortest and median time in ms."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if number:  # the first round warms up
                times[name].append(seconds * 1e3)
    return {
        name: {"min_ms": float(np.min(ms)), "median_ms": float(np.median(ms))}
        for name, ms in times.items()
    }


def main() -> None:
    """Print the times as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--case", choices=CASES, default="compact36")
    parser.add_argument("--target", choices=[n for n, t in TARGETS.items() if t.dots],
                        default="x86-avx2")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tuned", action="store_true")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    runs = prepare(chosen.case, chosen.target, chosen.work, chosen.tuned)
    print(json.dumps(measure(runs, chosen.rounds), indent=2))


if __name__ == "__main__":
    main()
