"""`pneumonia inspect --report`: a page on how a network was compressed and what it costs."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from evaluation.hardware import crossbar, sot_mram
from evaluation.report import compression_plots as plots
from evaluation.report.page import ExtraFigure, ExtraSection, ExtraTable, render
from pneumonia.compression.quantize.mismatch import ChipMetrics
from pneumonia.network.accounting import NetworkAccount
from pneumonia.network.files import quantized_layers
from pneumonia.runs.compression import read_compression
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.names import RESIDUALS_TABLE
from pneumonia.runtime.atomic import write_json, write_text
from pneumonia.runtime.model.spec import NetworkSpec, positions

PAGE, DATA = "compression.html", "compression.json"
SCHEMA = "pneumonia.compression-report/1"
FLOAT_BITS_CROSSBAR = 9  # a float weight counts as this: the published dense baseline
MOST_BITS_SOT_MRAM = 8
ACTIVATION_BITS = 8
MOST_HISTOGRAMS = 24
Support = npt.NDArray[np.bool_]


class MeasuredNetwork(NamedTuple):
    """A network with its weights."""

    name: str  # as on the page
    spec: NetworkSpec  # the network
    weights: Mapping[str, Tensor]  # layer -> dense weight
    account: NetworkAccount  # layers and totals


class CompressionReport(NamedTuple):
    """Networks and run data shown on the page."""

    model: MeasuredNetwork  # the compressed network
    # what it is compared with: the network it came from, or its own dense form
    reference: MeasuredNetwork
    run: RunFolder | None = None  # its run folder, where there is one: for rates and residuals
    chips: ChipMetrics | None = None  # accuracy on imperfect chips, when it was simulated
    metric: str = ""  # name of that accuracy


def write_page(out: Path, report: CompressionReport) -> None:
    """Write compression.html and compression.json into a folder.

    Raises:
        OutputError: They cannot be written.
    """
    crossbars, arrays = crossbar_section(report)
    memory, cells = sot_mram_section(report)
    sections = [
        totals_section(report),
        *rates_section(report),
        *residuals_section(report.run),
        weights_section(report.model),
        crossbars,
        memory,
    ]
    context = {"title": f"Compression of {report.model.name}", "sections": sections}
    write_text(str(out / PAGE), render("compression.html.j2", context))
    chips = report.chips
    write_json(
        str(out / DATA),
        {
            "schema": SCHEMA,
            "model": report.model.name,
            "reference": report.reference.name,
            "totals": report.model.account.totals._asdict(),
            "crossbar": arrays,
            "sot_mram": cells,
            "chips": None
            if chips is None
            else {
                "metric": report.metric, "sigma": chips.sigma, "ideal": chips.ideal,
                "mean": chips.mean, "deviation": chips.deviation, "metrics": list(chips.metrics),
            },
        },
    )  # fmt: skip


def totals_section(report: CompressionReport) -> ExtraSection:
    """Weights, multiply-accumulates and bytes, model beside reference."""
    before, after = report.reference.account.totals, report.model.account.totals
    rows = [
        _row("Weights stored", before.kept_weights, after.kept_weights),
        _row("Multiply-accumulates of them", before.kept_macs, after.kept_macs),
        _row("Bits of values", before.storage_bits, after.storage_bits),
        _row("Bits of indices", before.index_bits, after.index_bits),
        _row(
            "Bits together",
            before.storage_bits + before.index_bits,
            after.storage_bits + after.index_bits,
        ),
    ]
    header = ("", report.reference.name, report.model.name, "Less by")
    return ExtraSection("Size", (), "", [ExtraTable(header, rows), *_rates_table(report.run)])


def _rates_table(run: RunFolder | None) -> list[ExtraTable]:
    """Nominal and realised rates as the pruning run wrote them; none for other runs."""
    record = _report(run)
    rows = [
        (name, *(_rate_text(record.get(key)) for key in keys))
        for name, keys in (
            ("Weights", ("nominal_rate", "realised_rate")),
            ("Multiply-accumulates", ("nominal_mac_rate", "mac_rate")),
        )
        if "nominal_rate" in record and isinstance(record.get(keys[1]), float)
    ]
    if not rows:
        return []
    note = (
        "Against the network the run began with. Nominal: inside the masks as projected; realised: "
        "stored after compaction, without dead paths."
    )
    return [ExtraTable(("Rate", "Nominal", "Realised"), rows, "", note)]


def _rate_text(rate: object) -> str:
    return f"{rate:.2f}x" if isinstance(rate, float) else "not recorded"


def _row(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    ratio = f"{before / after:.2f}x" if after and before else ""
    return name, f"{before:,}", f"{after:,}", ratio


def rates_section(report: CompressionReport) -> list[ExtraSection]:
    """Pruning rate of every layer: planned, if the run recorded it, and as stored."""
    stored = {row.name: row.kept_weights for row in report.model.account.layers if row.weights}
    rows = _report(report.run).get("layers")
    planned = {
        row["name"]: float(row["nominal_rate"])
        for row in (rows if isinstance(rows, list) else [])
        if "nominal_rate" in row and row["name"] in stored
    }
    realised = {
        row.name: row.kept_weights / max(stored[row.name], 1)
        for row in report.reference.account.layers
        if row.name in stored
    }
    gone = [row.name for row in report.reference.account.layers if row.weights]
    gone = [name for name in gone if name not in stored]
    if not gone and (not realised or max(realised.values()) < 1.1):  # quantized, not pruned
        return []
    text = "Weights of the reference over weights stored; planned by the masks, where known."
    if gone:
        text += f" Gone with their residual blocks: {', '.join(gone)}."
    figure = ExtraFigure(plots.plot_layer_rates(planned, realised), "Pruning rate of each layer.")
    return [ExtraSection("Rates by layer", [figure], text)]


def residuals_section(run: RunFolder | None) -> list[ExtraSection]:
    """Worst layer's residuals over all Z-steps of the run's stages."""
    series: dict[str, list[float]] = {"primal": [], "dual": [], "churn": []}
    for rows in _residual_rows(run):
        for update in dict.fromkeys((row.get("stage", ""), row["update"]) for row in rows):
            own = [row for row in rows if (row.get("stage", ""), row["update"]) == update]
            for name, values in series.items():
                values.append(max(float(row[name]) for row in own))
    if not series["primal"]:
        return []
    png = plots.plot_residuals(range(1, len(series["primal"]) + 1), series)
    text = (
        "Primal: distance of the weights from the set. Dual: movement of the set's point. Churn: "
        "share of the support that is new. All of the worst layer, stages one after another."
    )
    return [ExtraSection("Residuals of ADMM", [ExtraFigure(png, "Residuals by Z-step.")], text)]


def _residual_rows(run: RunFolder | None) -> list[list[dict[str, str]]]:
    """Rows of the run's residuals.csv, or of those of its stages."""
    if run is None:
        return []
    own = run.residuals_table
    files = [own] if own.is_file() else sorted(run.stages.glob(f"*/admm/{RESIDUALS_TABLE}"))
    found = []
    for path in files:
        with path.open(newline="", encoding="utf-8") as stream:
            found.append(list(csv.DictReader(stream)))
    return found


