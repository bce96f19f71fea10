"""A generic device when none is at hand: roofline latency and energy per layer.

    latency = sum max(MAC / (peak * util), bytes / bandwidth) + launch
    energy  = sum MAC * e_mac + DRAM bytes * e_dram + SRAM bytes * e_sram + idle power * latency

Everything here is an estimate and is flagged so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pneumonia.runtime.errors import DeviceError

PICOJOULE = 1e-12
# 45 nm reference energies, picojoule: one multiply and one add; DRAM and SRAM per byte.
MAC_PJ = {32: 3.7 + 0.9, 16: 1.1 + 0.4, 8: 0.2 + 0.03}
DRAM_PJ_PER_BYTE = 640.0 / 4
SRAM_PJ_PER_BYTE = 5.0 / 4
# Share of the peak reached when the smallest side of the matrix product is below the first number.
UTILISATION = ((8, 0.25), (16, 0.5), (32, 0.7), (64, 0.85))
FULL_UTILISATION = 0.95
UNALIGNED = 0.85  # further factor when the filters do not fill vectors of 8


class DeviceModel(NamedTuple):
    """A device: peak in MAC/s, bandwidth in bytes/s, idle power in W, launch in s per layer."""

    peak_mac_s: float
    bandwidth_bytes_s: float
    idle_w: float
    launch_s: float = 0.0


class LayerWork(NamedTuple):
    """What one layer does for one image.

    Attributes:
        macs: Multiply-accumulates really done.
        weight_bytes: In the real storage format.
        activation_bytes: Read and written.
        filters, columns, positions: The matrix product's sides r, c, OH*OW.
        bits: Of the arithmetic: 32, 16 or 8.
    """

    macs: int
    weight_bytes: int
    activation_bytes: int
    filters: int
    columns: int
    positions: int
    bits: int = 32


class DeviceEstimate(NamedTuple):
    """Latency and energy of one image; `estimated` is always true."""

    latency_s: float
    energy_j: float
    layer_latency_s: tuple[float, ...]
    estimated: bool = True


def utilisation(work: LayerWork) -> float:
    """Share of the peak a matrix product of these sides reaches."""
    smallest = min(work.filters, work.columns, work.positions)
    share = next((value for below, value in UTILISATION if smallest < below), FULL_UTILISATION)
    return share * (1.0 if work.filters % 8 == 0 else UNALIGNED)


def estimate(layers: Sequence[LayerWork], device: DeviceModel) -> DeviceEstimate:
    """Latency and energy of a network on a device, without running it."""
    times = tuple(
        max(
            work.macs / (device.peak_mac_s * utilisation(work)),
            (work.weight_bytes + work.activation_bytes) / device.bandwidth_bytes_s,
        )
        + device.launch_s
        for work in layers
    )
    latency = sum(times)
    energy = device.idle_w * latency
    for work in layers:
        moved = work.weight_bytes * DRAM_PJ_PER_BYTE + work.activation_bytes * SRAM_PJ_PER_BYTE
        energy += (work.macs * MAC_PJ[work.bits] + moved) * PICOJOULE
    return DeviceEstimate(latency, energy, times)


def calibrate(
    layers: Sequence[LayerWork], measured_s: Sequence[float], device: DeviceModel
) -> tuple[DeviceModel, float, float]:
    """Fit peak and bandwidth to measured layers by one common factor each.

    Layers bound by arithmetic scale the peak, those bound by memory the bandwidth (geometric
    mean of measured over estimated).

    Returns:
        The calibrated device, and the mean absolute relative error before and after.

    Raises:
        DeviceError: Nothing measured, or not one time per layer.
    """
    if not layers or len(layers) != len(measured_s):
        raise DeviceError(
            "Calibration needs measured layers",
            expected="one time per layer", found=f"{len(measured_s)} times, {len(layers)} layers",
        )  # fmt: skip
    factors: dict[bool, list[float]] = {True: [], False: []}
    for work, seconds in zip(layers, measured_s, strict=True):
        arithmetic = work.macs / (device.peak_mac_s * utilisation(work))
        memory = (work.weight_bytes + work.activation_bytes) / device.bandwidth_bytes_s
        free = max(seconds - device.launch_s, 1e-12)
        factors[arithmetic >= memory].append(free / max(arithmetic, memory))
    scale = {kind: float(np.exp(np.mean(np.log(f)))) if f else 1.0 for kind, f in factors.items()}
    fitted = device._replace(
        peak_mac_s=device.peak_mac_s / scale[True],
        bandwidth_bytes_s=device.bandwidth_bytes_s / scale[False],
    )
    return fitted, _error(layers, measured_s, device), _error(layers, measured_s, fitted)


def _error(layers: Sequence[LayerWork], measured_s: Sequence[float], device: DeviceModel) -> float:
    estimated = np.array(estimate(layers, device).layer_latency_s)
    measured = np.array(measured_s)
    return float(np.mean(np.abs(estimated - measured) / measured))
