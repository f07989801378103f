"""Plots as inline SVG: intervals, times, and the timeline of a live session. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_LABEL_WIDTH, _WIDTH, _ROW, _PADDING = 310, 760, 26, 14


class Interval(NamedTuple):
    """A value with its 95 % interval; low and high None where nothing bounds it."""

    label: str
    value: float
    low: float | None
    high: float | None


def interval_chart(rows: Sequence[Interval], title: str) -> str:
    """One line a value: a dot within its interval, on one axis from 0. "" without rows."""
    if not rows:
        return ""
    top = max([100.0 if max(row.value for row in rows) <= 100 else 0.0, *(row.high or row.value for row in rows)])
    step = _step(top)
    top = step * math.ceil(top / step)
    x, height, parts = _axis(len(rows), top, step, "")
    for number, row in enumerate(rows):
        y = _PADDING + (number + 0.5) * _ROW
        parts.append(_text(_LABEL_WIDTH - 10, y + 4, _shortened(row.label), "label"))
        if row.low is not None and row.high is not None:
            parts.append(f'<line class="interval" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot" cx="{x(row.value):.1f}" cy="{y}" r="4.5"/>')
        parts.append(_text(x(max(row.high or 0, row.value)) + 10, y + 4, f"{row.value:.1f}", "value"))
    return _svg(height, title, parts)


def _axis(rows: int, top: float, step: float, unit: str) -> tuple[Callable[[float], float], int, list[str]]:
    """Where a value from 0 to `top` stands, the height of a chart of so many rows, and its grid."""
    height = rows * _ROW + 2 * _PADDING + 12

    def x(value: float) -> float:
        return _LABEL_WIDTH + (_WIDTH - _LABEL_WIDTH - 60) * value / top

    parts = []
    for index in range(round(top / step) + 1):
        at = x(index * step)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_PADDING}" y2="{height - 22}"/>')
        parts.append(_text(at, height - 6, f"{index * step:g}{unit}", "tick"))
    return x, height, parts


def time_chart(rows: Sequence[tuple[str, Sequence[float]]], title: str) -> str:
    """One line a group: every time in seconds as a dot, the median as a bar. "" without times."""
    rows = [(label, values) for label, values in rows if values]
    if not rows:
        return ""
    longest = max(max(values) for _, values in rows)
    step = _step(longest)
    top = step * math.ceil(longest / step + 1e-9)
    x, height, parts = _axis(len(rows), top, step, " s")
    for number, (label, values) in enumerate(rows):
        y = _PADDING + (number + 0.5) * _ROW
        parts.append(_text(_LABEL_WIDTH - 10, y + 4, _shortened(label), "label"))
        parts += [f'<circle class="time" cx="{x(value):.1f}" cy="{y}" r="4"/>' for value in values]
        middle = sorted(values)[len(values) // 2]
        parts.append(f'<line class="median" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{y - 9}" y2="{y + 9}"/>')
    return _svg(height, title, parts)


def timeline(
    seconds: float,
    window: Sequence[float] | None,
    segments: Sequence[Sequence[float]],
    cuts: Sequence[Sequence[float]],
) -> str:
    """A live session from left to right: the annotated window, the stretches of the reply, where it was cut."""
    length = max([seconds, *(end for _, end in segments), 0.1])

    def x(value: float) -> float:
        return 10 + (_WIDTH - 20) * min(value, length) / length

    parts = [f'<line class="grid" x1="10" x2="{_WIDTH - 10}" y1="32" y2="32"/>']
    if window:
        start, end = window
        width = max(x(end) - x(start), 2)
        parts.append(f'<rect class="window" x="{x(start):.1f}" y="8" width="{width:.1f}" height="40"/>')
    for start, end in segments:
        width = max(x(end) - x(start), 2)
        parts.append(f'<rect class="reply" x="{x(start):.1f}" y="20" width="{width:.1f}" height="20" rx="3"/>')
    parts += [f'<line class="cut" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="14" y2="46"/>' for at, _ in cuts]
    for second in range(0, int(length) + 1, max(1, int(length / 10))):
        parts.append(_text(x(second), 64, f"{second} s", "tick"))
    return _svg(70, "When the reply sounded; the shaded part is the annotated event", parts)


def _step(top: float) -> float:
    """A round distance of some five grid lines."""
    if top <= 0:
        return 1.0
    unit = 10 ** math.floor(math.log10(top / 4))
    return next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= top / 5)


def _shortened(label: str, letters: int = 44) -> str:
    return label if len(label) <= letters else label[: letters - 1] + "…"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    name = escape(title, quote=True)
    drawing = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{name}"><title>{name}</title>{drawing}</svg>'
