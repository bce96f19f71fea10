"""Roofline of a network on a TX2, per power mode and engine.

    time of a layer = max(2 MAC / (peak * share), bytes / (bandwidth * share)) + launch
    energy = input power while busy * sum of times

Shares are what engines reach of the peaks: TensorRT from public YOLO timings on the board (YOLOv3
at 416 px takes about 100 ms in mode 0), ONNX Runtime from 815 ms for YOLO26s on the CPU, kernels
from the same code on x86 and from llvm-mca for the A57. All of it is `estimated`.
"""

import json
import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from deploy_jetson.device.estimate.calibration import EstimateCalibration
from deploy_jetson.device.estimate.tx2 import FLOP_PER_FMA, FP16_RATE, IDLE_W, PowerMode
from deploy_jetson.device.estimate.work import LayerWork
from pneumonia.runtime.engines.kernels import REPORT
from pneumonia.runtime.engines.thread_count import cores_of_threads, threads_of_work
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.storage.bundle import Bundle

KERNELS_REPORT = REPORT.format("cortex-a57")
# Small matrix products fill the GPU badly: share of the full rate when a side is below the number.
SMALL_SIDES = ((16, 0.4), (32, 0.6), (64, 0.8))
LATENCY_BAND = 1.5  # uncalibrated: true latency within this factor either way
POWER_BAND = 1.35


class EngineModel(NamedTuple):
    """How an engine uses the board."""

    name: str  # as `--engine` names it
    on_gpu: bool  # GPU or CPU
    value_bytes: int  # of weights and activations in memory
    arithmetic_share: float  # of the peak, for large layers
    memory_share: float  # of the bus
    launch_s: float  # fixed time of a layer
    skips_zeros: bool  # whether zero weights cost nothing
    few_threads: bool = False  # whether a small network runs on fewer threads than there are cores


ENGINE_MODELS = {
    model.name: model
    for model in (
        EngineModel("tensorrt", True, 2, 0.50, 0.60, 15e-6, False),
        EngineModel("kernels", False, 4, 0.85, 0.35, 3e-6, True, True),
        EngineModel("onnxruntime", False, 4, 0.40, 0.35, 30e-6, False),
    )
}


class NetworkEstimate(NamedTuple):
    """Prediction for one network, engine and power mode; always estimated."""

    # engine, mode: what it is for
    engine: str
    mode: PowerMode
    threads: int  # threads of a CPU engine; 0 on the GPU
    latency_s: float  # of one image
    # idle_w, busy_w: at the module's input
    idle_w: float
    busy_w: float
    # latency_band, power_band: the truth is expected within these factors either way
    latency_band: float
    power_band: float
    basis: str  # where the figures come from, as text

    @property
    def energy_j(self) -> float:
        """Gross energy of one image in a busy loop."""
        return self.busy_w * self.latency_s

    @property
    def net_energy_j(self) -> float:
        """Energy of one image above idle."""
        return (self.busy_w - self.idle_w) * self.latency_s

    def record(self) -> Dict[str, Any]:
        """As data for energy.json."""
        return {
            "estimated": True,
            "engine": self.engine,
            "mode": self.mode.number,
            "threads": self.threads,
            "latency_ms": self.latency_s * 1e3,
            "idle_w": self.idle_w,
            "busy_w": self.busy_w,
            "energy_j": self.energy_j,
            "net_energy_j": self.net_energy_j,
            "latency_band": self.latency_band,
            "power_band": self.power_band,
            "basis": self.basis,
        }


def _small_share(row: LayerWork) -> float:
    smallest = min(row.filters, row.columns)
    return next((share for below, share in SMALL_SIDES if smallest < below), 1.0)


def _threads(
    work: Sequence[LayerWork], engine: EngineModel, mode: PowerMode, wanted: Optional[int]
) -> int:
    """Threads of a CPU engine, as the engine itself chooses them; 0 on the GPU."""
    if engine.on_gpu:
        return 0
    if wanted is None and engine.few_threads:
        return threads_of_work(sum(row.macs for row in work), mode.cpu_cores)
    return min(wanted or mode.cpu_cores, mode.cpu_cores)


