"""What the shipped detector would cost on memristor crossbars and inside SOT-MRAM.

    python -m benchmarks.compression_cost.in_memory_cost

Compares the bundles `dense` and `36x` of benchmarks/models, and `36x` with 8-bit weights. Both cost
models are estimates with placeholder constants (`calibrated`: false): only ratios mean anything.
Weights that are not quantized count as 16-bit fixed point. The accuracy of 8-bit weights is not
measured here. Prints the table and writes results/in_memory_cost.json.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.reporting import RESULTS, markdown_table, write_results
from evaluation.hardware import crossbar, sot_mram
from pneumonia.compression.report.page import ACTIVATION_BITS, MeasuredNetwork, sot_mram_loads
from pneumonia.network.accounting import account
from pneumonia.network.files import load_model
from pneumonia.network.module import Network

BENCHMARKS = Path(__file__).parents[1]
FIXED_POINT_BITS = 16


class QuantizedBundle(NamedTuple):
    """One column of the table: a bundle, and the bits that each of its weights gets."""

    name: str
    bundle: str
    bits: int


CASES = (
    QuantizedBundle("dense", "dense", FIXED_POINT_BITS),
    QuantizedBundle("36x", "36x", FIXED_POINT_BITS),
    QuantizedBundle("36x, 8 bits", "36x", 8),
)


def measured(bundle: str) -> MeasuredNetwork:
    """A bundle of benchmarks/models with dense weights."""
    spec, tensors = load_model(BENCHMARKS / "models" / bundle)
    network = Network(spec)
    network.load_tensors(tensors)
    weights = {name: weight.detach() for name, weight in network.weights().items()}
    return MeasuredNetwork(bundle, spec, weights, account(spec, tensors))


def crossbar_cost(network: MeasuredNetwork, bits: int) -> dict[str, float]:
    """Arrays, area and power, and cells written once: both polarities, every slice."""
    model = crossbar.CrossbarModel()
    supports = {
        name: (weight.reshape(len(weight), -1) != 0).numpy()
        for name, weight in network.weights.items()
    }
    n_arrays = sum(crossbar.arrays_of(supports, dict.fromkeys(supports, bits), model).values())
    found = crossbar.cost(n_arrays, model)
    kept = sum(int(np.count_nonzero(support)) for support in supports.values())
    written = 2 * crossbar.slices(bits, model) * kept
    return {
        "arrays": n_arrays, "area_mm2": found.area_mm2, "power_mw": found.power_mw,
        "cells_written": written,
        "filled": written / (n_arrays * model.word_lines * model.bit_lines),
    }  # fmt: skip


def sot_mram_cost(network: MeasuredNetwork, bits: int, capacity_bits: int = 0) -> dict[str, float]:
    """Cells, sub-arrays, and energy, time and writes of one image; arbitrary units."""
    loads = [load._replace(weight_bits=bits) for load in sot_mram_loads(network)]
    found = sot_mram.network_cost(loads, sot_mram.SotMramModel(capacity_bits=capacity_bits))
    return {
        "cells_written": found.cells,
        "sub_arrays": sum(layer.sub_arrays for layer in found.layers),
        "area": found.area, "energy": found.energy, "latency_ms": found.latency_ns / 1e6,
        "reload_bits": found.reload_bits,
    }  # fmt: skip


ROWS = (
    ("weights", "weights", ","),
    ("crossbar: arrays of 128 x 64", "crossbar.arrays", ","),
    ("crossbar: area, mm2", "crossbar.area_mm2", ".2f"),
    ("crossbar: power, all arrays busy, mW", "crossbar.power_mw", ",.0f"),
    ("crossbar: cells written once", "crossbar.cells_written", ","),
    ("crossbar: share of the cells that hold a weight", "crossbar.filled", ".0%"),
    ("SOT-MRAM: cells written once", "sot_mram.cells_written", ","),
    ("SOT-MRAM: sub-arrays of 256 x 256", "sot_mram.sub_arrays", ","),
    ("SOT-MRAM: area, cells", "sot_mram.area", ",.0f"),
    ("SOT-MRAM: energy of an image, arbitrary unit", "sot_mram.energy", ".3g"),
    ("SOT-MRAM: time of an image, ms", "sot_mram.latency_ms", ",.1f"),
    ("SOT-MRAM that holds the smallest: cells written again for each image",
     "sot_mram_small.reload_bits", ","),
    ("SOT-MRAM that holds the smallest: time of an image, ms",
     "sot_mram_small.latency_ms", ",.1f"),
)  # fmt: skip


def table(results: list[dict]) -> str:
    """The results as a Markdown table, with the factor from the first to the last case."""
    last = results[-1]["case"]
    lines = []
    for title, key, how in ROWS:
        values = []
        for row in results:
            value = row
            for part in key.split("."):
                value = value[part]
            values.append(value)
        less = (
            f"{values[0] / values[-1]:.1f}x"
            if values[0] > values[-1] > 0 and "%" not in how
            else ""
        )
        lines.append((title, *(format(value, how) for value in values), less))
    return markdown_table(("", *(row["case"] for row in results), f"{last}: less by"), lines)


def main() -> None:
    networks = {bundle: measured(bundle) for bundle in dict.fromkeys(c.bundle for c in CASES)}
    last = CASES[-1]
    smallest = int(sot_mram_cost(networks[last.bundle], last.bits)["cells_written"])
    results = [
        {
            "case": case.name, "bits": case.bits, "activation_bits": ACTIVATION_BITS,
            "weights": networks[case.bundle].account.totals.kept_weights,
            "crossbar": crossbar_cost(networks[case.bundle], case.bits),
            "sot_mram": sot_mram_cost(networks[case.bundle], case.bits),
            "sot_mram_small": sot_mram_cost(networks[case.bundle], case.bits, smallest),
            "calibrated": False,
        }
        for case in CASES
    ]  # fmt: skip
    write_results(RESULTS / "in_memory_cost.json", results)
    print(table(results))


if __name__ == "__main__":
    main()
