"""What a still picture of a tab is made of: lines, tokens in boxes, tables of cells, images.

It is HTML that stays readable where styles are taken away (`reprs/html.py` says where): words and
numbers are text, a picture is an image with its data in it. Nothing here knows a tab.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from typing import TypeAlias

from nnsight_lab.jupyter.reprs.html import Markup, tag
from nnsight_lab.jupyter.static import RAMP, colour

__all__ = [
    "Colours",
    "Grid",
    "Piece",
    "Scale",
    "chips",
    "fitted",
    "grid",
    "image",
    "line",
    "svg_image",
    "thinned",
    "visible",
    "window",
]

Colours: TypeAlias = tuple[tuple[int, int, int], ...]

_CHIP = "border:1px solid #8888;border-radius:3px;padding:0 2px;margin:1px;white-space:pre"
_LOOK = "border-collapse:collapse;font-size:11px;line-height:1.3;margin:4px 0;border:none"
_CELL = "padding:1px 5px;text-align:center"
_HEAD = f"{_CELL};white-space:pre"
_WORD = 10
"""Letters of a token in a cell; the whole of it is read over the cell."""
_MOST_COLUMNS, _MOST_ROWS = 64, 26


@dataclass(frozen=True)
class Piece:
    """Part of a still picture, as HTML and as text."""

    html: str = ""
    text: str = ""

    def __add__(self, other: Piece) -> Piece:
        between = "\n" if self.text and other.text else ""
        return Piece(self.html + other.html, self.text + between + other.text)

    @property
    def size(self) -> int:
        """Bytes in a notebook file."""
        return sum(
            len(json.dumps(part, ensure_ascii=False).encode()) for part in (self.html, self.text)
        )


@dataclass(frozen=True)
class Scale:
    """Which value is the first colour, and which the last."""

    low: float = 0.0
    high: float = 1.0
    colours: Colours = RAMP

    def style(self, value: float) -> str:
        """The colours of what stands for a value, and of the words on it."""
        fill, ink = colour((value - self.low) / (self.high - self.low or 1.0), self.colours)
        return f"background:{_short_colour(fill)};color:{_SHORT_INK[ink]}"


_SHORT_INK = {"#000000": "#000", "#ffffff": "#fff"}


def _short_colour(fill: str) -> str:
    """`rgb(8,48,107)` in fewer letters: there are many of them."""
    return "#" + "".join(f"{int(part):02x}" for part in fill[4:-1].split(","))


def visible(token: str) -> str:
    """A token with its white space to be seen."""
    return token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


def line(text: str) -> Piece:
    """A line of words."""
    return Piece(f'<div style="overflow-wrap:anywhere">{escape(text)}</div>', text)


def window(count: int, most: int, token: int) -> range:
    """At most so many positions of all, among them the chosen one."""
    start = 0 if token < most else min(token - most + 1, count - most)
    return range(start, start + min(most, count))


def thinned(count: int) -> tuple[list[int], str]:
    """Which of so many rows are shown, the last and the first always; and what is left out."""
    step = -(-count // _MOST_ROWS)
    shown = sorted({*range(count - 1, -1, -step), 0})
    return shown, f"One layer in {step}." if step > 1 else ""


def fitted(draw: Callable[[range], Piece], count: int, token: int, room: int) -> Piece:
    """What is drawn of all positions; or of as many as there is room for, and says so.

    draw: draws the positions of a range. token: one that is shown in any case.
    """
    most = min(count, _MOST_COLUMNS)
    while True:
        shown = window(count, most, token)
        piece = draw(shown)
        if most < count:
            said = f"{most:,} of {count:,} positions: {shown.start:,} to {shown.stop - 1:,}."
            piece = line(said) + piece
        if piece.size <= room or most == 1:
            return piece
        most = max(min(most * room // piece.size, most - 1), 1)


def chips(
    tokens: Sequence[str],
    numbers: Sequence[float],
    *,
    scale: Scale,
    room: int,
    tip: Callable[[int], str],
    apart: str = " ",
) -> Piece:
    """Tokens in boxes, each with its number where it has one; as many as there is room for.

    tip: what is said over a token. apart: what is between them in text.
    """
    boxes, words, left = [], [], room
    for place, token in enumerate(map(visible, tokens)):
        known = place < len(numbers) and isfinite(numbers[place])
        number = f"{numbers[place]:.3f}" if known else ""
        look = f"{_CHIP};{scale.style(numbers[place])}" if known else _CHIP
        small = f" <small>{number}</small>" if known else ""
        box = f'<span style="{look}" title="{escape(tip(place))}">{escape(token)}{small}</span> '
        left -= len(json.dumps(box)) + len(token)
        if left < 0:
            break
        boxes.append(box)
        words.append(f"{token} {number}".rstrip())
    more = len(tokens) - len(boxes)
    rest = f" and {more} more" if more else ""
    html = f'<div style="line-height:1.9">{"".join(boxes)}{rest}</div>'
    return Piece(html, apart.join(words) + rest)


@dataclass(frozen=True)
class Grid:
    """Cells of a number and, where there are words, a word; rows from the top.

    values, words: `[row][column]`; a cell that is NaN is empty. form: of the numbers.
    heads: of the columns, each with what is said over it.
    """

    rows: Sequence[str]
    heads: Sequence[tuple[str, str]]
    values: Sequence[Sequence[float]]
    scale: Scale
    words: Sequence[Sequence[str]] | None = None
    form: str = ".3f"
    logs: Sequence[Sequence[float]] | None = None


def grid(found: Grid) -> Piece:
    """A table of coloured cells."""
    heads = "".join(
        f'<th style="{_HEAD}" title="{escape(tip)}">{escape(_short(name))}</th>'
        for name, tip in found.heads
    )
    html, text = [f'<tr><th style="{_HEAD}">layer</th>{heads}</tr>'], []
    text.append(" | ".join(["layer", *(name for name, _ in found.heads)]))
    for row, name in enumerate(found.rows):
        cells = [_cell(found, row, column) for column in range(len(found.heads))]
        html.append(
            f'<tr><th style="{_HEAD}">{escape(name)}</th>{"".join(html for html, _ in cells)}</tr>'
        )
        text.append(" | ".join([name, *(text for _, text in cells)]))
    table = f'<table style="{_LOOK}">{"".join(html)}</table>'
    return Piece(f'<div style="overflow-x:auto">{table}</div>', "\n".join(text))


def _cell(found: Grid, row: int, column: int) -> tuple[str, str]:
    """A cell as HTML and as text."""
    value = found.values[row][column]
    if not isfinite(value):
        return "<td></td>", ""
    number = _number(value, found.form)
    shade = value if found.logs is None else found.logs[row][column]
    look = f"{_CELL};{found.scale.style(shade)}"
    if found.words is None:
        return f"<td style='{look}'>{number}</td>", number
    word = visible(found.words[row][column])
    whole = f" title='{escape(word)}'" if len(word) > _WORD else ""
    inside = f"{escape(_short(word))}<br><small>{number}</small>"
    return f"<td style='{look}'{whole}>{inside}</td>", f"{word} {number}"


def _number(value: float, form: str) -> str:
    """A number without a sign in front of nothing."""
    text = format(value, form)
    return text if text.strip("+-0.") else text.lstrip("+-")


def _short(word: str) -> str:
    return word if len(word) <= _WORD else word[: _WORD - 1] + "…"


def svg_image(svg: str, alt: str) -> Piece:
    """A drawing as an image; its paper is that of the page, light or dark."""
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return Piece(f"{_SCHEMES}<div>{image(uri, alt)}</div>")


_SCHEMES = (
    "<style>[data-jp-theme-light=true] .nnl-stillimage{color-scheme:light}"
    "[data-jp-theme-light=false] .nnl-stillimage{color-scheme:dark}</style>"
)
"""An image knows of its page only its colour scheme, which an export does not say."""


def image(uri: str, alt: str, *, label: str = "") -> Markup:
    """An image with its data in it, and a name before it."""
    look = "max-width:none;vertical-align:middle;margin:1px 0"
    made = tag("img", src=uri, alt=alt, class_="nnl-stillimage", style=look)
    return made if not label else Markup(f"<div>{escape(label)} {made}</div>")
