"""Lines and points as SVG: the pictures of `figures_plots.py` without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

from nnsight_lab.jupyter.axes import LETTER, Labels, text_width
from nnsight_lab.jupyter.static_frame import INK, framed

__all__ = ["COLOURS", "Series", "labels_that_fit", "plot_svg", "ticks"]

COLOURS = ("#2171b5", "#d95f02", "#1b7837", "#9b59b6", "#777777", "#d0334a")
"""Seen on white and on black; told apart without colour vision as far as six can be."""

_LEFT, _TOP, _LINE = 64, 34, "#e3e6ea"
_LABEL_HIGH = 11
"""Labels of points nearer than this, one above the other, would touch."""


@dataclass(frozen=True)
class Series:
    """Points `(x, y)` under a name: joined by a line, or not, each with a label of its own."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    line: bool = True
    dashed: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** floor(log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw * 0.999)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def plot_svg(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    y_title: str,
    names: Sequence[str] = (),
    size: tuple[int, int] = (620, 300),
) -> str:
    """Lines and points, with a legend below where there are several.

    names: what the whole numbers of the x axis are called, where it counts things.
    """
    wide, high = size
    frame = _frame(series, wide, high)
    parts = [*_grid(frame, names, x_title, y_title)]
    for place, one in enumerate(series):
        parts += _drawn(one, COLOURS[place % len(COLOURS)], frame)
    bottom = _TOP + high + 46
    if len(series) > 1:
        parts += _legend(series, bottom + 14)
        bottom += 32
    width = max(_LEFT + wide + 20, _LEFT + LETTER * 1.2 * len(title) + 12)
    return framed([_text(_LEFT, 20, title, anchor="start", size=14), *parts], width, bottom)


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    wide: int
    high: int

    def x(self, value: float) -> float:
        return _LEFT + self.wide * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        return _TOP + self.high * (1 - (value - self.y_low) / (self.y_high - self.y_low))


def _frame(series: Sequence[Series], wide: int, high: int) -> _Frame:
    x = _range([value for one in series for value in one.x])
    y = _range([value for one in series for value in one.y])
    return _Frame(*x, *y, wide, high)


def labels_that_fit(series: Series, size: tuple[int, int] = (620, 300)) -> list[str]:
    """The labels of points; empty for those that would run into one before them."""
    frame = _frame([series], *size)
    taken: list[tuple[float, float, float]] = []
    shown = []
    for x, y, label in zip(series.x, series.y, series.labels, strict=True):
        start, middle, long = frame.x(x) + 6, frame.y(y), text_width(label) * 0.85
        free = (
            isfinite(x)
            and isfinite(y)
            and not any(
                start < right and left < start + long and abs(middle - line) < _LABEL_HIGH
                for left, right, line in taken
            )
        )
        if free:
            taken.append((start, start + long, middle))
        shown.append(label if free else "")
    return shown


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest, with a little room around them."""
    there = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low, high = min(there), max(there)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _grid(frame: _Frame, names: Sequence[str], x_title: str, y_title: str) -> list[str]:
    right, bottom = _LEFT + frame.wide, _TOP + frame.high
    parts = []
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}" stroke="{_LINE}" fill="none"/>'
        )
        parts.append(_text(_LEFT - 8, y + 4, f"{value:g}", anchor="end"))
    labels = Labels(list(names), frame.wide / max(len(names), 1))
    widest = max(map(text_width, labels.texts), default=1.0) + 8
    every = max(ceil(widest * len(names) / frame.wide), 1)
    shown = [(float(place), name) for place, name in enumerate(labels.texts) if place % every == 0]
    for value, name in shown or [(v, f"{v:g}") for v in ticks(frame.x_low, frame.x_high, 6)]:
        parts.append(_text(frame.x(value), bottom + 18, name))
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}" stroke="{INK}" fill="none"/>')
    parts.append(_text(_LEFT + frame.wide / 2, bottom + 38, x_title))
    middle = _TOP + frame.high / 2
    turned = f' transform="rotate(-90 16 {middle:.0f})"'
    return [*parts, _text(16, middle, y_title, more=turned)]


def _drawn(series: Series, colour: str, frame: _Frame) -> list[str]:
    known = [
        (frame.x(x), frame.y(y), place)
        for place, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if isfinite(x) and isfinite(y)
    ]
    parts = []
    written = labels_that_fit(series, (frame.wide, frame.high)) if series.labels else []
    if series.line and known:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in known)
        dash = ' stroke-dasharray="6 4"' if series.dashed else ""
        parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"{dash}/>')
    for x, y, place in known if not series.dashed else ():
        label = series.labels[place] if place < len(series.labels) else ""
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" fill-opacity="0.85">'
            f"<title>{escape(label or f'{series.y[place]:.4g}')}</title></circle>"
        )
        if written and not series.line:
            parts.append(_text(x + 6, y + 4, written[place], anchor="start", size=10))
    return parts


def _legend(series: Sequence[Series], y: float) -> list[str]:
    parts, x = [], float(_LEFT)
    for place, one in enumerate(series):
        colour = COLOURS[place % len(COLOURS)]
        dash = ' stroke-dasharray="4 3"' if one.dashed else ""
        mark = f'<path d="M{x:.0f} {y}h18" stroke="{colour}" stroke-width="2"{dash}/>'
        dot = f'<circle cx="{x + 9:.0f}" cy="{y}" r="4" fill="{colour}"/>'
        parts += [mark if one.line else dot, _text(x + 24, y + 4, one.name, anchor="start")]
        x += 24 + text_width(one.name) + 22
    return parts


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, more: str = ""
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" '
        f'font-size="{size}"{more}>{escape(text)}</text>'
    )
