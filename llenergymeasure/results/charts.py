"""The charts of a report as SVG text: no library, no script, no outside resource; every label is escaped.

Colours are CSS classes s0, s1, … of the page, so that a chart follows its light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bars", "Series", "bars", "lines", "scatter", "ticks"]

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 26, 12, 44
SERIES = 6  # colours; more series repeat them


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one experiment."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int | None = None  # None: its place among the series


@dataclass(frozen=True, slots=True)
class Bars:
    """One stacked bar: parts and their values."""

    name: str
    parts: Sequence[tuple[str, float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(series: Sequence[Series], *, x: str, y: str, step: bool = False, label: str) -> str:
    """Each series as a line; with `step`, as a staircase (a cumulative distribution)."""
    frame = _Frame.around([point for each in series for point in each.points], from_zero=not step)
    parts = []
    for number, each in enumerate(series):
        path: list[str] = []
        before: float | None = None
        for px, py in each.points:
            if step and before is not None:
                path.append(f"{frame.x(px):.1f},{frame.y(before):.1f}")
            path.append(f"{frame.x(px):.1f},{frame.y(py):.1f}")
            before = py
        parts.append(f'<polyline class="line s{_color(each, number)}" points="{" ".join(path)}"/>')
    return _svg(frame.axes(x, y) + "".join(parts), label)


def scatter(series: Sequence[Series], *, x: str, y: str, label: str) -> str:
    """Points, each with its values as a tooltip."""
    frame = _Frame.around([point for each in series for point in each.points], from_zero=True)
    parts = [
        f'<circle class="dot s{_color(each, number)}" cx="{frame.x(px):.1f}" cy="{frame.y(py):.1f}" r="5">'
        f"<title>{escape(each.name)}: {px:.4g}, {py:.4g}</title></circle>"
        for number, each in enumerate(series)
        for px, py in each.points
    ]
    return _svg(frame.axes(x, y) + "".join(parts), label)


def _color(series: Series, place: int) -> int:
    return (place if series.color is None else series.color) % SERIES


def bars(rows: Sequence[Bars], *, x: str, label: str) -> str:
    """Stacked bars, one under the other, their parts in the order of the first."""
    longest = max((sum(value for _, value in row.parts) for row in rows), default=0.0) or 1.0
    name_width, height = 150, 34
    scale = (WIDTH - name_width - RIGHT) / longest
    total = TOP + height * len(rows) + BOTTOM
    parts = []
    for place, row in enumerate(rows):
        top, at = TOP + height * place, float(name_width)
        name = row.name if len(row.name) <= 22 else row.name[:21] + "…"
        parts.append(f'<text class="end" x="{name_width - 8}" y="{top + 19}">{escape(name)}</text>')
        for number, (part, value) in enumerate(row.parts):
            width = value * scale
            parts.append(
                f'<rect class="bar s{number % SERIES}" x="{at:.1f}" y="{top + 4}" width="{width:.1f}" height="22">'
                f"<title>{escape(row.name)}, {escape(part)}: {value:.4g}</title></rect>"
            )
            at += width
    base = TOP + height * len(rows)
    for tick in ticks(0.0, longest):
        place_x = name_width + tick * scale
        parts.append(f'<text class="mid" x="{place_x:.1f}" y="{base + 16}">{_label(tick)}</text>')
        parts.append(f'<line class="grid" x1="{place_x:.1f}" x2="{place_x:.1f}" y1="{TOP}" y2="{base}"/>')
    middle = name_width + (WIDTH - name_width) / 2
    parts.append(f'<text class="mid" x="{middle}" y="{base + 36}">{escape(x)}</text>')
    return _svg("".join(parts), label, total)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plane of a chart: data to pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @staticmethod
    def around(points: Sequence[tuple[float, float]], *, from_zero: bool) -> _Frame:
        xs, ys = [px for px, _ in points], [py for _, py in points]
        x_low, y_low = (0.0, 0.0) if from_zero else (min(xs), min(0.0, *ys))
        x_high, y_high = max(xs), max(ys) * (1.08 if from_zero else 1.0)
        return _Frame(x_low, x_high if x_high > x_low else x_low + 1, y_low, y_high if y_high > y_low else y_low + 1)

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x: str, y: str) -> str:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>']
        for tick in ticks(self.x_low, self.x_high, 6):
            parts.append(f'<text class="mid" x="{self.x(tick):.1f}" y="{bottom + 17}">{_label(tick)}</text>')
        for tick in ticks(self.y_low, self.y_high):
            at = self.y(tick)
            parts.append(f'<text class="end" x="{LEFT - 6}" y="{at + 4:.1f}">{_label(tick)}</text>')
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        middle = (LEFT + right) / 2
        parts.append(f'<text class="mid" x="{middle}" y="{HEIGHT - 6}">{escape(x)}</text>')
        turned = f"translate(13 {(TOP + bottom) / 2}) rotate(-90)"
        parts.append(f'<text class="mid" transform="{turned}">{escape(y)}</text>')
        return "".join(parts)


def _label(value: float) -> str:
    return f"{value:,.8g}" if 1e-3 <= abs(value) < 1e7 or value == 0 else f"{value:.4g}"


def _svg(content: str, label: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{content}</svg>'
    )
