"""Plots as inline SVG: lines over steps, bars, stacked bars, points on a unit square, lanes of time.

Colours and fonts are the page's style sheet's, so a plot follows light and dark. Knows nothing of what is plotted.
Always holds: a plot has a name for those who hear it and its numbers in a table below; at most `MAX_POINTS` points a
line, each the mean of the steps it stands for, and then the plot says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from sake_ray.pages.markup import Html, el, join, number, table, text

MAX_POINTS = 300
_W, _H = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 28

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    y_range: tuple[float, float] | None = None,
    x_label: str = "step",
    events: Sequence[tuple[float, str]] = (),
    note: str = "",
) -> Html:
    """Lines over a common x axis; `events` are upright lines with a name."""
    series = {name: list(points) for name, points in series.items() if points}
    if not series:
        return Html("")
    thick = max(len(points) for points in series.values())
    every = math.ceil(thick / MAX_POINTS)
    drawn = {name: _thinned(points, every) for name, points in series.items()}
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    plane = _Plane((min(xs), max(xs)), y_range or _padded(min(ys), max(ys)))
    parts: list[Html] = [plane.grid(x_label)]
    for x, name in events:
        if plane.x_range[0] <= x <= plane.x_range[1]:
            at = f"{plane.x(x):.1f}"
            line = el("line", el("title", name), x1=at, x2=at, y1=_TOP, y2=_H - _BOTTOM, class_="event")
            parts.append(line)
    for index, points in enumerate(drawn.values()):
        parts.append(_line(plane, points, index))
    summary = table(
        ["", "first", "last", "lowest", "highest"],
        [[name, p[0][1], p[-1][1], min(y for _, y in p), max(y for _, y in p)] for name, p in series.items()],
        caption=f"{title}: numbers",
    )
    note = " ".join(part for part in (note, f"Each point is the mean of {every} steps." if every > 1 else "") if part)
    hover = json.dumps([[name, [[_short(x), _short(y)] for x, y in points]] for name, points in drawn.items()])
    scale = json.dumps([*plane.x_range, *plane.y_range, _LEFT, _W - _RIGHT, _TOP, _H - _BOTTOM])
    return _figure(title, parts, _colours(series), summary, note, data_points=hover, data_scale=scale)


def unit_chart(title: str, series: Mapping[str, Points], *, x_label: str, y_label: str, note: str = "") -> Html:
    """Lines and points whose axes both go from 0 to 1 (a calibration curve, precision against recall)."""
    series = {name: list(points) for name, points in series.items() if points}
    if not series:
        return Html("")
    plane = _Plane((0.0, 1.0), (0.0, 1.0))
    parts = [plane.grid(x_label, y_label)]
    for index, points in enumerate(series.values()):
        parts.append(_line(plane, points, index, dots=True))
    summary = table(
        ["", x_label, y_label], [[name, x, y] for name, points in series.items() for x, y in points],
        caption=f"{title}: numbers",
    )  # fmt: skip
    return _figure(title, parts, _colours(series), summary, note)


def scatter(
    title: str, points: Mapping[str, tuple[float, float]], *, x_label: str, y_label: str, note: str = ""
) -> Html:
    """Named points on the unit square."""
    if not points:
        return Html("")
    plane = _Plane((0.0, 1.0), (0.0, 1.0))
    parts = [plane.grid(x_label, y_label)]
    named: list[tuple[float, float]] = []
    for index, (name, (x, y)) in enumerate(points.items()):
        at_x, at_y = plane.x(x), plane.y(y)
        tip = el("title", f"{name}: {x_label} {number(x)}, {y_label} {number(y)}")
        parts.append(el("circle", tip, cx=f"{at_x:.1f}", cy=f"{at_y:.1f}", r="4", class_=f"dot s{index % 8}"))
        # A name that would lie on another is left to the legend.
        if all(abs(at_x - x) > 60 or abs(at_y - y) > 11 for x, y in named):
            named.append((at_x, at_y))
            side, shift = ("end", -7) if at_x > _W - 90 else ("start", 7)
            parts.append(
                el("text", name[:18], x=f"{at_x + shift:.1f}", y=f"{at_y + 3.5:.1f}", text_anchor=side, class_="name")
            )
    summary = table(["", x_label, y_label], [[n, x, y] for n, (x, y) in points.items()], caption=f"{title}: numbers")
    colours = {name: f"s{index % 8}" for index, name in enumerate(points)}
    return _figure(title, parts, colours if len(points) <= 8 else {}, summary, note)


def bars(
    title: str,
    values: Mapping[str, float],
    *,
    note: str = "",
    classes: Mapping[str, str] | None = None,
    full: float | None = None,
) -> Html:
    """Bars that lie, each with its number; one of `full` (else the longest) is as long as the plot is wide."""
    if not values:
        return Html("")
    high = full or max([*values.values(), 1e-12])
    row, height = 22, 22 * len(values) + 6
    parts = []
    for index, (name, value) in enumerate(values.items()):
        y = 4 + index * row
        width = max(0.0, value) / high * (_W - 190)
        kind = (classes or {}).get(name, "s0")
        parts.append(el("text", name[:22], x="128", y=y + 13, text_anchor="end", class_="name"))
        parts.append(el("rect", x="134", y=y, width=f"{width:.1f}", height="16", rx="2", class_=f"bar {kind}"))
        parts.append(el("text", number(value), x=f"{138 + width:.1f}", y=y + 13, class_="tick"))
    summary = table(["", "number"], list(values.items()), caption=f"{title}: numbers")
    return _figure(title, parts, {}, summary, note, height=height)


def stacked(
    title: str,
    steps: Sequence[float],
    parts_by_name: Mapping[str, Sequence[float]],
    *,
    classes: Mapping[str, str] | None = None,
    note: str = "",
) -> Html:
    """One upright bar a step, made of parts; many steps together as means. `classes` gives a part's colour."""
    if not steps or not parts_by_name:
        return Html("")
    every = math.ceil(len(steps) / (MAX_POINTS // 3))
    names = list(parts_by_name)
    colours = [(classes or {}).get(name, f"s{index % 8}") for index, name in enumerate(names)]
    columns = [
        [sum(parts_by_name[n][at : at + every]) / len(steps[at : at + every]) for n in names]
        for at in range(0, len(steps), every)
    ]
    high = max([sum(column) for column in columns] + [1e-9])
    plane = _Plane((0.0, float(len(columns))), (0.0, high * 1.05))
    drawn: list[Html] = [plane.grid("", "seconds", x_ticks=[])]
    width = (plane.x(1) - plane.x(0)) * 0.82
    for index, column in enumerate(columns):
        base = 0.0
        first = steps[index * every]
        for s, value in enumerate(column):
            top, bottom = plane.y(base + value), plane.y(base)
            base += value
            if bottom - top > 0.05:
                drawn.append(
                    el(
                        "rect", el("title", f"step {number(first)}: {names[s]} {number(value)} s"),
                        x=f"{plane.x(index) :.1f}", y=f"{top:.1f}", width=f"{width:.1f}",
                        height=f"{bottom - top:.1f}", class_=f"bar {colours[s]}",
                    )
                )  # fmt: skip
    ends = f"steps {number(steps[0])} to {number(steps[-1])}"
    drawn.append(el("text", ends, x=_LEFT, y=_H - 8, class_="tick"))
    total = sum(sum(values) for values in parts_by_name.values()) or 1.0
    summary = table(
        ["", "seconds a step", "share"],
        [[n, sum(v) / len(steps), f"{100 * sum(v) / total:.0f} %"] for n, v in parts_by_name.items()],
        caption=f"{title}: numbers",
    )
    note = " ".join(part for part in (note, f"A bar is the mean of {every} steps." if every > 1 else "") if part)
    return _figure(title, drawn, dict(zip(names, colours, strict=True)), summary, note)


class _Plane:
    """From values to places in the picture."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range = x_range if x_range[1] > x_range[0] else (x_range[0] - 0.5, x_range[0] + 0.5)
        self.y_range = y_range if y_range[1] > y_range[0] else (y_range[0] - 0.5, y_range[0] + 0.5)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_W - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        inside = min(max(value, low), high)
        return _H - _BOTTOM - (inside - low) / (high - low) * (_H - _TOP - _BOTTOM)

    def grid(self, x_label: str, y_label: str = "", x_ticks: Sequence[float] | None = None) -> Html:
        parts = []
        for value in _ticks(*self.y_range, 4):
            y = f"{self.y(value):.1f}"
            parts.append(el("line", x1=_LEFT, x2=_W - _RIGHT, y1=y, y2=y, class_="grid"))
            parts.append(
                el("text", _tick(value), x=_LEFT - 5, y=f"{self.y(value) + 3.5:.1f}", text_anchor="end", class_="tick")
            )
        for value in _ticks(*self.x_range, 5) if x_ticks is None else x_ticks:
            parts.append(
                el("text", _tick(value), x=f"{self.x(value):.1f}", y=_H - 14, text_anchor="middle", class_="tick")
            )
        if x_label:
            parts.append(el("text", x_label, x=_W - _RIGHT, y=_H - 3, text_anchor="end", class_="axis"))
        if y_label:
            parts.append(el("text", y_label, x=_LEFT + 4, y=_TOP + 6, class_="axis"))
        return el("g", *parts)


def _line(plane: _Plane, points: Points, index: int, *, dots: bool = False) -> Html:
    places = [(plane.x(x), plane.y(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [el("path", d=path, class_=f"line s{index % 8}")]
    if dots or len(points) < 20:
        parts += [el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.5", class_=f"dot s{index % 8}") for x, y in places]
    return join(parts)


def _figure(
    title: str,
    parts: Sequence[Html],
    colours: Mapping[str, str],
    summary: Html,
    note: str,
    height: int = _H,
    **data: str,
) -> Html:
    picture = el(
        "svg", *parts, viewbox=f"0 0 {_W} {height}", role="img", aria_label=f"{title} (numbers below)", class_="chart",
        **data,
    )  # fmt: skip
    keys = [el("li", el("i", class_=f"key {colour}"), name) for name, colour in colours.items()]
    return el(
        "figure",
        el("figcaption", title),
        picture,
        el("ul", *keys, class_="legend") if len(keys) > 1 else None,
        el("p", note, class_="note") if note else None,
        el("details", el("summary", "Numbers"), summary),
    )


def _colours(series: Mapping[str, Points]) -> dict[str, str]:
    return {name: f"s{index % 8}" for index, name in enumerate(series)}


def _thinned(points: Points, every: int) -> list[tuple[float, float]]:
    if every <= 1:
        return list(points)
    parts = [points[at : at + every] for at in range(0, len(points), every)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _padded(low: float, high: float) -> tuple[float, float]:
    if low >= 0 and high <= 1 and high > 0.2:
        return 0.0, 1.0
    if low == high == 0:
        return 0.0, 1.0
    gap = (high - low) or abs(high)
    return (0.0 if 0 <= low < gap * 2 else low - gap * 0.05), high + gap * 0.08


def _ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.0e}"


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def lanes(
    title: str, spans: Sequence[tuple[str, float, float, str, str]], *, classes: Mapping[str, str], note: str = ""
) -> Html:
    """Lanes of time: spans are (lane, began, seconds, kind, tip); `classes` gives a kind's colour."""
    if not spans:
        return Html("")
    names = list(dict.fromkeys(lane for lane, *_ in spans))
    begin = min(began for _, began, *_ in spans)
    end = max(began + seconds for _, began, seconds, *_ in spans)
    width, row, left = 900, 20, 110
    factor = (width - left - 10) / max(1e-9, end - begin)
    parts: list[Html] = []
    height = row * len(names) + 30
    for value in _ticks(0.0, end - begin, 8):
        x = f"{left + value * factor:.1f}"
        parts.append(el("line", x1=x, x2=x, y1="4", y2=height - 22, class_="grid"))
        parts.append(el("text", f"{_tick(value)} s", x=x, y=height - 8, text_anchor="middle", class_="tick"))
    for index, name in enumerate(names):
        parts.append(el("text", name[:18], x=left - 6, y=4 + index * row + 13, text_anchor="end", class_="name"))
    for lane, began, seconds, kind, tip in spans:
        parts.append(
            el(
                "rect", el("title", tip), x=f"{left + (began - begin) * factor:.1f}", y=4 + names.index(lane) * row + 1,
                width=f"{max(0.6, seconds * factor):.1f}", height=row - 4, class_=f"bar {classes.get(kind, 's0')}",
            )
        )  # fmt: skip
    kinds = list(dict.fromkeys(kind for *_, kind, _ in spans))
    legend = el("ul", *[el("li", el("i", class_=f"key {classes.get(k, 's0')}"), k) for k in kinds], class_="legend")
    svg = el("svg", *parts, viewbox=f"0 0 {width} {height}", role="img", aria_label=text(title), class_="chart lanes")
    totals = {k: sum(seconds for _, _, seconds, kind, _ in spans if kind == k) for k in kinds}
    summary = table(["", "seconds"], list(totals.items()), caption=f"{title}: numbers")
    return el(
        "figure", el("figcaption", title), el("div", svg, class_="wide", tabindex="0", role="region", aria_label=title),
        legend, el("p", note, class_="note") if note else None, el("details", el("summary", "Numbers"), summary),
        class_="full",
    )  # fmt: skip
