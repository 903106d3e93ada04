"""How large a picture of tokens is, and which of its labels fit: for Plotly and for SVG alike."""

from __future__ import annotations

from html import escape
from math import ceil
from typing import Any
from unicodedata import east_asian_width

__all__ = ["LETTER", "Labels", "cell_width", "numbered", "panel_grid", "text_width", "token_axis"]

LETTER = 7.2
"""The width of a letter at 12 pixels, roughly; wide ones, such as 漢 and 🙂, take two."""
_LINE = 13
"""The height of a line of labels."""
_LONGEST = 14
_WIDEST = 1400
"""A row of cells is no wider than this, whatever the prompt."""
_PANELS_WIDE = 1100


def cell_width(count: int, most: int = 64) -> int:
    """The width of each of `count` cells, so that all of them fit on a page."""
    return max(min(most, _WIDEST // max(count, 1)), 1)


def text_width(text: str) -> float:
    """How wide a label is at 12 pixels."""
    return LETTER * sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


class Labels:
    """The labels of `texts`, cells of `size` pixels apart: each that fits, shortened.

    across: they stand under cells; those that would run into each other are slanted.
    """

    def __init__(self, texts: list[str], size: float, *, across: bool = False) -> None:
        self.texts = [_shortened(text) for text in texts]
        widest = max(map(text_width, self.texts), default=0.0)
        self.slanted = across and widest > size + 4
        apart = 0 if across and not self.slanted else _LINE
        self.every = max(ceil(apart / size), 1)
        self.shown = list(range(0, len(texts), self.every))
        self.room = widest * 0.9 + _LINE if self.slanted else 2 * _LINE if across else widest + 12


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def panel_grid(panels: int, positions: int) -> tuple[int, int, int]:
    """How many panels down and across, and the side of each: longer prompts, larger panels."""
    side = min(max(180, _LINE * positions), 520 if panels <= 8 else 320)
    across = max(min(panels, 4, _PANELS_WIDE // side), 1)
    down = -(-panels // across)
    return down, -(-panels // down), side


def numbered(tokens: list[str]) -> list[str]:
    """Names for the places of an axis: they must differ even where tokens repeat."""
    return [f"{place} {escape(token)}" for place, token in enumerate(tokens)]


def token_axis(names: list[str], labels: Labels) -> dict[str, Any]:
    """A Plotly axis with the labels that fit; each name is still there to hover over."""
    return {
        "type": "category",
        "tickmode": "array",
        "tickvals": [names[place] for place in labels.shown],
        "ticktext": [escape(labels.texts[place]) for place in labels.shown],
        "tickangle": -60 if labels.slanted else 0,
    }
