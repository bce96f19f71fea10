"""The generated engine against ONNX Runtime, OpenVINO, ncnn and MNN on YOLOv3-416, one run.

    python benchmarks/engine_vs_peers.py --work /tmp/engine-bench

Installs the peers in a virtual environment of their own below --work, writes random networks with
real sparsity structure, and times every engine in its own process, one inference after another in
turn (A B C A B C), one thread, end to end without NMS. The core's multiply-add peak is measured in
the same rounds. Absolute times move with the machine's load; the ratios of one run do not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("onnxruntime", "openvino", "ncnn", "mnn")
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "MNN", "protobuf>=6.31.1")
SIZE = 416
CASES = ("dense", "compact9", "compact36", "columns9", "columns36", "patterns9")
DENSE_HEADS = ("conv_000", "conv_081", "conv_093", "conv_105")
PATTERNS = ((0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8),
            (1, 3, 4, 5), (1, 3, 4, 7), (1, 4, 5, 7), (3, 4, 5, 7))  # fmt: skip
PEAK_SOURCE = r"""
#include <stdio.h>
#include <time.h>
typedef float v __attribute__((vector_size(4 * LANES)));
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}
int main(void) {
  double best = 0;
  for (int q = 0; q < 5; q++) {
    v a0 = {0}, a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, a8 = a0, a9 = a0;
    v b = a0 + 1e-9f, c = b;
    __asm__ volatile("" : "+x"(b), "+x"(c));
    const double start = now();
    for (long k = 0; k < 4000000; k++) {
      a0 += b * c; a1 += b * c; a2 += b * c; a3 += b * c; a4 += b * c;
      a5 += b * c; a6 += b * c; a7 += b * c; a8 += b * c; a9 += b * c;
      __asm__ volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4));
      __asm__ volatile("" : "+x"(a5), "+x"(a6), "+x"(a7), "+x"(a8), "+x"(a9));
    }
    const double rate = 4e6 * 10 * LANES * 2 / (now() - start) / 1e9;
    if (rate > best) best = rate;
  }
  printf("%f\n", best);
  return 0;
}
"""


# --- networks ---------------------------------------------------------------------------------


def network(case):
    """A folded YOLOv3 with random weights and the case's sparsity: (spec, tensors)."""
    sys.path.insert(0, str(ROOT))
    from pneumonia.network.zoo import build
    from pneumonia.runtime.spec import Conv, tensor_shapes

    width = {"compact9": 1 / 3, "compact36": 1 / 6}.get(case, 1.0)
    spec = build("yolov3", width=width, channels=1, size=SIZE)
    spec = spec.replace_layers({
        layer.name: layer._replace(batch_norm=False, bias=True)
        for layer in spec.layers if isinstance(layer, Conv)
    })  # fmt: skip
    generator = np.random.default_rng(0)
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        scale = 0.1 if name.endswith(".bias") else np.sqrt(2 / np.prod(shape[1:]))
        tensors[name] = (generator.standard_normal(shape) * scale).astype(np.float32)
    for layer in spec.weighted():
        if layer.name not in DENSE_HEADS:
            name = layer.name + ".weight"
            tensors[name] = prune(tensors[name], case, generator, getattr(layer, "stride", 1))
    return spec, tensors


def prune(weight, case, generator, stride):
    """Columns shared by 32 filters; or free patterns on 3x3 of stride 1, columns elsewhere."""
    if case == "patterns9" and weight.shape[2] == 3 and stride == 1:
        keep = np.zeros((*weight.shape[:2], 9), bool)
        chosen = generator.random(weight.shape[:2]) < 0.25
        taps = np.eye(9, dtype=bool)[np.array(PATTERNS)].any(axis=1)
        keep[chosen] = taps[generator.integers(len(PATTERNS), size=int(chosen.sum()))]
        return weight * keep.reshape(weight.shape) * 3
    rate = {"columns9": 9, "columns36": 36, "patterns9": 9}.get(case)
    if rate is None:
        return weight
    matrix = weight.reshape(len(weight), -1)
    n_columns = matrix.shape[1]
    for first in range(0, len(matrix), 32):
        dead = np.ones(n_columns, bool)
        dead[generator.permutation(n_columns)[: max(1, round(n_columns / rate))]] = False
        matrix[first : first + 32, dead] = 0
    return (matrix * np.sqrt(rate)).reshape(weight.shape).astype(np.float32)


