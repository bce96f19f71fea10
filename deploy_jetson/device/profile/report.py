"""report.html of a profile: one file, no script, no network, readable in print."""

import html
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from deploy_jetson.device.power.sensor import MILLIJOULE
from deploy_jetson.device.profile.chart import (
    PHASE_COLOURS,
    ChartBar,
    bars,
    legend,
    short_number,
    timeline,
)
from deploy_jetson.device.profile.recording import PowerRecording, read_recording
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.errors import DISCLAIMER

REPORT = "report.html"
MAX_TIMELINES = 12  # more timelines would make the page too large
MAX_RAILS_DRAWN = 6
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1f24}
body{max-width:1120px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:2em}
h3{font-size:1em;margin:1.4em 0 .3em}
table{border-collapse:collapse;width:100%;font-size:.84em}
th,td{padding:.3em .6em;text-align:right;border-bottom:1px solid #d8dde2}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #8b959e}
th.words,td.words{text-align:left}.wide{overflow-x:auto}
.notice{border-left:4px solid #8b959e;background:#f4f6f8;padding:.6em 1em}
.estimated{border-left:6px solid #b35900;background:#fff3e0;padding:.8em 1em;font-weight:600}
.flag{color:#8f2400}svg{width:100%;height:auto;background:#fff}
.grid{stroke:#dfe4e8}.tick{font:11px sans-serif;fill:#4a545e}.value{font:11px sans-serif}
.key{margin-right:1.2em;white-space:nowrap;font-size:.85em}
.key i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border:1px solid #c4ccd3}
@media print{body{margin:0}h2{break-after:avoid}svg{break-inside:avoid}}
"""


def number(value: Optional[float]) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else short_number(value)


def _milli(value: Optional[float]) -> Optional[float]:
    return None if value is None else value * 1e3


def _interval(record: Optional[Dict[str, Any]]) -> str:
    """Median of joules with its interval, as millijoules."""
    if record is None:
        return "–"
    text = number(record["median"] * 1e3)
    if record["low"] is not None:
        low, high = number(record["low"] * 1e3), number(record["high"] * 1e3)
        if low != high:
            text += " ({} to {})".format(low, high)
    return text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = ()) -> str:
    marks = [' class="words"' if i in words else "" for i in range(len(header))]
    head = "".join(
        "<th{}>{}</th>".format(mark, html.escape(name)) for mark, name in zip(marks, header)
    )
    body = "".join(
        "<tr>"
        + "".join("<td{}>{}</td>".format(mark, html.escape(cell)) for mark, cell in zip(marks, row))
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="wide"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'.format(
            head, body
        )
    )


def _mode_name(about: Dict[str, Any]) -> str:
    mode = about.get("mode")
    return "{} {}".format(mode["number"], mode["name"]) if mode else "as it was"


def _name(entry: Dict[str, Any]) -> str:
    about = entry["about"]
    return "{}, {}, mode {}".format(about["bundle"]["label"], about["engine"], _mode_name(about))


def _headline(runs: List[Dict[str, Any]]) -> str:
    rows = []
    for entry in runs:
        about, found = entry["about"], entry["figures"]
        total, latency = found["total"] or {}, found["latency_ms"] or {}
        rows.append(
            [
                about["bundle"]["label"],
                about["engine"],
                _mode_name(about).replace(" ", "\u00a0"),
                number(latency.get("p50")),
                number(latency.get("p90")),
                number(latency.get("p99")),
                _interval(total.get("gross_j_per_inference")),
                _interval(total.get("net_j_per_inference")),
                number(_milli(total.get("gross_j_per_image"))),
                number(total.get("mean_w")),
                number(total.get("idle_w")),
                " / ".join(dict.fromkeys([about["latency_basis"], about["power_basis"]])),
                str(len(found["flags"])),
            ]
        )
    header = (
        "bundle", "engine", "mode", "p50 ms", "p90 ms", "p99 ms", "gross mJ/inference",
        "net mJ/inference", "gross mJ/image", "busy W", "idle W", "basis", "flags",
    )  # fmt: skip
    return _table(header, rows, (1, 2))


def _best(runs: List[Dict[str, Any]]) -> str:
    """The run that needs least energy and the one that is fastest, where there is a choice."""
    energies = [(bar.value, one) for bar, one in ((_gross(one), one) for one in runs) if bar]
    latencies = [(one["figures"]["latency_ms"], one) for one in runs]
    times = [(latency["p50"], one) for latency, one in latencies if latency]
    if min(len(energies), len(times)) < 2:
        return ""
    energy_mj, frugal = min(energies, key=lambda pair: pair[0])
    time_ms, fast = min(times, key=lambda pair: pair[0])
    return "<p>Least energy per inference: {}, {} mJ. Fastest: {}, {} ms.</p>".format(
        html.escape(_name(frugal)), number(energy_mj), html.escape(_name(fast)), number(time_ms)
    )


def _gross(entry: Dict[str, Any]) -> Optional[ChartBar]:
    total = entry["figures"]["total"]
    record = total["gross_j_per_inference"] if total else None
    if record is None:
        return None
    return ChartBar("", record["median"] * 1e3, _milli(record["low"]), _milli(record["high"]))


def _grouped(
    runs: List[Dict[str, Any]], group: Any, label: Any
) -> List[Tuple[str, List[ChartBar]]]:
    groups: Dict[str, List[ChartBar]] = {}
    for entry in runs:
        bar = _gross(entry)
        if bar is not None:
            name = str(label(entry["about"]))
            groups.setdefault(str(group(entry["about"])), []).append(bar._replace(label=name))
    return list(groups.items())


def _label(about: Dict[str, Any]) -> str:
    return str(about["bundle"]["label"])


def _engine(about: Dict[str, Any]) -> str:
    return str(about["engine"])


def _comparison(runs: List[Dict[str, Any]]) -> str:
    """Energy by mode, and by stage of pruning where there are several bundles."""
    modes = dict.fromkeys(_mode_name(entry["about"]) for entry in runs)
    stages = dict.fromkeys(_label(entry["about"]) for entry in runs)
    parts = []
    if len(modes) > 1 and len(stages) > 1:
        for engine in dict.fromkeys(_engine(entry["about"]) for entry in runs):
            chosen = [entry for entry in runs if _engine(entry["about"]) == engine]
            title = "Energy per inference by power mode and stage of pruning: " + engine
            parts.append(_chart(title, _grouped(chosen, _mode_name, _label)))
    elif len(modes) > 1:
        groups = _grouped(runs, _mode_name, _engine)
        parts.append(_chart("Energy per inference by power mode", groups))
    elif len(stages) > 1:
        groups = _grouped(runs, _label, _engine)
        parts.append(_chart("Energy per inference by stage of pruning", groups))
    if len(stages) > 1:
        parts.append(_stage_table(runs))
    return "".join(parts)


def _chart(title: str, groups: List[Tuple[str, List[ChartBar]]]) -> str:
    if not groups:
        return ""
    labels = list(dict.fromkeys(bar.label for _, group in groups for bar in group))
    return "<h2>{}</h2>{}<p>{}</p>".format(
        html.escape(title), bars(title, "mJ gross", groups), legend(labels)
    )


def _stage_table(runs: List[Dict[str, Any]]) -> str:
    stages = {entry["about"]["bundle"]["label"]: entry["about"]["bundle"] for entry in runs}
    rows = [
        [
            label,
            "{:,}".format(record["kept_weights"]),
            "{:,}".format(record["weights"]),
            "{:.1f}".format(record["kept_macs"] / 1e6),
            "{:.1f}".format(record["macs"] / 1e6),
            record["model_hash"][:12],
        ]
        for label, record in stages.items()
    ]
    header = ("bundle", "weights kept", "stored shape", "MMAC kept", "MMAC", "model")
    return _table(header, rows)


def watts_of(recording: PowerRecording) -> List[Tuple[str, np.ndarray]]:
    """Rails in watts, the input rail first; counters as their slope."""
    rails = sorted(
        recording.sensor.rails, key=lambda rail: (rail.name != recording.sensor.total, rail.name)
    )
    series = []
    for rail in rails[:MAX_RAILS_DRAWN]:
        values = recording.samples.values[rail.name] / 1e3
        if rail.unit == MILLIJOULE and len(values) > 1:
            spans = np.diff(recording.samples.stamps_s)
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.where(spans > 0, np.diff(values) / spans, np.nan)
            values = np.append(slope[:1], slope)
        series.append((rail.name, values))
    return series


def _timeline(folder: str, entry: Dict[str, Any]) -> str:
    recording = read_recording(os.path.join(folder, entry["folder"]))
    watts = watts_of(recording)
    phases = [(phase.kind, phase.start_s, phase.end_s) for phase in recording.phases]
    title = "Input power over time: " + _name(entry)
    return "<h3>{}</h3>{}<p>{}</p>".format(
        html.escape(_name(entry)),
        timeline(title, recording.samples.stamps_s, watts, phases),
        legend([name for name, _ in watts]),
    )


def _rails(entry: Dict[str, Any]) -> str:
    rows = []
    for rail in entry["figures"]["rails"]:
        quality = rail["quality"]
        rows.append(
            [
                rail["name"],
                _interval(rail["gross_j_per_inference"]),
                _interval(rail["net_j_per_inference"]),
                number(rail["mean_w"]),
                number(rail["peak_w"]),
                number(rail["baseline"]["mean_w"]),
                number(quality["resolution_mw"]),
                number(quality["refresh_ms"]),
                rail["scope"],
            ]
        )
    header = (
        "rail", "gross mJ", "net mJ", "mean W", "peak W", "idle W", "step mW", "refresh ms",
        "scope",
    )  # fmt: skip
    return "<h3>{}</h3>{}".format(html.escape(_name(entry)), _table(header, rows, (8,)))


def _flags(runs: List[Dict[str, Any]], skipped: List[Dict[str, Any]]) -> str:
    rows = [
        [_name(entry), item["flag"], item["why"]]
        for entry in runs
        for item in entry["figures"]["flags"]
    ]
    rows += [["{}, {}".format(item["label"], item["engine"]), "not run", item["why"]]
             for item in skipped]  # fmt: skip
    if not rows:
        return "<p>None.</p>"
    return _table(("run", "flag", "why"), rows, (1, 2))


def _conditions(runs: List[Dict[str, Any]]) -> str:
    about, settings = runs[0]["about"], runs[0]["settings"]
    board = about.get("board") or {}
    lines = [
        ("board", board.get("model") or board.get("machine") or "unknown"),
        ("L4T", board.get("l4t") or "–"),
        ("software", "pneumonia {}".format(about["version"])),
        ("written", about["created"]),
        (
            "protocol",
            "{windows} windows of {window_s:g} s and {min_inferences} inferences, "
            "idle {idle_s:g} s before and after, {rate_hz:g} samples/s".format(**settings),
        ),
    ]
    return _table(("condition", "value"), [list(line) for line in lines], (1,))


def _notice(document: Dict[str, Any]) -> str:
    if not document["estimated"]:
        return ""
    expected = [entry["about"].get("prediction") for entry in document["runs"]]
    bands = [(item["latency_band"], item["power_band"]) for item in expected if item]
    text = "ESTIMATED: figures marked so come from a model of a Jetson TX2, not from a sensor."
    if bands:
        text += " Expect the truth within a factor of {:g} in latency and {:g} in power.".format(
            max(band[0] for band in bands), max(band[1] for band in bands)
        )
    return '<p class="estimated">{}</p>'.format(html.escape(text))


def page(folder: str, document: Dict[str, Any]) -> str:
    """report.html of a profile folder as text; `document` is its energy.json."""
    runs = document["runs"]
    shown = runs[:MAX_TIMELINES]
    more = ""
    if len(runs) > len(shown):
        more = "<p>{} more runs are in the folder runs/.</p>".format(len(runs) - len(shown))
    shades = "".join(
        '<span class="key"><i style="background:{}"></i>{}</span>'.format(
            colour, kind.replace("_", " ")
        )
        for kind, colour in PHASE_COLOURS.items()
    )
    parts = [
        "<h1>Energy per image</h1>",
        '<p class="notice">{}</p>'.format(html.escape(DISCLAIMER)),
        _notice(document),
        "<h2>Figures</h2>",
        _headline(runs),
        _best(runs),
        "<p>Energy is that of the input rail, median of the windows with a bootstrap 95 % interval."
        " Net: the idle power before and after is taken off. Image: preprocessing, inference and"
        " boxes, without reading the file.</p>",
        _comparison(runs),
        "<h2>Flags</h2>",
        _flags(runs, document["skipped"]),
        "<h2>Power over time</h2><p>{}</p>".format(shades),
        "".join(_timeline(folder, entry) for entry in shown),
        more,
        "<h2>Rails</h2><p>Parts of a module are never added up.</p>",
        "".join(_rails(entry) for entry in shown),
        "<h2>Conditions</h2>",
        _conditions(runs),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<title>Energy per image</title><style>{}</style></head><body>{}</body></html>\n".format(
            STYLE, "".join(parts)
        )
    )


def write_report(folder: str, document: Dict[str, Any]) -> None:
    """Write report.html.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_text(os.path.join(folder, REPORT), page(folder, document))
