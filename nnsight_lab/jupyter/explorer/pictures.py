"""Plotly figures of the explorer that no recipe draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from nnsight_lab.jupyter.axes import Labels, cell_width, numbered, token_axis
from nnsight_lab.jupyter.explorer.view import Sheet
from nnsight_lab.jupyter.figures import LabFigure, heatmap_figure
from nnsight_lab.jupyter.static import heatmap_svg

__all__ = ["bars_figure", "patched_figure"]


def bars_figure(values: Sequence[float], tokens: Sequence[str], label: str) -> LabFigure:
    """A bar at each token; none where the value is NaN. values: `[pos]`."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, top = min(0.0, *finite), max(*finite, 1e-9)
    shown = [value if math.isfinite(value) else 0.0 for value in values]
    title = f"{label} at each token"
    wide = cell_width(len(tokens))
    texts = [[f"{value:.2f}" for value in shown]]
    svg = heatmap_svg(
        [shown], rows=[label], columns=list(tokens), texts=texts, title=title,
        low=low, top=top, cell=(wide, 24),
    )  # fmt: skip
    places, labels = numbered(list(tokens)), Labels(list(tokens), wide, across=True)
    figure = LabFigure(
        go.Bar(x=places, y=[v if math.isfinite(v) else None for v in values]), svg=svg
    )
    figure.update_layout(
        title=title, yaxis={"title": label}, xaxis=token_axis(places, labels),
        height=260 + labels.room, width=max(200 + wide * len(places), 720),
    )  # fmt: skip
    return figure


def patched_figure(sheet: Sheet, tokens: Sequence[str]) -> LabFigure:
    """The patched lens: the likeliest token at each place; colour, how much probability moved.

    Without a patch, the target's own lens.
    """
    plain, arrays = sheet.plain, sheet.arrays
    name = "patched" if "change" in arrays else "target"
    words = [[plain["words"][place] for place in row] for row in arrays[f"{name}_ids"][..., 0]]
    values = arrays.get("change", arrays[f"{name}_chances"][..., 0])
    title = "The target's lens"
    if plain["places"] is not None:
        (layer, pos), (to_layer, to_pos) = plain["places"]
        title = f"{plain['what']} of the source's {_named(layer)}, position {pos}, "
        title += f"in {_named(to_layer)}, position {to_pos}"
    colour = "probability moved" if "change" in arrays else "probability"
    return heatmap_figure(
        values, rows=list(plain["layers"]), columns=list(tokens), title=title,
        colour_title=colour, texts=words, limits=(0.0, 1.0),
    )  # fmt: skip


def _named(layer: int) -> str:
    return "embedding" if layer < 0 else f"layer {layer}"