def _layer_s(row: LayerWork, engine: EngineModel, mode: PowerMode, threads: int) -> float:
    if engine.on_gpu:
        peak = mode.gpu_fp32_flop_s * (FP16_RATE if engine.value_bytes == 2 else 1.0)
        peak *= _small_share(row) if row.macs else 1.0
    else:
        peak = mode.core_flop_s * cores_of_threads(threads)
    macs = row.kept_macs if engine.skips_zeros else row.macs
    weights = row.kept_weights if engine.skips_zeros else row.weights
    moved = (weights + row.values_in + row.values_out) * engine.value_bytes
    arithmetic = FLOP_PER_FMA * macs / (peak * engine.arithmetic_share)
    return max(arithmetic, moved / (mode.memory_bytes_s * engine.memory_share)) + engine.launch_s


class KernelFacts(NamedTuple):
    """The kernel generator's figures of a network on the A57."""

    cycles: float  # predicted for the whole network on one core
    fmla_per_cycle: Optional[float]  # median of the hot loops by llvm-mca; None when it was not run


def kernel_facts(bundle: Bundle) -> Optional[KernelFacts]:
    """Cycles from the bundle's `pneumonia kernels --target cortex-a57` report, if it has one."""
    if KERNELS_REPORT not in bundle.manifest["files"]:
        return None
    try:
        with open(bundle.file(KERNELS_REPORT), encoding="utf-8") as stream:
            document = json.load(stream)
        cycles = float(document["predicted_cycles"])
        rates = sorted(
            float(loop["per_cycle"])
            for loop in document.get("hot_loops", [])
            if loop.get("per_cycle")
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # not a report of this format: use the roofline alone
    if document.get("model_hash") != bundle.model_hash or not 0 < cycles < math.inf:
        return None
    return KernelFacts(cycles, rates[len(rates) // 2] if rates else None)


def _kernels_s(facts: KernelFacts, layers: Sequence[float], mode: PowerMode, threads: int) -> float:
    """Latency from cycles, seconds; at least that of the memory bus and of the roofline."""
    rate = min(1.0, facts.fmla_per_cycle or 1.0)
    cycles_s = facts.cycles / rate / (mode.cpu_ghz * 1e9 * cores_of_threads(threads))
    floor = sum(layers) * ENGINE_MODELS["kernels"].arithmetic_share
    return max(cycles_s, floor)


def find_engine_model(name: str) -> EngineModel:
    """The model of an engine.

    Raises:
        ConfigError: Nothing is known about it on a TX2.
    """
    if name not in ENGINE_MODELS:
        raise ConfigError(
            "No estimate for this engine",
            expected="one of " + ", ".join(ENGINE_MODELS),
            found=repr(name),
            where="--engine",
        )
    return ENGINE_MODELS[name]


def estimate(
    work: List[LayerWork],
    engine_name: str,
    mode: PowerMode,
    facts: Optional[KernelFacts] = None,
    calibration: Optional[EstimateCalibration] = None,
    threads: Optional[int] = None,
) -> NetworkEstimate:
    """Predict one network on one engine in one mode.

    Args:
        work: From `network_work`.
        engine_name: One of `ENGINE_MODELS`.
        mode: One of `tx2.MODES`.
        threads: Of a CPU engine; None = as many as it takes by itself.

    Raises:
        ConfigError: Unknown engine.
    """
    engine = find_engine_model(engine_name)
    threads = _threads(work, engine, mode, threads)
    layers_s = [_layer_s(row, engine, mode, threads) for row in work]
    latency, basis = sum(layers_s), "roofline"
    if engine_name == "kernels" and facts is not None:
        latency = _kernels_s(facts, layers_s, mode, threads)
        basis = "generator's cost model"
        if facts.fmla_per_cycle is not None:
            basis += " with llvm-mca's FMLA per cycle"
    idle_w, busy_w = IDLE_W, mode.busy_w(engine.on_gpu, threads)
    bands = (LATENCY_BAND, POWER_BAND)
    if calibration is not None:
        factors = calibration.factors(engine_name)
        latency *= factors.latency
        idle_w, busy_w = idle_w * factors.idle, busy_w * factors.busy
        bands = (factors.latency_band or bands[0], factors.power_band or bands[1])
        basis += ", calibrated by {} run(s)".format(factors.runs) if factors.runs else ""
    return NetworkEstimate(
        engine_name, mode, threads, latency, idle_w, busy_w, bands[0], bands[1], basis
    )