def weights_section(model: MeasuredNetwork) -> ExtraSection:
    """Histograms of the layers that hold most weights, with levels where weights are quantized."""
    sizes = {name: int(weight.count_nonzero()) for name, weight in model.weights.items()}
    chosen = sorted(sizes, key=lambda name: -sizes[name])[:MOST_HISTOGRAMS]
    shown = {n: w.detach().float().numpy() for n, w in model.weights.items() if n in chosen}
    quantized = quantized_layers(model.spec)
    levels = {n: np.unique(w).tolist() for n, w in shown.items() if n in quantized}
    levels = {n: found if len(found) <= plots.MOST_LEVELS else [] for n, found in levels.items()}
    text = "Weights that are not zero, on a logarithmic scale; lines are levels."
    if len(shown) < len(sizes):
        text += f" The {len(shown)} layers that hold most weights."
    figure = ExtraFigure(plots.plot_weights(shown, levels), "Weights by layer.")
    return ExtraSection("Weights", [figure], text)


def _supports(model: MeasuredNetwork) -> dict[str, Support]:
    return {
        name: (weight.reshape(weight.shape[0], -1) != 0).numpy()
        for name, weight in model.weights.items()
    }


def _bits(model: MeasuredNetwork, of_float: int, most: int) -> dict[str, int]:
    return {
        layer.name: of_float if layer.storage.bits > 16 else min(layer.storage.bits, most)
        for layer in model.spec.weighted()
    }


def crossbar_section(report: CompressionReport) -> tuple[ExtraSection, dict[str, Any]]:
    """Arrays, area and power on memristor crossbars, and a heat map of the arrays."""
    model = crossbar.CrossbarModel()
    counts = []
    for item in (report.reference, report.model):
        bits = _bits(item, FLOAT_BITS_CROSSBAR, FLOAT_BITS_CROSSBAR)
        counts.append(sum(crossbar.arrays_of(_supports(item), bits, model).values()))
    before, after = (crossbar.cost(n, model) for n in counts)
    saved = crossbar.area_reduction(*counts)
    rows = [
        _row("Arrays", before.arrays, after.arrays),
        ("Area, mm2", f"{before.area_mm2:.3f}", f"{after.area_mm2:.3f}",
         f"{before.area_mm2 / after.area_mm2:.2f}x"),
        ("Power, mW, all arrays busy", f"{before.power_mw:,.1f}", f"{after.power_mw:,.1f}",
         f"{before.power_mw / after.power_mw:.2f}x"),
    ]  # fmt: skip
    note = (
        f"Arrays of {model.word_lines} word lines x {model.bit_lines} bit lines, {model.cell_bits}"
        f"-bit cells, one pair per polarity; float weights count as {FLOAT_BITS_CROSSBAR} bits. "
        f"Area saved: {saved:.2%}. Constants are not calibrated (calibrated: "
        f"{str(model.calibrated).lower()}): only ratios mean anything."
    )
    if report.chips is not None:
        chips = report.chips
        note += (
            f" On {len(chips.metrics)} simulated chips whose levels deviate by {chips.sigma:g} of "
            f"a step, {report.metric} is {chips.mean:.4f} +- {chips.deviation:.4f} (mean and "
            f"standard deviation), {chips.ideal:.4f} on ideal ones."
        )
    header = ("", report.reference.name, report.model.name, "Less by")
    png = plots.plot_arrays(array_fill(report, model), "share of cells used")
    figure = ExtraFigure(png, "Arrays of each layer of the reference, and what is left of them.")
    section = ExtraSection(
        "Memristor crossbars", [figure], "", [ExtraTable(header, rows, "", note)]
    )
    data = {
        "arrays": counts, "area_reduction": saved, "area_mm2": [before.area_mm2, after.area_mm2],
        "power_mw": [before.power_mw, after.power_mw], "calibrated": model.calibrated,
    }  # fmt: skip
    return section, data


