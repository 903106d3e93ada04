"""A tensor in a notebook: shape, statistics, a small heatmap, and its first and last values.

Shown for every `torch.Tensor` once the extension is loaded; the tensor itself is left as it is,
and so is its plain text. Nothing is shown of tensors that hold no numbers (on the meta device).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnsight_lab.jupyter.reprs.html import FAINT, MONO, Markup, code, folded, page, table, tag
from nnsight_lab.jupyter.reprs.pictures import Picture, matrix_of, picture_of
from nnsight_lab.kernels.summary import TensorSummary, summary_of

__all__ = ["NUMBERS", "number_cells", "picture_cell", "tensor_html", "written"]

NUMBERS = ("mean", "std", "min", "max", "not finite")
"""What the columns of a table of tensors are called."""

_EDGE = 4


def written(number: float | None) -> str:
    """A number as our tables write it."""
    return "" if number is None else f"{number:.4g}"


def number_cells(found: TensorSummary) -> tuple[str, ...]:
    """The cells below `NUMBERS`."""
    numbers = (found.mean, found.std, found.low, found.high)
    return (*map(written, numbers), _troubles(found))


def _troubles(found: TensorSummary) -> str:
    said = ", ".join(f"{count:,} {what}" for what, count in found.troubles)
    if not said:
        return "none" if found.seen else ""
    return tag("b", said)


def _image(picture: Picture) -> Markup:
    size = {"width": str(picture.width), "height": str(picture.height)}
    look = f"max-width: 100%; border: 1px solid rgba(128, 128, 128, 0.5); width: {picture.width}px"
    return tag("img", src=picture.uri, alt=picture.words, title=picture.words, style=look, **size)


def picture_cell(tensor: torch.Tensor) -> str:
    """A thumbnail of a tensor; empty where there is none."""
    picture = picture_of(tensor, most=(14, 36), width=110, cell=4)
    return "" if picture is None else _image(picture)


def tensor_html(tensor: Any) -> Markup | None:
    """A tensor as HTML; None where its plain text says as much."""
    found = summary_of(tensor)
    if found is None or not found.seen or not tensor.dim():
        return None
    where = "" if found.device == "cpu" else f" on {found.device}"
    told = f"{found.count:,} elements{where}"
    if tensor.requires_grad:
        told += ", requires grad"
    if found.sampled:
        told += f"; numbers from {found.seen:,} of them, evenly spread"
    head = tag("div", code(found.head, "font-weight: 600"), " ", tag("span", told, style=FAINT))
    rows = [number_cells(found)]
    return page("tensor", head, table(NUMBERS, rows), *_picture(tensor), _values(tensor))


def _picture(tensor: torch.Tensor) -> list[Markup]:
    picture = picture_of(tensor, most=(48, 128), width=520)
    if picture is None:
        return []
    under = tag("div", picture.words, style=f"{FAINT}; font-size: 11px")
    return [tag("div", _image(picture)), under]


def _ends(size: int) -> list[int | None]:
    """The first and last places of an axis; None stands for those between."""
    if size <= 2 * _EDGE:
        return list(range(size))
    return [*range(_EDGE), None, *range(size - _EDGE, size)]


def _values(tensor: torch.Tensor) -> Markup:
    """The corners of the last two axes, as torch prints them: first and last."""
    found = matrix_of(tensor)
    if found is None:
        return Markup("")
    matrix, name = found
    columns = _ends(matrix.shape[1])
    lines = [["", *("…" if column is None else str(column) for column in columns)]]
    lines += [_value_row(matrix, row, columns) for row in _ends(matrix.shape[0])]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
    what = "values" + (f" of {name}" if name else "")
    grid = tag("pre", text, style=f"{MONO}; overflow-x: auto")
    return folded(tag("span", what, style=FAINT), grid)


def _value_row(matrix: torch.Tensor, row: int | None, columns: Sequence[int | None]) -> list[str]:
    if row is None:
        return ["…" for _ in range(len(columns) + 1)]
    cells = ("…" if column is None else _value(matrix[row, column]) for column in columns)
    return [str(row), *cells]


def _value(element: torch.Tensor) -> str:
    value = element.detach().item()
    return f"{value:.4g}" if isinstance(value, float | complex) else str(value)
