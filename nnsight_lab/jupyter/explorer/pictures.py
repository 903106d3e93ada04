"""Plotly figures of the explorer that no recipe draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from nnsight_lab.jupyter.axes import Labels, cell_width, numbered, token_axis
from nnsight_lab.jupyter.figures import LabFigure
from nnsight_lab.jupyter.static import heatmap_svg

__all__ = ["bars_figure"]


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
        template="plotly_white",
    )  # fmt: skip
    return figure