def prepare(case, work, tune):
    """Write the ONNX file and the library of a case; returns its facts."""
    from deploy_jetson.kernels.generate import generate_library, model_chooser
    from deploy_jetson.kernels.lower import problems_of
    from deploy_jetson.kernels.targets import find_target
    from deploy_jetson.kernels.tuner import tune as measure

    spec, tensors = network(case)
    target = find_target("native")
    choose = model_chooser(target)
    if tune:
        choices = measure(problems_of(spec, tensors), target, work / "tuning.json")
        choose = lambda problem: choices[problem.layer.name]  # noqa: E731
    start = time.perf_counter()
    made = generate_library(spec, tensors, target, work / f"lib{case}.so", choose)
    seconds = time.perf_counter() - start
    if case in ("dense", "compact9", "compact36") and not (work / f"{case}.onnx").exists():
        from pneumonia.export.onnx_graph import emit_onnx

        (work / f"{case}.onnx").write_bytes(emit_onnx(spec, tensors).model.SerializeToString())
    shapes = spec.shapes()
    macs = sum(
        np.count_nonzero(tensors[layer.name + ".weight"]) * np.prod(shapes[layer.name][1:])
        for layer in spec.weighted()
    )
    return {
        "case": case, "kept_gmac": float(macs) / 1e9, "generate_s": seconds,
        "working_mb": made.plan.arena_floats * 4 / 1e6,
        "weights_mb": len(made.sources.weights) / 1e6, "lanes": target.lanes,
    }  # fmt: skip


# --- peers ------------------------------------------------------------------------------------


