"""What `engine_vs_peers` must show: every goal, the value reached, and the page that says so."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader

from benchmarks.engine.peers import OURS, PEERS
from deploy_jetson.kernels.targets import NATIVE

SPARSE = {9: ("columns9", "combined9", "group_patterns9"),
          36: ("columns36", "combined36", "group_patterns36")}  # fmt: skip
MODELS = "onnxruntime", "ncnn"


class EngineGoal(NamedTuple):
    """One row."""

    what: str  # description
    # must, aim: limits
    must: float
    aim: float
    value: float | None  # reached, or None where it was not measured
    at_most: bool = False  # whether less is better
    predicted: bool = False  # whether the value is a prediction
    quiet: float | None = None  # the same from every engine's quickest round, if it is a time

    @property
    def verdict(self) -> str:
        """Description of the goal."""
        if self.value is None:
            return "not measured"
        better = (lambda limit: self.value <= limit) if self.at_most else (
            lambda limit: self.value >= limit)  # fmt: skip
        text = "aim reached" if better(self.aim) else "reached" if better(self.must) else "missed"
        return text + (", predicted" if self.predicted else "")


class SpeedResults:
    """The speed section, asked for by case.

    Args:
        quiet: Take every engine's quickest round and the highest peak instead of the medians: on a
            core that shares its execution units with a neighbour, what the engine does alone.
    """

    def __init__(self, section: dict[str, Any], quiet: bool = False) -> None:
        self.cases: dict[str, Any] = section.get("cases", {})
        peaks = section.get("peak_gflops_all", [0.0])
        self.peak: float = max(peaks) if quiet else section.get("peak_gflops", 0.0)
        self._field = "min_ms" if quiet else "median_ms"

    def ms(self, case: str, engine: str = OURS) -> float | None:
        """Time of one inference."""
        found = self.cases.get(case, {}).get("engines", {}).get(engine)
        return float(found[self._field]) if found else None

    def rate(self, case: str) -> float | None:
        """Multiply-adds of kept weights per second over the peak."""
        ms = self.ms(case)
        return 2 * self.cases[case]["kept_gmac"] / ms * 1e3 / self.peak if ms else None

    def over_best_peer(self, case: str) -> float | None:
        """Our time over the quickest peer's on the same file."""
        rivals = [value for peer in PEERS if (value := self.ms(case, peer))]
        ms = self.ms(case)
        return ms / min(rivals) if ms and rivals else None

    def speedup(self, case: str, peer: str) -> float | None:
        """A peer's dense network over our sparse one."""
        dense, ms = self.ms("dense", peer), self.ms(case)
        return dense / ms if ms and dense else None


def goals(document: dict[str, Any]) -> Iterator[EngineGoal]:
    """Every goal, in order."""
    section = document.get("speed", {})
    for goal, quiet in zip(
        _speed_goals(SpeedResults(section)),
        _speed_goals(SpeedResults(section, quiet=True)),
        strict=True,
    ):
        yield goal._replace(quiet=quiet.value)
    kinds = document.get("kinds", {})
    row = kinds.get("cases", {}).get("patterns9", {}).get("pattern")
    what = "patterns9: kept-MAC rate of peak of the free-pattern 3x3 layers, x86"
    rates = [kind_rate(row, ms, kinds["peak_gflops"]) if row else None for ms in ("ms", "min_ms")]
    yield EngineGoal(what, 0.45, 0.60, rates[0], quiet=rates[1])
    yield from _a57_goals(document.get("a57", {}).get("cases", {}))
    for case, row in document.get("threads", {}).get("cases", {}).items():
        yield EngineGoal(f"{case}: two threads over one", 1.75, 1.9, row["median_ratio"],
                   quiet=row["ratio"])  # fmt: skip
    yield from _cost_goals(SpeedResults(section))


def kind_rate(row: dict[str, float], ms: str, peak: float) -> float:
    """Kept multiply-adds of one kind of kernel over the peak."""
    return 2 * row["kept_gmac"] / row[ms] * 1e3 / peak


def _speed_goals(speed: SpeedResults) -> Iterator[EngineGoal]:
    yield EngineGoal(
        "dense: time over the best peer's", 1.15, 1.0, speed.over_best_peer("dense"), True
    )
    for case in ("compact9", "compact36"):
        what = f"{case}: time over the best peer's on the same file"
        yield EngineGoal(what, 1.0, 0.85, speed.over_best_peer(case), True)
    for rate, must, aim in ((9, 0.80, 0.90), (36, 0.65, 0.80)):
        for case in SPARSE[rate]:
            yield EngineGoal(f"{case}: kept-MAC rate of peak", must, aim, speed.rate(case))
    for rate, limits in ((9, ((7, 8.5), (4.2, 5))), (36, ((19, 25), (11, 15)))):
        for case in SPARSE[rate]:
            for peer, (must, aim) in zip(MODELS, limits, strict=True):
                what = f"{case}: times as fast as {peer} dense"
                yield EngineGoal(what, must, aim, speed.speedup(case, peer))


def _a57_goals(cases: dict[str, Any]) -> Iterator[EngineGoal]:
    spills = [loops["spills"] for row in cases.values() for loops in row["hot_loops"].values()]
    yield EngineGoal(
        "A57: register spills in all hot loops", 0, 0, sum(spills) if cases else None, True
    )
    rows = (
        ("YOLOv3-416: worst loop without patterns", 0.95, False, False),
        ("YOLOv3-416: worst free-pattern loop", 0.85, False, True),
        ("shipped model (layers of one vector of filters): worst loop", 0.95, True, False),
    )
    for what, must, shipped, pattern in rows:
        rates = [
            loops["fmla_per_cycle_min"]
            for case, row in cases.items() if (case == "shipped") == shipped
            for kind, loops in row["hot_loops"].items() if (kind == "pattern") == pattern
        ]  # fmt: skip
        yield EngineGoal(f"A57, {what}, FMLA per cycle (llvm-mca)", must, 0.95,
                   min(rates, default=None), predicted=True)  # fmt: skip


def _cost_goals(speed: SpeedResults) -> Iterator[EngineGoal]:
    beyond, load, made = [], [], []
    for row in speed.cases.values():
        made.append(row["generate_and_compile_s"])
        ours = row["engines"].get(OURS)
        if ours:
            beyond.append(ours["resident_mb"] - row["packed_mb"])
            load.append(ours["load_s"])
    yield EngineGoal("worst case: resident memory beyond the weights, MB", 60, 60,
               max(beyond, default=None), True)  # fmt: skip
    yield EngineGoal("worst case: load, s", 0.2, 0.2, max(load, default=None), True)
    yield EngineGoal("worst case: generate and compile without tuning, s", 60, 20,
               max(made, default=None), True)  # fmt: skip


# --- the page ---------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """The number as text with three significant digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(document: dict[str, Any]) -> str:
    """The results as a page; empty lines beside a missing section stay."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["number"] = number
    speed = SpeedResults(document.get("speed", {}))

    def dense_over(case: str, engine: str, peer: str) -> float | None:
        dense, ms = speed.ms("dense", peer), speed.ms(case, engine)
        return dense / ms if dense and ms and case != "shipped" else None

    return environment.get_template("vs_peers.md.j2").render(
        document, goals=list(goals(document)), peak=speed.peak, dense_over=dense_over,
        kind_rate=kind_rate, MODELS=MODELS, OURS=OURS, NATIVE=NATIVE, nan=math.nan,
    )  # fmt: skip
