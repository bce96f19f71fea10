"""What `engine_vs_peers` must show: every goal, the value reached, and the page that says so."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.engine.peers import OURS, PEERS
from deploy_jetson.kernels.compile.targets import NATIVE

SPARSE = {9: ("columns9", "combined9", "group_patterns9"),
          36: ("columns36", "combined36", "group_patterns36")}  # fmt: skip
MODELS = "onnxruntime", "ncnn"


class Goal(NamedTuple):
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


class Speed:
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


def goals(document: dict[str, Any]) -> Iterator[Goal]:
    """Every goal, in order."""
    section = document.get("speed", {})
    for goal, quiet in zip(
        _speed_goals(Speed(section)), _speed_goals(Speed(section, quiet=True)), strict=True
    ):
        yield goal._replace(quiet=quiet.value)
    kinds = document.get("kinds", {})
    row = kinds.get("cases", {}).get("patterns9", {}).get("pattern")
    what = "patterns9: kept-MAC rate of peak of the free-pattern 3x3 layers, x86"
    rates = [kind_rate(row, ms, kinds["peak_gflops"]) if row else None for ms in ("ms", "min_ms")]
    yield Goal(what, 0.45, 0.60, rates[0], quiet=rates[1])
    yield from _a57_goals(document.get("a57", {}).get("cases", {}))
    for case, row in document.get("threads", {}).get("cases", {}).items():
        yield Goal(f"{case}: two threads over one", 1.75, 1.9, row["median_ratio"],
                   quiet=row["ratio"])  # fmt: skip
    yield from _cost_goals(Speed(section))


def kind_rate(row: dict[str, float], ms: str, peak: float) -> float:
    """Kept multiply-adds of one kind of kernel over the peak."""
    return 2 * row["kept_gmac"] / row[ms] * 1e3 / peak


def _speed_goals(speed: Speed) -> Iterator[Goal]:
    yield Goal("dense: time over the best peer's", 1.15, 1.0, speed.over_best_peer("dense"), True)
    for case in ("compact9", "compact36"):
        what = f"{case}: time over the best peer's on the same file"
        yield Goal(what, 1.0, 0.85, speed.over_best_peer(case), True)
    for rate, must, aim in ((9, 0.80, 0.90), (36, 0.65, 0.80)):
        for case in SPARSE[rate]:
            yield Goal(f"{case}: kept-MAC rate of peak", must, aim, speed.rate(case))
    for rate, limits in ((9, ((7, 8.5), (4.2, 5))), (36, ((19, 25), (11, 15)))):
        for case in SPARSE[rate]:
            for peer, (must, aim) in zip(MODELS, limits, strict=True):
                what = f"{case}: times as fast as {peer} dense"
                yield Goal(what, must, aim, speed.speedup(case, peer))


def _a57_goals(cases: dict[str, Any]) -> Iterator[Goal]:
    spills = [loops["spills"] for row in cases.values() for loops in row["hot_loops"].values()]
    yield Goal("A57: register spills in all hot loops", 0, 0, sum(spills) if cases else None, True)
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
        yield Goal(f"A57, {what}, FMLA per cycle (llvm-mca)", must, 0.95,
                   min(rates, default=None), predicted=True)  # fmt: skip


def _cost_goals(speed: Speed) -> Iterator[Goal]:
    beyond, load, made = [], [], []
    for row in speed.cases.values():
        made.append(row["generate_and_compile_s"])
        ours = row["engines"].get(OURS)
        if ours:
            beyond.append(ours["resident_mb"] - row["packed_mb"])
            load.append(ours["load_s"])
    yield Goal("worst case: resident memory beyond the weights, MB", 60, 60,
               max(beyond, default=None), True)  # fmt: skip
    yield Goal("worst case: load, s", 0.2, 0.2, max(load, default=None), True)
    yield Goal("worst case: generate and compile without tuning, s", 60, 20,
               max(made, default=None), True)  # fmt: skip


# --- the page ---------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """The number as text with three significant digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(document: dict[str, Any]) -> str:
    """The results as a page."""
    lines = ["# The generated engine against its peers", "", *_setting(document)]
    lines += ["", "| goal | must | aim | reached | | in the quickest rounds |"]
    lines += ["|---|---|---|---|---|---|"]
    for goal in goals(document):
        sign = "<=" if goal.at_most else ">="
        lines.append(
            f"| {goal.what} | {sign} {goal.must:g} | {sign} {goal.aim:g} | {number(goal.value)} |"
            f" {goal.verdict} | {number(goal.quiet)} |"
        )
    lines += ["", *_times(document.get("speed", {})), "", *_static(document.get("a57", {}))]
    lines += ["", *_kinds(document.get("kinds", {}))]
    peak = document.get("speed", {}).get("peak_gflops", 0.0)
    lines += ["", *_layers(document.get("layers", []), peak)]
    lines += ["", *_storage(document.get("storage", []))]
    return "\n".join(lines) + "\n"


def _setting(document: dict[str, Any]) -> Iterator[str]:
    machine, speed = document["machine"], document.get("speed", {})
    yield f"{machine['cpu']}; {machine['system']}; {machine['compiler']}."
    if speed:
        peers = ", ".join(f"{name} {version}" for name, version in speed["peers"].items())
        yield (
            f"Peers: {peers}. Our target: {speed.get('target', NATIVE)}, vectors of"
            f" {speed['lanes']} float32; one core's peak with these"
            f" {speed['peak_gflops']:.1f} GFLOP/s (median of the same {speed['rounds']} rounds)."
        )
    yield (
        "YOLOv3-416, one channel, batch 1, float32, one thread, end to end without NMS; medians of"
        " CPU time, interleaved. Written by `python -m benchmarks.engine.vs_peers`."
    )


