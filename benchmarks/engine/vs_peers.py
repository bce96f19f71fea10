"""The generated engine against ONNX Runtime, OpenVINO, ncnn and MNN on YOLOv3-416, one run.

    python -m benchmarks.engine.vs_peers --work /tmp/engine-bench [--parts speed,threads,...]
        [--target x86-avx2]

Installs the peers in a virtual environment of their own below --work, writes networks with real
sparsity structure, and times every engine in its own process, one inference after another in
turn (A B C A B C), one thread, end to end without NMS. The core's multiply-add peak is measured in
the same rounds. Absolute times move with the machine's load; the ratios of one run do not.

--target: any target that runs here, such as the AVX2 kernels on a core with AVX-512; the peak is
that of its vectors, the peers use what the machine has.

Parts: `speed` (one thread, CPU time), `kinds` (our time by kind of kernel), `threads` (our engine
on two threads against one, wall time; wants two cores to itself for a minute), `a57` (static
analysis and predictions for the Jetson TX2's CPU; nothing of it is measured there), `layers` (lists
whole, in pieces, and Winograd, layer by layer), `storage` (weights as float32, halves and bytes).
Each part replaces its section of benchmarks/results/engine_vs_peers.json; the .md beside it is
written from all of them.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.engine import peers as engine_peers
from benchmarks.engine.cases import CASES, PreparedLibrary, network, prepare
from benchmarks.engine.details import layers, storage
from benchmarks.engine.goals import markdown
from benchmarks.engine.peak import build_peak
from benchmarks.engine.runner import EngineStopped, Runner, first_of_all
from benchmarks.engine.scaling import measure_scaling
from benchmarks.reporting import RESULTS, argument_parser, program_version, write_results
from deploy_jetson.kernels.compile.compilers import find_compiler
from deploy_jetson.kernels.compile.lower import lower
from deploy_jetson.kernels.compile.mca import find_mca, hot_loops
from deploy_jetson.kernels.generate import model_chooser
from deploy_jetson.kernels.plan.steps import variants_of
from deploy_jetson.kernels.report import board_predictions, dense_macs, layer_records
from deploy_jetson.kernels.targets import (
    NATIVE,
    TARGETS,
    Target,
    cpu_name,
    find_target,
    runs_here,
)
from pneumonia.runtime.engines.kernel_library import KernelLibrary

PARTS = ("speed", "kinds", "threads", "a57", "layers", "storage")
SCHEMA = "pneumonia.benchmark.engine-vs-peers/1"
PROFILES = 25


# --- parts ------------------------------------------------------------------------------------


class EngineSetting(NamedTuple):
    """What every part that times our engine is given."""

    work: Path  # folder for peers, networks and libraries
    target: Target  # the machine our kernels are generated for
    tuned: bool  # choose kernels by measuring, not by the cost model
    realtime: bool  # time at real-time priority

    @cache  # noqa: B019 - there is one setting
    def prepare(self, name: str) -> PreparedLibrary:
        """The case's network and library, made once for all parts."""
        print_stage(f"{name}: choosing kernels, generating and compiling")
        made = prepare(CASES[name], self.work, self.target, self.tuned)
        print_stage(f"{name}: {json.dumps(made.facts)}")
        return made


STARTED = time.monotonic()
_stage = "starting"


def print_stage(stage: str) -> None:
    """Print what the benchmark does now, with the seconds since its start."""
    global _stage  # noqa: PLW0603 - for the message of `stopped`
    _stage = stage
    print(f"[{time.monotonic() - STARTED:5.0f} s] {stage}", file=sys.stderr, flush=True)


def stopped(number: int, frame: object) -> None:
    """Say which signal ends the benchmark, and where."""
    name = signal.Signals(number).name
    raise SystemExit(f"vs_peers: stopped by {name} after: {_stage}; parts done so far are written")


def opened(
    setting: EngineSetting, prepared: dict[str, PreparedLibrary]
) -> tuple[list[Runner], list[str]]:
    """Every engine on its cases, and the peers that do not run."""
    runners, failed = [], []
    for name, one in prepared.items():
        if one.case.peers:
            print_stage(f"{name}: converting for the peers, unless it is done")
            engine_peers.convert(setting.work, name, one.shape)
        for engine in (engine_peers.OURS, *(engine_peers.PEERS if one.case.peers else ())):
            print_stage(f"{name}: opening {engine}")
            runner = Runner(engine, name, one.shape, setting.work, setting.realtime)
            if runner.facts:
                runners.append(runner)
                continue
            print_stage(f"{name}: {engine} does not run: {runner.last_error()}")
            failed.append(f"{engine} on {name}")
            if engine == engine_peers.OURS:
                raise SystemExit(f"vs_peers: our own engine does not run on {name}; see above")
    return runners, failed


