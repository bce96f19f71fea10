"""Sections of `pneumonia compare --storage --compute`: storage and speed of models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.analysis.paired import ModelComparison
from evaluation.hardware.footprint import read_footprint
from evaluation.hardware.tradeoff import (
    JudgedPair,
    ModelCost,
    is_pruned,
    judge_pairs,
    measured_ppr,
    read_cost,
)
from evaluation.report import wording
from evaluation.report.compression_plots import ParetoPoint, plot_pareto
from evaluation.report.page import ExtraFigure, ExtraSection, ExtraTable
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.engines.comparison import interleaved_latency
from pneumonia.runtime.errors import ConfigError, DeviceError
from pneumonia.runtime.storage.bundle import load_bundle

LATENCY_ROUNDS = 15
NO_PAIR = (
    "No irregular model stands beside a structured one here: give one of each kind to see whether "
    "irregular pruning pays."
)
RULES = (
    "A fair comparison has the same network, accuracy (within 0.1 point), bits and covered layers; "
    "indices and realised rates are counted here. “Needed” is the irregular rate from which it "
    "would store less (best relative index at that density) or compute faster (rate of the "
    "structured model times the ratio of the PPRs; reported values, 2.7 and 1, where no kernel "
    "was timed)."
)


class HardwareSections(NamedTuple):
    """Which hardware sections the page shows."""

    storage: bool
    compute: bool


def hardware_sections(
    folders: Mapping[str, Path | None],
    comparisons: Sequence[ModelComparison],
    metric: str,
    wanted: HardwareSections,
) -> list[ExtraSection]:
    """The sections asked for, with tables, verdicts and the Pareto plot.

    Args:
        folders: Model -> bundle or run, the reference first.
        comparisons: Of every other model with the reference.
        metric: The accuracy that should be equal.

    Raises:
        ConfigError: A model has no bundle or run.
    """
    if not (wanted.storage or wanted.compute):
        return []
    missing = [name for name, folder in folders.items() if folder is None]
    if missing:
        raise ConfigError(
            "Storage and computing need every model's bundle or run",
            found="none for " + ", ".join(missing),
            fix="Give the bundle or run beside the predictions of each",
        )
    costs = read_costs({n: f for n, f in folders.items() if f is not None}, wanted.compute)
    accuracy = _accuracy(comparisons, metric)
    pairs = judge_pairs(costs[0], costs[1:], accuracy)
    found = []
    if wanted.storage:
        found.append(
            ExtraSection(
                "Storage", [_pareto(costs, comparisons, metric)], "", [storage_table(costs)]
            )
        )
    if wanted.compute:
        found.append(ExtraSection("Computing", (), "", [compute_table(costs)]))
    text = RULES if pairs else NO_PAIR
    found.append(ExtraSection("Irregular or structured?", (), text, pair_tables(pairs)))
    return found


def read_costs(folders: Mapping[str, Path], timed: bool) -> list[ModelCost]:
    """Storage of every model; with `timed` also latencies, of bundles, measured in turn."""
    costs = [
        read_cost(name, folder, read_footprint(folder).macs or 0)
        for name, folder in folders.items()
    ]
    if not timed:
        return costs
    bundles = {name: f for name, f in folders.items() if (f / "manifest.json").is_file()}
    found = _latencies(bundles)
    return [
        cost._replace(latency_ms=found[cost.name][0], engine=found[cost.name][1])
        if cost.name in found
        else cost
        for cost in costs
    ]


def _latencies(folders: Mapping[str, Path]) -> dict[str, tuple[float, str]]:
    """Bundle -> median milliseconds of one image on one thread, and the engine.

    Generated kernels if all bundles have a library that runs here, else ONNX Runtime for all:
    times of different engines would compare the engines, not the pruning.
    """
    opened = {name: load_bundle(str(folder)) for name, folder in folders.items()}
    engines: dict[str, Engine] = {}
    used = ""
    for used in ("kernels", "onnxruntime"):
        try:
            engines = {n: open_engine(item, used, threads=1) for n, item in opened.items()}
            break
        except DeviceError:
            engines = {}
    timed = interleaved_latency(engines, LATENCY_ROUNDS)
    return {name: (latency_ms, used) for name, latency_ms in timed.items()}


def _accuracy(comparisons: Sequence[ModelComparison], metric: str) -> dict[str, float]:
    found = {item.model: item.differences[metric].value.value for item in comparisons}
    first = comparisons[0]
    return {first.reference: first.differences[metric].reference.value, **found}


def storage_table(costs: Sequence[ModelCost]) -> ExtraTable:
    """Weights, bits and bytes of every model against the first."""
    first = costs[0]
    rows = [
        (
            cost.name,
            _kind(first, cost),
            f"{first.kept / cost.kept:.1f}x",
            f"{cost.kept:,}",
            f"{cost.bits:.1f}",
            f"{cost.value_bytes / 1000:,.1f}",
            f"{cost.index_bytes / 1000:,.1f}",
            f"{cost.total_bytes / 1000:,.1f}",
            f"{first.total_bytes / cost.total_bytes:.1f}x",
        )
        for cost in costs
    ]
    header = ("Model", "Kind", "Rate", "Weights stored", "Bits", "Values, kB",
              "Indices and levels, kB", "Together, kB", "Smaller")  # fmt: skip
    note = (
        "Rate: weights of the reference over weights stored, after dead paths are gone. Bytes as "
        "the weights file holds them, without biases and batch norm."
    )
    return ExtraTable(header, rows, "", note)


def _kind(reference: ModelCost, cost: ModelCost) -> str:
    narrower = cost.kind == "dense" and is_pruned(reference, cost)
    return "structured (narrower)" if narrower else cost.kind


def compute_table(costs: Sequence[ModelCost]) -> ExtraTable:
    """Time, speed-up and PPR of every model against the first."""
    first = costs[0]
    rows = []
    for cost in costs:
        ratio = measured_ppr(first, cost)
        timed = cost.latency_ms is not None and first.latency_ms is not None
        speedup = f"{first.latency_ms / cost.latency_ms:.2f}x" if timed else "not measured"  # type: ignore[operator]
        rows.append(
            (
                cost.name,
                f"{cost.macs / 1e6:,.1f}",
                f"{first.macs / max(cost.macs, 1):.1f}x",
                "not measured" if cost.latency_ms is None else f"{cost.latency_ms:.2f}",
                speedup,
                "" if ratio is None else f"{ratio:.2f}",
                cost.engine,
            )
        )
    header = ("Model", "MMAC stored", "MAC rate", "ms per image", "Speed-up", "PPR", "Engine")
    note = (
        "PPR: rate of the multiply-accumulates over the measured speed-up; 1 is ideal. Median of "
        f"{LATENCY_ROUNDS} runs on one thread of this machine, models in turn, all with the same "
        "engine. ONNX Runtime computes the zeros of irregular models all the same."
    )
    return ExtraTable(header, rows, "", note)


def pair_tables(pairs: Sequence[JudgedPair]) -> list[ExtraTable]:
    """One table with a column per irregular and structured model; none without a pair."""
    if not pairs:
        return []
    verdicts = {True: "faster", False: "not faster", None: "not measured"}
    origin = {True: "", False: " (reported PPR)"}
    rows = [
        ("Rate of the irregular model", *(f"{pair.rate_irregular:.1f}x" for pair in pairs)),
        ("Rate of the structured model", *(f"{pair.rate_structured:.1f}x" for pair in pairs)),
        ("Needed to store less", *(f"{pair.needed.storage:.1f}x" for pair in pairs)),
        ("Stored, as measured", *("smaller" if p.smaller else "not smaller" for p in pairs)),
        (
            "Needed to be faster",
            *(f"{pair.needed.compute:.1f}x{origin[pair.needed.measured]}" for pair in pairs),
        ),
        ("Timed", *(verdicts[pair.faster] for pair in pairs)),
        ("Reservations", *("; ".join(pair.reservations) or "none" for pair in pairs)),
    ]
    header = ("", *(f"{pair.irregular.name} against {pair.structured.name}" for pair in pairs))
    return [ExtraTable(header, rows)]


def _pareto(
    costs: Sequence[ModelCost], comparisons: Sequence[ModelComparison], metric: str
) -> ExtraFigure:
    first = costs[0]
    estimates = {item.model: item.differences[metric].value for item in comparisons}
    estimates[first.name] = comparisons[0].differences[metric].reference
    points = []
    for cost in costs:
        own = estimates[cost.name]
        rate = first.kept / cost.kept
        points.append(
            ParetoPoint(cost.name, _kind(first, cost), rate, own.value, own.ci_low, own.ci_high)
        )
    png = plot_pareto(points, wording.name_of(metric))
    return ExtraFigure(png, "Accuracy with its 95 % interval against pruning rate.")
