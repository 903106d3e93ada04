"""An error of ours as a card: what is wrong, the user's line among its neighbours, the next step.

Shown of a failed cell (`failed_cells.py`), and where an error is the value of a cell. The words are
those of the plain text; nothing is only here.
"""

from __future__ import annotations

import linecache

from nnsight_lab.errors import LabError, SourceLine
from nnsight_lab.jupyter.reprs.html import (
    FAINT,
    LINE,
    MONO,
    Markup,
    code,
    folded,
    joined,
    page,
    tag,
)

__all__ = ["error_html"]

_AROUND = 2
_RED = "#d32f2f"


def _excerpt(where: SourceLine) -> Markup:
    """The line and its neighbours as they were written; the line is marked."""
    first = max(where.line - _AROUND, 1)
    lines = [
        (number, linecache.getline(where.file, number).rstrip("\n"))
        for number in range(first, where.line + _AROUND + 1)
    ]
    while lines and not lines[-1][1]:
        lines.pop()
    rows = [_row(number, text, marked=number == where.line) for number, text in lines]
    look = f"{MONO}; margin: 6px 0; padding: 4px 0; overflow-x: auto; border: 1px solid {LINE}"
    return tag("pre", *rows, style=look)


def _row(number: int, text: str, *, marked: bool) -> Markup:
    start = f"{'→' if marked else ' '} {number:>3}  "
    if not marked:
        return tag("span", f"{start}{text}\n", style=f"{FAINT}; padding: 0 6px")
    look = f"background: rgba(211, 47, 47, 0.16); color: inherit; border-left: 3px solid {_RED}"
    return tag("mark", tag("b", f"{start}{text}"), "\n", style=f"{look}; padding: 1px 6px 1px 3px")


def error_html(error: LabError, traceback: str = "") -> Markup:
    """An error with its line, its hint, its code, the page that says more, and its traceback."""
    name = tag("b", type(error).__name__)
    parts = [tag("div", name, " ", code(error.code, FAINT)), _message(error.message)]
    if error.where is not None:
        parts.append(tag("div", f"at {error.where}", style=FAINT))
        if error.where.text:
            parts.append(_excerpt(error.where))
    if error.hint:
        parts.append(tag("div", tag("b", "→ "), error.hint))
    told = tag(
        "div", "more: ", code(f"docs/errors/{error.code}.md"), style=f"{FAINT}; font-size: 12px"
    )
    if traceback:
        text = tag("pre", traceback, style=f"{MONO}; overflow-x: auto")
        told = joined((told, folded(tag("span", "traceback", style=FAINT), text)))
    look = f"border-left: 4px solid {_RED}; padding: 2px 0 2px 12px; margin: 4px 0"
    return page("error", tag("div", *parts, told, style=look))


def _message(message: str) -> Markup:
    return tag("div", message, style="white-space: pre-wrap; margin: 2px 0")
