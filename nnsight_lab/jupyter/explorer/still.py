"""What is seen of an explorer without a kernel: on GitHub, in a saved notebook, in an export.

The prompt's tokens at first. When a tab has got numbers, those too: nothing runs for it a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite

from nnsight_lab.jupyter.explorer.subject import Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Wanted
from nnsight_lab.jupyter.static import colour

__all__ = ["Still"]

_ROOM = 20_000
"""Characters of HTML for the tokens; a longer prompt is cut, and says so."""

_CHIP = "border:1px solid #8888;border-radius:3px;padding:0 2px;margin:1px;white-space:pre"
_SCALE = 10.0
"""From so many nats on, a token is as dark as it can be."""


class Still:
    """The prompt with its tokens apart, a number at each, and the likeliest tokens after it."""

    def __init__(self, subject: Subject, title: str) -> None:
        self._subject = subject
        self._title = title
        self._by = ""
        self._numbers: Sequence[float] = ()
        self._next: Sequence[tuple[str, float]] = ()

    def learn(self, view: str, wanted: Wanted, sheet: Sheet) -> bool:
        """Take what a tab tells its browser; whether there is anything here to show of it."""
        numbers = sheet.arrays.get("numbers")
        if view != "tokens" or numbers is None or self._by == "surprisal":
            return False
        self._by = str(wanted.get("by", "surprisal"))
        self._numbers = numbers.tolist()
        self._next = sheet.plain.get("next", ())
        return True

    def drawn(self) -> tuple[str, str]:
        """As HTML and as text."""
        chips, words, left = [], [], _ROOM
        for place, token in enumerate(map(_visible, self._subject.tokens)):
            chip = self._chip(place, token)
            left -= len(chip)
            if left < 0:
                break
            chips.append(chip)
            words.append(f"{token} {self._number(place)}".rstrip())
        more = len(self._subject.tokens) - len(chips)
        rest = f" and {more} more" if more else ""
        said = self._said()
        lines = [escape(self._title), "".join(chips) + rest, *map(escape, said)]
        lines.append("Run the cell again to explore: lens, attention, patching and more.")
        html = "".join(f"<div>{line}</div>" for line in lines)
        between = " | " if self._by else " "
        text = "\n".join([self._title, between.join(words) + rest, *said])
        return f'<div style="font-family:monospace;line-height:1.9">{html}</div>', text

    def _chip(self, place: int, token: str) -> str:
        """A token and its number; colour: how large that is."""
        number = self._number(place)
        tip, look, small = f"position {place}, id {self._subject.ids[place]}", _CHIP, ""
        if number:
            tip += f": {number} {self._unit}"
            small = f" <small>{number}</small>"
            low, high = self._range
            fill, ink = colour((self._numbers[place] - low) / (high - low))
            look = f"{_CHIP};background:{fill};color:{ink}"
        return f'<span style="{look}" title="{escape(tip)}">{escape(token)}{small}</span> '

    def _number(self, place: int) -> str:
        known = place < len(self._numbers) and isfinite(self._numbers[place])
        return f"{self._numbers[place]:.3f}" if known else ""

    @property
    def _unit(self) -> str:
        return "nats" if self._by == "surprisal" else self._by

    @property
    def _range(self) -> tuple[float, float]:
        if self._by == "surprisal":
            return 0.0, _SCALE
        known = [number for number in self._numbers if isfinite(number)]
        return min(known), max(*known, min(known) + 1e-9)

    def _said(self) -> list[str]:
        """What the numbers are, and what comes next."""
        what = "surprisal in nats" if self._by == "surprisal" else self._by
        found = [f"At each token: {what}; darker is more."] if self._by else []
        if self._next:
            listed = ", ".join(f"{_visible(word)} {chance:.4f}" for word, chance in self._next)
            found.append(f"Likeliest next: {listed}")
        return found


def _visible(token: str) -> str:
    return token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
