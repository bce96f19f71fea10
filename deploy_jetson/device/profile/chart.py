"""Small SVG charts for the energy page, drawn without any library: the device has none."""

import html
import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

WIDTH, HEIGHT = 900, 220
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 26, 34
MAX_POINTS = 1500
COLOURS = ("#1f5f99", "#b35900", "#2e7d4f", "#7a4fa3", "#8a6d1d", "#555f6b")
PHASE_COLOURS = {
    "idle_before": "#e9edf1",
    "warm_up": "#fff0d6",
    "window": "#dcecfa",
    "images": "#dff2e5",
    "idle_after": "#e9edf1",
}


class ChartBar(NamedTuple):
    """One bar: its label, value, and the ends of its interval."""

    label: str
    value: float
    low: Optional[float] = None
    high: Optional[float] = None


def short_number(value: float) -> str:
    """Three digits without an exponent: 0.00123, 12.3, 1,230."""
    text = "{:.3g}".format(value)
    if "e" not in text:
        return text
    return "{:,.0f}".format(value) if abs(value) >= 1 else "{:.2g}".format(value)


def nice_ticks(top: float, wanted: int = 4) -> List[float]:
    """Round numbers from 0 to at least `top`."""
    if not top > 0 or not math.isfinite(top):
        return [0.0, 1.0]
    raw = top / wanted
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * (1 - 1e-9))
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def thin(stamps: np.ndarray, values: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """At most `MAX_POINTS` points that keep the least and the largest of every bucket."""
    if len(stamps) <= MAX_POINTS:
        return stamps, values
    picked = []
    for part in np.array_split(np.arange(len(stamps)), MAX_POINTS // 2):
        series = values[part]
        if np.isfinite(series).any():
            ends = {int(part[np.nanargmin(series)]), int(part[np.nanargmax(series)])}
            picked.extend(sorted(ends))
        else:
            picked.append(int(part[0]))
    return stamps[picked], values[picked]


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _frame(title: str, ticks: Sequence[float], unit: str, body: str) -> str:
    lines = []
    for tick in ticks:
        y = _y(tick, ticks[-1])
        lines.append(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
            '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:g}</text>'.format(
                LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, tick
            )
        )
    return (
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{t}">'
        "<title>{t}</title>{lines}"
        '<text class="tick" x="6" y="11">{u}</text>{body}</svg>'.format(
            w=WIDTH, h=HEIGHT, t=html.escape(title, quote=True), lines="".join(lines),
            u=html.escape(unit), body=body,
        )
    )  # fmt: skip


def _segments(points: Sequence[Tuple[float, float]], colour: str) -> str:
    """Lines through the points, broken at gaps."""
    parts: List[List[str]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            parts[-1].append("{:.1f},{:.1f}".format(x, y))
        elif parts[-1]:
            parts.append([])
    return "".join(
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="1.4"/>'.format(
            " ".join(part), colour
        )
        for part in parts
        if part
    )


def timeline(
    title: str,
    stamps_s: np.ndarray,
    watts: Sequence[Tuple[str, np.ndarray]],
    phases: Sequence[Tuple[str, float, float]],
) -> str:
    """Power over time with the phases shaded.

    Args:
        title: For those who cannot see it.
        stamps_s: (n,).
        watts: (rail, (n,) watts with NaN for gaps), the most important first.
        phases: (kind, start, end).
    """
    finite = [series[np.isfinite(series)] for _, series in watts]
    top = max([float(series.max()) for series in finite if len(series)] + [1e-9])
    ticks = nice_ticks(top)
    end = max([phase[2] for phase in phases] + [float(stamps_s[-1]) if len(stamps_s) else 1.0])
    wide = (WIDTH - LEFT - RIGHT) / max(end, 1e-9)
    body = []
    for kind, start, stop in phases:
        body.append(
            '<rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" fill="{}" stroke="#fff">'
            "<title>{}</title></rect>".format(
                LEFT + start * wide,
                TOP,
                max(0.5, (stop - start) * wide),
                HEIGHT - TOP - BOTTOM,
                PHASE_COLOURS[kind],
                kind.replace("_", " "),
            )
        )
    for index, (_, series) in reversed(list(enumerate(watts))):
        shown = stamps_s >= 0  # sampling starts a moment before the first phase
        times, values = thin(stamps_s[shown], series[shown])
        points = [
            (LEFT + t * wide, _y(v, ticks[-1]) if math.isfinite(v) else math.nan)
            for t, v in zip(times.tolist(), values.tolist())
        ]
        body.append(_segments(points, COLOURS[index % len(COLOURS)]))
    body.extend(
        '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:g} s</text>'.format(
            LEFT + tick * wide, HEIGHT - BOTTOM + 16, tick
        )
        for tick in nice_ticks(end, 8)
        if tick <= end
    )
    return _frame(title, ticks, "W", "".join(body))


def bars(title: str, unit: str, groups: Sequence[Tuple[str, Sequence[ChartBar]]]) -> str:
    """Bars side by side in groups, with their intervals as whiskers.

    Args:
        title: For those who cannot see it.
        unit: Of the axis.
        groups: (name, bars); bars of one label have one colour in all groups.
    """
    every = [bar for _, group in groups for bar in group]
    top = max([max(bar.value, bar.high or 0.0) for bar in every] + [1e-9])
    ticks = nice_ticks(top)
    labels = list(dict.fromkeys(bar.label for bar in every))
    room = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    wide = min(60.0, room * 0.8 / max([1] + [len(group) for _, group in groups]))
    body = []
    for place, (name, group) in enumerate(groups):
        middle = LEFT + (place + 0.5) * room
        x = middle - wide * len(group) / 2
        for bar in group:
            body.append(_bar(bar, (x, wide), ticks[-1], COLOURS[labels.index(bar.label) % 6]))
            x += wide
        body.append(
            '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'.format(
                middle, HEIGHT - BOTTOM + 16, html.escape(name)
            )
        )
    return _frame(title, ticks, unit, "".join(body))


def _bar(bar: ChartBar, place: Tuple[float, float], top: float, colour: str) -> str:
    x, wide = place
    y, floor = _y(bar.value, top), _y(0.0, top)
    text = '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}">'.format(
        x + 1, y, wide - 2, max(0.0, floor - y), colour
    )
    text += "<title>{} {:.4g}</title></rect>".format(html.escape(bar.label), bar.value)
    number_y = y
    if bar.low is not None and bar.high is not None and bar.low < bar.high:
        high, low = _y(bar.high, top), _y(bar.low, top)
        number_y = min(y, high)
        text += (
            '<path d="M{x:.1f} {h:.1f}V{lo:.1f}M{a:.1f} {h:.1f}H{b:.1f}M{a:.1f} {lo:.1f}H{b:.1f}" '
            'stroke="#111" fill="none"/>'.format(
                x=x + wide / 2, h=high, lo=low, a=x + wide / 2 - 4, b=x + wide / 2 + 4
            )
        )
    return text + '<text class="value" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>'.format(
        x + wide / 2, number_y - 3, short_number(bar.value)
    )


def legend(labels: Sequence[str]) -> str:
    """Names of the colours, in order."""
    return "".join(
        '<span class="key"><i style="background:{}"></i>{}</span>'.format(
            COLOURS[index % len(COLOURS)], html.escape(label)
        )
        for index, label in enumerate(labels)
    )
