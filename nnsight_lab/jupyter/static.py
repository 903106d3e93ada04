"""Pictures without JavaScript: a heatmap as SVG, for saved notebooks, GitHub, and HTML exports."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["DIVERGING", "RAMP", "colour", "heatmap_svg"]

RAMP = ((247, 251, 255), (158, 202, 225), (33, 113, 181), (8, 48, 107))
"""Light to dark blue; readable in print and without colour vision."""

DIVERGING = ((178, 24, 43), (244, 165, 130), (247, 247, 247), (146, 197, 222), (33, 102, 172))
"""Red to blue through white, for values around zero; told apart without colour vision."""


def colour(fraction: float, ramp: tuple[tuple[int, int, int], ...] = RAMP) -> tuple[str, str]:
    """The fill for a value in [0, 1], and a text colour that can be read on it."""
    at = min(max(fraction, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(at), len(ramp) - 2)
    part = at - low
    red, green, blue = (
        round(a + (b - a) * part) for a, b in zip(ramp[low], ramp[low + 1], strict=True)
    )
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return f"rgb({red},{green},{blue})", "#ffffff" if dark else "#1a1a1a"


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
    left, above, below = 64, 34, 34
    width = left + max(wide * len(columns), 8 * len(title)) + 12
    height = above + high * len(rows) + below
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(left, 20, title, anchor="start", size=14),
    ]
    for index, label in enumerate(rows):
        y = above + high * (len(rows) - 1 - index)
        parts.append(_text(left - 6, y + high / 2 + 4, label, anchor="end"))
        for place, value in enumerate(values[index]):
            fill, ink = colour((value - low) / (top - low), ramp)
            start = left + wide * place
            parts.append(
                f'<rect x="{start}" y="{y}" width="{wide}" height="{high}" fill="{fill}" '
                f'stroke="#ffffff"><title>{value:.4g}</title></rect>'
            )
            if texts is not None:
                word = _short(texts[index][place], wide)
                parts.append(_text(start + wide / 2, y + high / 2 + 4, word, ink=ink))
    for place, label in enumerate(columns):
        middle = left + wide * place + wide / 2
        parts.append(_text(middle, above + high * len(rows) + 18, _short(label, wide)))
    return "".join([*parts, "</svg>"])


def _short(text: str, wide: int) -> str:
    most = max(int(wide / 7), 1)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", ink: str = "#1a1a1a", size: int = 12
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{ink}" '
        f'font-size="{size}">{escape(text)}</text>'
    )