def _runs(runner: Runner) -> bool:
    """Time an engine once; False for a peer that stops."""
    try:
        runner.once()
    except EngineStopped as stop:
        if runner.engine == engine_peers.OURS:
            raise
        print_stage(str(stop))
        return False
    return True


def speed(setting: EngineSetting, names: list[str], rounds: int) -> dict[str, Any]:
    """All engines on one thread, interleaved with the peak."""
    work, target, tuned, realtime = setting
    prepared = {}
    for name in names:
        prepared[name] = setting.prepare(name)
    print_stage("peers: installing, unless they are there")
    python = engine_peers.install(work)
    build_peak(work, target)
    runners, failed = opened(setting, prepared)
    peaks = []
    for done in range(rounds):
        for runner in [runner for runner in runners if not _runs(runner)]:
            runners.remove(runner)
            failed.append(f"{runner.engine} on {runner.case}")
        answer = subprocess.check_output(
            [work / "peak"], text=True, preexec_fn=first_of_all if realtime else None
        )
        peaks.append(float(answer))
        print_stage(f"round {done + 1} of {rounds} of all engines")
    for runner in runners:
        runner.close()
    print_stage("comparing the outputs with ONNX Runtime's")
    return {
        "rounds": rounds, "tuned": tuned, "target": target.name, "lanes": target.lanes,
        "failed": failed,
        "peers": engine_peers.versions(python),
        "peak_gflops": statistics.median(peaks), "peak_gflops_all": [round(p, 1) for p in peaks],
        "cases": {
            name: {
                **one.facts, "relative_error": errors(work, one),
                "engines": {r.engine: r.result() for r in runners if r.case == name},
            }
            for name, one in prepared.items()
        },
    }  # fmt: skip


def kinds(setting: EngineSetting, names: list[str]) -> dict[str, Any]:
    """Our engine's time by kind of kernel, for every case."""
    found = {}
    for name in names:
        one = setting.prepare(name)
        print_stage(f"{name}: timing every step")
        found[name] = cost_by_kind(one, setting.realtime)
    build_peak(setting.work, setting.target)
    peak = float(subprocess.check_output([setting.work / "peak"]))
    return {"target": setting.target.name, "peak_gflops": peak, "cases": found}


def cost_by_kind(one: PreparedLibrary, realtime: bool) -> dict[str, dict[str, float]]:
    """CPU time and kept multiply-adds of each kind of kernel, steps timed one by one.

    `ms` adds up the steps' medians, `min_ms` their quickest runs.
    """
    library = KernelLibrary(str(one.library))
    image = np.random.default_rng(1).standard_normal(library.input_shape).astype(np.float32)
    if realtime:
        first_of_all()
    library.profile(image)
    runs = [library.profile(image) for _ in range(PROFILES)]
    if realtime:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    library.close()
    found: dict[str, dict[str, float]] = {}
    counted: set[str] = set()
    for index, (name, _) in enumerate(runs[0]):
        layers_of = [layer for layer in name.split(" + ") if layer in one.kinds]
        kind = one.kinds[layers_of[0]] if layers_of else "other"
        row = found.setdefault(kind, {"ms": 0.0, "min_ms": 0.0, "kept_gmac": 0.0})
        row["ms"] += statistics.median(run[index][1] for run in runs) * 1e3
        row["min_ms"] += min(run[index][1] for run in runs) * 1e3
        for layer in set(layers_of) - counted:
            row["kept_gmac"] += one.layer_gmac[layer]
        counted.update(layers_of)
    return found


def errors(work: Path, one: PreparedLibrary) -> dict[str, float | None]:
    """Largest error of each engine's outputs over their largest value, against ONNX Runtime.

    None where an engine answers with NaN, or with outputs of other sizes (pnnx drops a part of the
    shipped model's reordering of channels).
    """
    import onnxruntime

    x = np.random.default_rng(1).standard_normal((1, *one.shape)).astype(np.float32)
    path = work / one.case.name
    session = onnxruntime.InferenceSession(f"{path}.onnx", providers=["CPUExecutionProvider"])
    heads = engine_peers.sorted_by_size(session.run(None, {session.get_inputs()[0].name: x}))
    expected = np.concatenate(heads)
    found: dict[str, float | None] = {}
    for engine in engine_peers.OPENERS:
        file = Path(f"{path}.{engine}.npy")
        if file.exists():
            value = np.load(file)
            same = value.shape == expected.shape
            error = np.abs(value - expected).max() / np.abs(expected).max() if same else np.nan
            found[engine] = float(error) if np.isfinite(error) else None
    return found


