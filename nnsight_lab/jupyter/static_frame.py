"""The sheet a still picture is drawn on: white with dark words, and dark where the reader's page is.

An SVG that is shown as an image knows of its page only whether it is dark (`prefers-color-scheme`);
our style sheet says so of JupyterLab's themes. Where nobody says, it is the white one.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["DARK", "DARK_INK", "INK", "PAPER", "framed"]

PAPER, INK = "#ffffff", "#1a1a1a"
DARK, DARK_INK = "#111111", "#e6e6e6"

_STYLE = (
    "<style>@media (prefers-color-scheme: dark) {"
    f".nnl-still {{fill: {DARK_INK}}} .nnl-still .paper {{fill: {DARK}}}"
    f".nnl-still rect[stroke] {{stroke: {DARK}}} .nnl-still .grid {{stroke: #3c4148}}"
    f".nnl-still .axis {{stroke: {DARK_INK}}}}}</style>"
)


def framed(parts: Iterable[str], width: float, height: float, label: str = "") -> str:
    """A whole SVG. Words without a colour of their own have that of the sheet.

    A line of class `grid` or `axis` changes with the sheet, and so does the edge of a rectangle.
    """
    size = f'width="{width:.0f}" height="{height:.0f}"'
    named = f' role="img" aria-label="{escape(label, quote=True)}"' if label else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nnl-still" {size} '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="{INK}"{named}>{_STYLE}'
        f'<rect class="paper" {size} fill="{PAPER}"/>{"".join(parts)}</svg>'
    )
