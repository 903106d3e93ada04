"""Pictures without JavaScript: heatmaps as SVG, for saved notebooks, GitHub, and HTML exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from math import isfinite

from nnsight_lab.jupyter.axes import LETTER, Labels, panel_grid, text_width
from nnsight_lab.jupyter.static_frame import framed

__all__ = ["DIVERGING", "RAMP", "colour", "heatmap_svg", "panels_svg"]

RAMP = ((247, 251, 255), (158, 202, 225), (33, 113, 181), (8, 48, 107))
"""Light to dark blue; readable in print and without colour vision."""

DIVERGING = ((178, 24, 43), (244, 165, 130), (247, 247, 247), (146, 197, 222), (33, 102, 172))
"""Red to blue through white, for values around zero; told apart without colour vision."""

_TITLE = 34
_TEXT_FITS = 40
"""Cells narrower than this have no text in them."""


def colour(fraction: float, ramp: tuple[tuple[int, int, int], ...] = RAMP) -> tuple[str, str]:
    """The fill for a value in [0, 1], and a text colour that can be read on it."""
    at = min(max(fraction, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(at), len(ramp) - 2)
    part = at - low
    red, green, blue = (
        round(a + (b - a) * part) for a, b in zip(ramp[low], ramp[low + 1], strict=True)
    )
    light = sum(
        share * _linear(part) for share, part in zip(_SEEN, (red, green, blue), strict=True)
    )
    return f"rgb({red},{green},{blue})", "#ffffff" if light < _WHITE_BELOW else "#000000"


_SEEN = (0.2126, 0.7152, 0.0722)
_WHITE_BELOW = 0.179
"""On what is lighter, black is read better than white; the better one has always a contrast of 4.5."""


def _linear(part: int) -> float:
    """The light of a part of a colour, as WCAG counts it."""
    share = part / 255
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)


def heatmap_svg(
    values: Sequence[Sequence[float]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]] | None = None,
    title: str = "",
    low: float = 0.0,
    top: float = 1.0,
    ramp: tuple[tuple[int, int, int], ...] = RAMP,
    cell: tuple[int, int] = (76, 24),
) -> str:
    """A heatmap, first row at the bottom, with a text in each cell where `texts` has one.

    values: `[row][column]`, coloured from `low` to `top`. rows, columns: their labels.
    """
    wide, high = cell
    down, across = Labels(list(rows), high), Labels(list(columns), wide, across=True)
    left = max(int(down.room) + 6, 40)
    bottom = _TITLE + high * len(rows)
    parts = []
    for index, row in enumerate(values):
        y = bottom - high * (index + 1)
        for place, value in enumerate(row):
            if not isfinite(value):
                continue
            fill, ink = colour((value - low) / (top - low), ramp)
            start = left + wide * place
            edge = ' stroke="#ffffff"' if wide > 4 else ""
            parts.append(
                f'<rect x="{start}" y="{y}" width="{wide}" height="{high}" fill="{fill}"'
                f"{edge}><title>{value:.4g}</title></rect>"
            )
            if texts is not None and wide >= _TEXT_FITS:
                word = _short(texts[index][place], wide)
                parts.append(_text(start + wide / 2, y + high / 2 + 4, word, ink=ink))
    for place in down.shown:
        middle = bottom - high * (place + 0.5) + 4
        parts.append(_text(left - 6, middle, down.texts[place], anchor="end"))
    parts += _below(across, left, bottom, wide)
    width = left + max(wide * len(columns), LETTER * 1.2 * len(title)) + 12
    return _svg(parts, title, left, width, bottom + across.room + 8)


def panels_svg(
    panels: Sequence[Sequence[Sequence[float]]],
    *,
    names: Sequence[str],
    labels: Sequence[str],
    title: str = "",
) -> str:
    """Square heatmaps side by side, first row at the top; values in [0, 1].

    panels: `[panel][row][column]`. names: of the panels. labels: of rows and of columns.
    """
    count = len(labels)
    down, across, side = panel_grid(len(panels), count)
    cell = side / count
    rows, columns = Labels(list(labels), cell), Labels(list(labels), cell, across=True)
    left, step = max(int(rows.room), 40), (side + 20, side + 30)
    parts = []
    for index, values in enumerate(panels):
        x, y = left + step[0] * (index % across), _TITLE + 24 + step[1] * (index // across)
        parts.append(_text(x + side / 2, y - 6, names[index]))
        parts.append(f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{_NOTHING}"/>')
        parts += _runs(values, x, y, cell)
        if index % across == 0:
            parts += [
                _text(x - 6, y + cell * (place + 0.5) + 4, rows.texts[place], anchor="end")
                for place in rows.shown
            ]
        if index + across >= len(panels):
            parts += _below(columns, x, y + side, cell)
    width = left + max(step[0] * across, LETTER * 1.2 * len(title)) + 12
    return _svg(parts, title, left, width, _TITLE + 24 + step[1] * down + columns.room)


_NOTHING = colour(0.0)[0]


def _runs(values: Sequence[Sequence[float]], x: float, y: float, cell: float) -> Iterator[str]:
    """The cells of a panel; neighbours of one colour are one rectangle, so that files stay small.

    Values are shown to the nearest 1/40.
    """
    for index, row in enumerate(values):
        place = 0
        for level, run in groupby(round(value * 40) for value in row):
            long = len(list(run))
            if level:
                yield (
                    f'<rect x="{x + cell * place:.1f}" y="{y + cell * index:.1f}" '
                    f'width="{cell * long:.1f}" height="{cell:.1f}" fill="{colour(level / 40)[0]}"/>'
                )
            place += long


def _below(labels: Labels, left: float, bottom: float, wide: float) -> Iterator[str]:
    """Labels under the columns of a heatmap, slanted where they are wider than a cell."""
    for place in labels.shown:
        x = left + wide * (place + 0.5)
        if labels.slanted:
            turn = f' transform="rotate(-60 {x + 4:.0f} {bottom + 12:.0f})"'
            yield _text(x + 4, bottom + 12, labels.texts[place], anchor="end", more=turn)
        else:
            yield _text(x, bottom + 18, labels.texts[place])


def _svg(parts: list[str], title: str, left: float, width: float, height: float) -> str:
    return framed([_text(left, 20, title, anchor="start", size=14), *parts], width, height)


def _short(text: str, wide: int) -> str:
    if text_width(text) <= wide:
        return text
    while text and text_width(text) > wide - LETTER:
        text = text[:-1]
    return text + "…"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    ink: str = "",
    size: int = 12,
    more: str = "",
) -> str:
    fill = f' fill="{ink}"' if ink else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{fill} '
        f'font-size="{size}"{more}>{escape(text)}</text>'
    )