def threads(setting: EngineSetting, names: list[str]) -> dict[str, Any]:
    """Our engine on two threads against one, wall time, interleaved."""
    libraries = {name: str(setting.prepare(name).library) for name in names}
    found = measure_scaling(libraries, print_stage)
    return {"target": setting.target.name, "cores": len(os.sched_getaffinity(0)), "cases": found}


def a57(names: list[str]) -> dict[str, Any]:
    """Spills, llvm-mca and predictions for the Cortex-A57; nothing is run on one."""
    target = TARGETS["cortex-a57"]
    cases = {}
    for name in names:
        spec, tensors = network(CASES[name])
        plan = lower(spec, tensors, target, model_chooser(target))
        loops = hot_loops(target, variants_of(plan.steps, target))
        layers = layer_records(plan)
        cycles = sum(layer["predicted_cycles"] for layer in layers)
        by_kind: dict[str, dict[str, Any]] = {}
        for loop in loops:
            kind = loop.function.split("_")[0].rstrip("0123456789")
            row = by_kind.setdefault(kind, {"loops": 0, "spills": 0, "fmla_per_cycle": []})
            row["loops"] += 1
            row["spills"] += loop.spills
            row["fmla_per_cycle"].append(round(loop.per_cycle or 0.0, 3))
        for row in by_kind.values():
            rates = row.pop("fmla_per_cycle")
            row["fmla_per_cycle_min"] = min(rates)
            row["fmla_per_cycle_median"] = statistics.median(rates)
        cases[name] = {
            "hot_loops": by_kind,
            "kept_gmac": sum(layer["kept_macs"] for layer in layers) / 1e9,
            "predicted_mcycles": cycles / 1e6,
            "predicted_ms": {
                f"mode {row['mode']} {row['name']}": row["predicted_ms"]
                for row in board_predictions(target, cycles, dense_macs(plan))["tx2"]
            },
        }
        print(name, json.dumps(cases[name]), flush=True)
    compiler = find_compiler(target)
    return {
        "basis": "static analysis (llvm-mca, cost model); predicted, not measured on a device",
        "compiler": program_version(*compiler.command),
        "llvm_mca": program_version(find_mca() or "llvm-mca"),
        "cases": cases,
    }


# --- the file ---------------------------------------------------------------------------------


def machine(target: Target) -> dict[str, Any]:
    """Description of the machine the benchmark ran on."""
    return {
        "cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform(),
        "targets_that_run_here": [name for name in TARGETS if runs_here(TARGETS[name])],
        "python": platform.python_version(), "numpy": np.__version__,
        "compiler": program_version(*find_compiler(target).command),
    }  # fmt: skip


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for peers and networks")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: all")
    parser.add_argument("--cases", default=",".join(CASES))
    here = [name for name in TARGETS if runs_here(TARGETS[name])]
    parser.add_argument("--target", choices=(NATIVE, *here), default=NATIVE)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--realtime", action="store_true", help="time at real-time priority")
    parser.add_argument("--no-tune", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine_vs_peers.json")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    out: Path = arguments.out
    names = arguments.cases.split(",")
    target = find_target(arguments.target)
    setting = EngineSetting(work, target, not arguments.no_tune, arguments.realtime)
    document = json.loads(out.read_text()) if out.exists() else {}
    document |= {"schema": SCHEMA, "machine": machine(target)}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stopped)
    parts: dict[str, Callable[[], Any]] = {
        "speed": lambda: speed(setting, names, arguments.rounds),
        "kinds": lambda: kinds(setting, names),
        "threads": lambda: threads(setting, names),
        "a57": lambda: a57(names),
        "layers": lambda: layers(target),
        "storage": lambda: storage(work, target),
    }
    chosen = arguments.parts.split(",")
    for part in chosen:
        if part not in parts:
            parser.error(f"unknown part {part!r}: {', '.join(parts)}")
    for part in chosen:
        print_stage(f"part {part}")
        document[part] = parts[part]()
        text = markdown(document)
        write_results(out, document, text)
    print_stage(f"written: {out} and {out.with_suffix('.md')}")
    print(text)


if __name__ == "__main__":
    main()