def install(work):
    """A virtual environment with the peers, once; returns its interpreter."""
    folder = work / "peers"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def convert(work, case):
    """ONNX to ncnn and MNN."""
    tools = work / "peers" / "bin"
    if not (work / f"{case}.ncnn.param").exists():
        shape = f"inputshape=[1,1,{SIZE},{SIZE}]"
        subprocess.run(
            [tools / "pnnx", f"{case}.onnx", shape, "fp16=0"],
            cwd=work, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    if not (work / f"{case}.mnn").exists():
        subprocess.run(
            [tools / "mnnconvert", "-f", "ONNX", "--modelFile", f"{case}.onnx", "--MNNModel",
             f"{case}.mnn", "--bizCode", "bench"],
            cwd=work, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip


def open_ours(path, threads):
    sys.path.insert(0, str(ROOT))
    from pneumonia.runtime.engines.kernels import KernelLibrary

    library = KernelLibrary(f"{path.parent}/lib{path.name}.so", threads=threads)
    return lambda x: list(library.run(x[0]).values())


def open_onnxruntime(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        f"{path}.onnx", options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def open_openvino(path, threads):
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    request = openvino.Core().compile_model(f"{path}.onnx", "CPU", settings).create_infer_request()
    return lambda x: [np.array(value) for value in request.infer({0: x}).values()]


def open_ncnn(path, threads):
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = net.opt.use_bf16_storage = False
    net.opt.use_fp16_arithmetic = net.opt.use_fp16_storage = net.opt.use_fp16_packed = False
    net.load_param(f"{path}.ncnn.param")
    net.load_model(f"{path}.ncnn.bin")

    def run(x):
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(x[0]).clone())
            return [np.array(extractor.extract(f"out{i}")[1]) for i in range(3)]

    return run


def open_mnn(path, threads):
    import MNN

    interpreter = MNN.Interpreter(f"{path}.mnn")
    session = interpreter.createSession(
        {"backend": "CPU", "numThread": threads, "precision": "high"}
    )
    source = interpreter.getSessionInput(session)
    outputs = interpreter.getSessionOutputAll(session)

    def tensor(shape, values):
        kind, layout = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
        return MNN.Tensor(shape, kind, values, layout)

    def run(x):
        source.copyFrom(tensor(x.shape, x.reshape(-1)))
        interpreter.runSession(session)
        values = []
        for output in outputs.values():
            host = tensor(output.getShape(), np.zeros(output.getShape(), np.float32))
            output.copyToHostTensor(host)
            values.append(np.array(host.getData()))
        return values

    return run


def worker(engine, case, work, threads):
    """Answer every line of stdin with the seconds of one inference.

    On one thread that is CPU time: on a shared machine the time others take does not count.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    x = np.random.default_rng(1).standard_normal((1, 1, SIZE, SIZE)).astype(np.float32)
    start = time.perf_counter()
    run = globals()["open_" + engine](work / case, threads)
    load = time.perf_counter() - start
    check = sorted(float(np.abs(value).mean()) for value in run(x))
    status = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
    print(json.dumps({"check": check, "load_s": load, "rss_mb": int(status) / 1e3}), flush=True)
    for _ in sys.stdin:
        start = clock()
        run(x)
        print(clock() - start, flush=True)


class Runner:
    """One engine on one case in its own process."""

    def __init__(self, engine, case, work, threads):
        python = sys.executable if engine == "ours" else str(work / "peers" / "bin" / "python")
        command = [python, __file__, "--worker", engine, "--case", case, "--work", str(work),
                   "--threads", str(threads)]  # fmt: skip
        self.name, self.case, self.seconds = engine, case, []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):
            line = self.process.stdout.readline()
        self.facts = json.loads(line) if line else None

    def once(self):
        """One inference."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.process.stdout.readline()))

    @property
    def ms(self):
        """Median."""
        return statistics.median(self.seconds) * 1e3

    @property
    def best_ms(self):
        """Shortest."""
        return min(self.seconds) * 1e3

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def build_peak(work, lanes):
    (work / "peak.c").write_text(PEAK_SOURCE)
    subprocess.run(
        ["gcc", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast",
         f"-DLANES={lanes}", "peak.c", "-o", "peak"],
        cwd=work, check=True,
    )  # fmt: skip


def measure(work, facts, rounds, threads):
    """Interleave everything; returns the runners and the peak in GFLOP/s."""
    runners = [Runner("ours", case, work, threads) for case in facts]
    for case in ("dense", "compact9", "compact36"):
        if case in facts and threads == 1:
            convert(work, case)
            runners += [Runner(peer, case, work, threads) for peer in PEERS]
    runners = [runner for runner in runners if runner.facts]
    peaks = []
    for _ in range(rounds):
        for runner in runners:
            runner.once()
        peaks.append(
            float(
                subprocess.run([work / "peak"], capture_output=True, text=True, check=True).stdout
            )
        )
    return runners, max(peaks)


def show(runners, facts, peak):
    print(f"peak {peak:.1f} GFLOP/s per core, measured in the same rounds")
    by_key = {(runner.name, runner.case): runner for runner in runners}
    dense = {name: by_key[name, "dense"].ms for name in PEERS if (name, "dense") in by_key}
    for runner in sorted(runners, key=lambda r: (CASES.index(r.case), r.name != "ours")):
        fact = facts[runner.case]
        rate = 2 * fact["kept_gmac"] / runner.ms * 1e3 / peak
        best = 2 * fact["kept_gmac"] / runner.best_ms * 1e3 / peak
        line = (
            f"{runner.case:10s} {runner.name:12s} median {runner.ms:8.2f} ms  min"
            f" {runner.best_ms:8.2f}  kept-MAC rate {rate:5.2f} (best {best:5.2f})"
            f"  load {runner.facts['load_s']:6.3f} s  RSS {runner.facts['rss_mb']:6.0f} MB"
        )
        if runner.name == "ours":
            rivals = [by_key[p, runner.case].ms for p in PEERS if (p, runner.case) in by_key]
            line += (
                f"  /best peer {runner.ms / min(rivals):.2f}"
                if rivals
                else "".join(
                    f"  {dense[p] / runner.ms:.1f}x {p} dense"
                    for p in ("onnxruntime", "ncnn")
                    if p in dense
                )
            )
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-tune", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if arguments.worker:
        worker(arguments.worker, arguments.case, work, arguments.threads)
        return
    work.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    facts = {}
    for case in arguments.cases.split(","):
        facts[case] = prepare(case, work, not arguments.no_tune)
        print(json.dumps(facts[case]), flush=True)
    install(work)
    build_peak(work, next(iter(facts.values()))["lanes"])
    runners, peak = measure(work, facts, arguments.rounds, arguments.threads)
    show(runners, facts, peak)
    for runner in runners:
        runner.close()


if __name__ == "__main__":
    main()