def _times(section: dict[str, Any]) -> Iterator[str]:
    if not section:
        return
    speed = Speed(section)
    yield "| case | engine | ms | kept GMAC | rate of peak | x onnxruntime dense | x ncnn dense |"
    yield "|---|---|---|---|---|---|---|"
    for case, row in speed.cases.items():
        for engine, found in row["engines"].items():
            ms = found["median_ms"]
            wrong = row["relative_error"].get(engine, 0.0) is None
            rate = 2 * row["kept_gmac"] / ms * 1e3 / speed.peak
            ratios = [
                number(dense / ms) if (dense := speed.ms("dense", p)) and case != "shipped" else "-"
                for p in MODELS
            ]
            yield (
                f"| {case} | {engine}{' (wrong answer)' if wrong else ''} | {number(ms)} |"
                f" {row['kept_gmac']:.3g} | {rate:.2f} |"
                f" {ratios[0]} | {ratios[1]} |"
            )
    yield ""
    yield "A rate above 1 is Winograd: fewer multiply-adds than the direct convolution has."
    yield ""
    yield (
        "| case | packed weights MB | activations MB | resident beyond weights MB | load s |"
        " generate + compile s | tuning s | largest error against onnxruntime |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for case, row in speed.cases.items():
        ours = row["engines"][OURS]
        yield (
            f"| {case} | {number(row['packed_mb'])} | {number(row['activations_mb'])} |"
            f" {number(ours['resident_mb'] - row['packed_mb'])} | {number(ours['load_s'])} |"
            f" {number(row['generate_and_compile_s'])} | {number(row.get('tuning_s'))} |"
            f" {row['relative_error'].get(OURS, float('nan')):.1e} |"
        )


def _static(section: dict[str, Any]) -> Iterator[str]:
    if not section:
        return
    yield f"## Jetson TX2: {section['basis']}"
    yield ""
    yield f"{section['compiler']}; {section['llvm_mca']}. Four Cortex-A57 cores."
    yield ""
    modes = list(next(iter(section["cases"].values()))["predicted_ms"])
    heads = " | ".join(f"predicted ms, {mode}" for mode in modes)
    yield f"| case | spills | FMLA per cycle, worst loop of each kernel | {heads} |"
    yield "|---|---|---|" + "---|" * len(modes)
    for case, row in section["cases"].items():
        loops = row["hot_loops"].items()
        rates = ", ".join(f"{kind} {loop['fmla_per_cycle_min']:.2f}" for kind, loop in loops)
        times = " | ".join(number(row["predicted_ms"][mode]) for mode in modes)
        yield f"| {case} | {sum(loop['spills'] for _, loop in loops)} | {rates} | {times} |"


def _layers(rows: list[dict[str, Any]], peak: float) -> Iterator[str]:
    if not rows:
        return
    yield "## One layer: the list whole, in pieces, Winograd"
    yield ""
    yield (
        "Shortest of several interleaved runs of the cost model's favourites, one thread; columns"
        " shared by 32 filters. The rate is the quickest column kernel's."
    )
    yield ""
    yield (
        "| filters x channels, kernel, stride, side | density | whole ms | pieces ms | Winograd ms"
        " | kept-MAC rate |"
    )
    yield "|---|---|---|---|---|---|"
    for row in rows:
        filters, channels, kernel, stride, side = row["layer"]
        quickest = min(ms for ms in (row["whole_ms"], row["pieces_ms"]) if ms)
        rate = 2 * row["kept_gmac"] / quickest * 1e3 / peak if peak else 0.0
        yield (
            f"| {filters} x {channels}, {kernel} x {kernel}, {stride}, {side} |"
            f" {row['density']:.3f} | {number(row['whole_ms'])} | {number(row['pieces_ms'])} |"
            f" {number(row['winograd_ms'])} | {rate:.2f} |"
        )


def _storage(rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield "## Weights in fewer bits"
    yield ""
    yield (
        "| case | stored as | library MB | weights in the file MB | in memory MB | load ms |"
        " inference ms | largest error of the heads |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        sizes = " | ".join(
            number(row[key]) for key in ("library_mb", "file_mb", "memory_mb", "load_ms", "ms")
        )
        yield f"| {row['case']} | {row['storage']} | {sizes} | {row['error']:.1e} |"


def _kinds(section: dict[str, Any]) -> Iterator[str]:
    if not section:
        return
    yield "## By kind of kernel"
    yield ""
    yield "Steps timed one by one on one thread: sums of their medians, and of their quickest runs."
    yield ""
    yield "| case | kernels | kept GMAC | ms | rate of peak | quickest ms | rate of peak |"
    yield "|---|---|---|---|---|---|---|"
    peak = section["peak_gflops"]
    for case, found in section["cases"].items():
        for kind, row in found.items():
            yield (
                f"| {case} | {kind} | {row['kept_gmac']:.3g} | {number(row['ms'])} |"
                f" {kind_rate(row, 'ms', peak):.2f} | {number(row['min_ms'])} |"
                f" {kind_rate(row, 'min_ms', peak):.2f} |"
            )
