"""One inference engine in a process of its own: the workers of `engine_vs_peers`.

Runs in the peers' virtual environment, so it imports NumPy and the engine, nothing of ours; only
the worker of our engine finds the package on its path.

    python engine_peers.py ENGINE NAME FOLDER THREADS CHANNELS HEIGHT WIDTH

A line on stdin asks for one inference, its answer on stdout is the seconds it took.
"""

import importlib
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("onnxruntime", "openvino", "ncnn", "mnn")
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "MNN", "protobuf>=6.31.1")
OURS = "ours"
Run = Callable[[Any], list[Any]]


def install(work: Path) -> Path:
    """A virtual environment with the peers, once; returns its interpreter."""
    folder = work / "peers"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (folder / "installed").touch()
    return python


def versions(python: Path) -> dict[str, str]:
    """Installed versions of the peers."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = {package.split(">")[0].lower() for package in PACKAGES}
    return {
        package["name"]: package["version"]
        for package in json.loads(listed.stdout)
        if package["name"].lower() in wanted
    }


def convert(work: Path, name: str, shape: tuple[int, int, int]) -> None:
    """The ONNX file for ncnn and MNN, with those projects' own converters, in float32."""
    tools = work / "peers" / "bin"
    size = ",".join(map(str, (1, *shape)))
    if not (work / f"{name}.ncnn.param").exists():
        subprocess.run(
            [tools / "pnnx", f"{name}.onnx", f"inputshape=[{size}]", "fp16=0"],
            cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    if not (work / f"{name}.mnn").exists():
        subprocess.run(
            [tools / "mnnconvert", "-f", "ONNX", "--modelFile", f"{name}.onnx", "--MNNModel",
             f"{name}.mnn", "--bizCode", "bench"],
            cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip


def open_ours(path: Path, threads: int) -> Run:
    """The generated library."""
    sys.path.insert(0, str(ROOT))
    engine = importlib.import_module("pneumonia.runtime.engines.kernel_library")
    library = engine.KernelLibrary(f"{path.parent}/lib{path.name}.so", threads=threads)
    return lambda x: list(library.run(x[0]).values())


def open_onnxruntime(path: Path, threads: int) -> Run:
    """ONNX Runtime, CPU provider, all graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        f"{path}.onnx", options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def open_openvino(path: Path, threads: int) -> Run:
    """OpenVINO in float32 (its default on some CPUs is bfloat16)."""
    openvino = importlib.import_module("openvino")
    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    model = openvino.Core().compile_model(f"{path}.onnx", "CPU", settings)
    request = model.create_infer_request()
    return lambda x: [np.array(value) for value in request.infer({0: x}).values()]


def open_ncnn(path: Path, threads: int) -> Run:
    """The ncnn engine in float32, Winograd and all, its files made by pnnx."""
    ncnn = importlib.import_module("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = net.opt.use_bf16_storage = False
    net.opt.use_fp16_arithmetic = net.opt.use_fp16_storage = net.opt.use_fp16_packed = False
    net.load_param(f"{path}.ncnn.param")
    net.load_model(f"{path}.ncnn.bin")

    def run(x: Any) -> list[Any]:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(x[0]).clone())
            return [np.array(extractor.extract(f"out{i}")[1]) for i in range(3)]

    return run


def open_mnn(path: Path, threads: int) -> Run:
    """MNN in float32 (`precision` high)."""
    mnn = importlib.import_module("MNN")
    interpreter = mnn.Interpreter(f"{path}.mnn")
    session = interpreter.createSession(
        {"backend": "CPU", "numThread": threads, "precision": "high"}
    )
    source = interpreter.getSessionInput(session)
    outputs = interpreter.getSessionOutputAll(session)

    def tensor(shape: tuple[int, ...], values: Any) -> Any:
        kind, layout = mnn.Halide_Type_Float, mnn.Tensor_DimensionType_Caffe
        return mnn.Tensor(shape, kind, values, layout)

    def run(x: Any) -> list[Any]:
        source.copyFrom(tensor(x.shape, x.reshape(-1)))
        interpreter.runSession(session)
        values = []
        for output in outputs.values():
            host = tensor(output.getShape(), np.zeros(output.getShape(), np.float32))
            output.copyToHostTensor(host)
            values.append(np.array(host.getData(), np.float32))
        return values

    return run


OPENERS: dict[str, Callable[[Path, int], Run]] = {
    OURS: open_ours, "onnxruntime": open_onnxruntime, "openvino": open_openvino,
    "ncnn": open_ncnn, "mnn": open_mnn,
}  # fmt: skip


def resident_mb() -> float:
    """Resident memory of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def serve(engine: str, path: Path, threads: int, shape: tuple[int, ...]) -> None:
    """Answer every line of stdin with the seconds of one inference.

    On one thread that is CPU time: what other processes take of a shared core does not count.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    x = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    if engine == OURS:
        sys.path.insert(0, str(ROOT))
        importlib.import_module("pneumonia.runtime.engines.kernel_library")
    before, start = resident_mb(), time.perf_counter()
    run = OPENERS[engine](path, threads)
    opened = time.perf_counter()
    outputs = run(x)
    first = time.perf_counter()
    np.save(f"{path}.{engine}.npy", np.concatenate(sorted_by_size(outputs)))
    facts = {
        "load_s": opened - start, "first_inference_s": first - opened,
        "resident_mb": resident_mb() - before, "process_mb": resident_mb(),
    }  # fmt: skip
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = clock()
        run(x)
        print(clock() - start, flush=True)


def sorted_by_size(outputs: list[Any]) -> list[Any]:
    """Outputs as vectors, the smallest head first: engines name and order them differently."""
    return sorted((np.asarray(value, np.float32).reshape(-1) for value in outputs), key=len)


if __name__ == "__main__":
    _, chosen, name, folder, n_threads, *size = sys.argv
    serve(chosen, Path(folder) / name, int(n_threads), tuple(map(int, size)))