def array_fill(
    report: CompressionReport, model: crossbar.CrossbarModel
) -> dict[str, npt.NDArray[np.float64]]:
    """Layer -> share of the cells of each array the reference needs that still hold a weight.

    Pruned filters and columns are squeezed out first, as the mapping does; arrays that are saved
    are NaN.
    """
    own = _supports(report.model)
    found = {}
    for name, dense in _supports(report.reference).items():
        n_dense = crossbar.tiles_used(dense, model).size
        fills = crossbar.tile_fill(own[name], model) if name in own else np.zeros(0)
        found[name] = np.full(max(n_dense, fills.size), np.nan)
        found[name][: fills.size] = fills
    return found


def sot_mram_section(report: CompressionReport) -> tuple[ExtraSection, dict[str, Any]]:
    """Cells, sub-arrays, time and energy inside SOT-MRAM."""
    costs = [
        sot_mram.network_cost(sot_mram_loads(item)) for item in (report.reference, report.model)
    ]
    before, after = costs
    arrays = [sum(layer.sub_arrays for layer in cost.layers) for cost in costs]
    filled = [c.cells / max(n, 1) / 256**2 for c, n in zip(costs, arrays, strict=True)]
    rows = [
        _row("Cells (weight bits)", before.cells, after.cells),
        _row("Sub-arrays of 256 x 256", *arrays),
        ("Cells used of those", f"{filled[0]:.1%}", f"{filled[1]:.1%}", ""),
        ("Energy per image, arbitrary unit", f"{before.energy:.3g}", f"{after.energy:.3g}",
         f"{before.energy / after.energy:.2f}x"),
        ("Time per image, ms", f"{before.latency_ns / 1e6:.3g}", f"{after.latency_ns / 1e6:.3g}",
         f"{before.latency_ns / after.latency_ns:.2f}x"),
        ("Writing all weights once, ms", f"{before.load_ns / 1e6:.3g}",
         f"{after.load_ns / 1e6:.3g}", f"{before.load_ns / after.load_ns:.2f}x"),
    ]  # fmt: skip
    fits = sot_mram.network_cost(
        sot_mram_loads(report.reference), sot_mram.SotMramModel(capacity_bits=after.cells)
    )
    note = (
        f"Bit-serial AND and pop-count, activations of {ACTIVATION_BITS} bits, float weights count "
        f"as {MOST_BITS_SOT_MRAM}. In a memory that just holds {report.model.name}, "
        f"{report.reference.name} would write {fits.reload_bits:,} bits again for every image and "
        f"take {fits.latency_ns / after.latency_ns:.1f} times as long. Constants are placeholders "
        f"(calibrated: {str(after.calibrated).lower()}): only ratios mean anything."
    )
    header = ("", report.reference.name, report.model.name, "Less by")
    data = {
        "cells": [c.cells for c in costs], "sub_arrays": arrays,
        "energy": [c.energy for c in costs], "latency_ns": [c.latency_ns for c in costs],
        "calibrated": after.calibrated,
    }  # fmt: skip
    return ExtraSection("SOT-MRAM", (), "", [ExtraTable(header, rows, "", note)]), data


def sot_mram_loads(model: MeasuredNetwork) -> list[sot_mram.LayerLoad]:
    """Layer by layer: filters and columns that are not empty, positions, bits."""
    bits = _bits(model, MOST_BITS_SOT_MRAM, MOST_BITS_SOT_MRAM)
    shapes = model.spec.shapes()
    supports = _supports(model)
    loads = []
    for layer in model.spec.weighted():
        support = supports[layer.name]
        loads.append(
            sot_mram.LayerLoad(
                layer.name, int(support.any(1).sum()), int(support.any(0).sum()),
                positions(layer, shapes), bits[layer.name], ACTIVATION_BITS,
            )
        )  # fmt: skip
    return loads


def _report(run: RunFolder | None) -> dict[str, Any]:
    """compression.json of the run, empty without one."""
    return read_compression(run.path) if run else {}
