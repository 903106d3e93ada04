"""Plotly figures of the explorer: a head's pattern, the residual stream's norms, its main plane."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nnsight_lab.jupyter.axes import Labels, cell_width, numbered, token_axis
from nnsight_lab.jupyter.figures import LabFigure, heatmap_figure
from nnsight_lab.jupyter.static import RAMP, colour, heatmap_svg, panels_svg
from nnsight_lab.jupyter.static_frame import framed

__all__ = ["pattern_figure", "plane_figure", "stream_figure"]

_SCALE = [[at / (len(RAMP) - 1), f"rgb{stop}"] for at, stop in enumerate(RAMP)]
_PICTURED = 160
"""Up to so many tokens a pattern has a still picture; with more it would be a large file."""

Array = np.ndarray[Any, Any]


def _placed(tokens: list[str], first: int) -> list[str]:
    """Names for the places of an axis that begins at position `first`."""
    return [f"{first + place} {escape(token)}" for place, token in enumerate(tokens)]


def pattern_figure(values: Array, tokens: list[str], title: str, first: int = 0) -> LabFigure:
    """The pattern of one head: `values` is `[query, key]` of positions from `first` on."""
    shown = np.round(values.astype(float), 5).tolist()
    svg = ""
    if len(tokens) <= _PICTURED:
        svg = panels_svg([shown], names=[""], labels=tokens, title=title)
    side = min(max(13 * len(tokens), 320), 760)
    names, cell = _placed(tokens, first), side / len(tokens)
    rows, below = Labels(tokens, cell), Labels(tokens, cell, across=True)
    figure = LabFigure(
        go.Heatmap(
            z=shown, x=names, y=names, colorscale=_SCALE, zmin=0, zmax=1,
            colorbar={"title": "weight", "thickness": 12},
            hovertemplate="query %{y}<br>key %{x}<br>%{z:.4f}<extra></extra>",
        ),
        svg=svg,
    )  # fmt: skip
    figure.update_xaxes(**token_axis(names, below), title="key")
    figure.update_yaxes(**token_axis(names, rows), autorange="reversed", title="query")
    figure.update_layout(
        title=title, width=side + rows.room + 180, height=side + below.room + 120,
    )  # fmt: skip
    return figure


def stream_figure(
    values: Array, layers: list[str], tokens: list[str], title: str, *, signed: bool = False
) -> LabFigure:
    """A number at each layer and position; signed: zero in the middle, else on a log scale."""
    if signed:
        return heatmap_figure(
            values, rows=layers, columns=tokens, title=title, colour_title="cosine"
        )
    logs = np.log10(np.maximum(values, 1e-9))
    low, top = float(logs.min()), float(logs.max())
    texts = [[f"{value:.3g}" for value in row] for row in values]
    wide = cell_width(len(tokens))
    svg = heatmap_svg(
        logs.tolist(), rows=layers, columns=tokens, texts=texts, title=title, low=low,
        top=max(top, low + 1e-9), cell=(wide, 24),
    )  # fmt: skip
    names, labels = numbered(tokens), Labels(tokens, wide, across=True)
    figure = LabFigure(
        go.Heatmap(
            z=logs.tolist(), x=names, y=layers, customdata=values.tolist(), colorscale=_SCALE,
            hovertemplate="layer %{y}, %{x}<br>%{customdata:.4g}<extra></extra>",
            xgap=int(wide > 4), ygap=1, colorbar={"title": "log10", "thickness": 12},
        ),
        svg=svg,
    )  # fmt: skip
    figure.update_layout(
        title=title, xaxis=token_axis(names, labels), yaxis={"type": "category", "title": "layer"},
        height=114 + labels.room + 30 * len(layers), width=max(220 + wide * len(names), 720),
    )  # fmt: skip
    return figure


def plane_figure(
    points: Array, explained: Array, tokens: list[str], title: str, first: int = 0
) -> LabFigure:
    """Positions on two axes, coloured by position; `points` is `[pos, 2]`, from `first` on."""
    names = _placed(tokens, first)
    axes = [f"axis {at + 1} ({share:.0%} of the variance)" for at, share in enumerate(explained)]
    figure = LabFigure(
        go.Scatter(
            x=points[:, 0].tolist(), y=points[:, 1].tolist(), mode="markers", hovertext=names,
            hovertemplate="%{hovertext}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
            marker={
                "color": [first + place for place in range(len(points))], "colorscale": _SCALE,
                "size": 9, "line": {"width": 1, "color": "#5f6b78"},
                "colorbar": {"title": "position", "thickness": 12},
            },
        ),
        svg=_plane_svg(points, tokens, title, axes),
    )  # fmt: skip
    figure.update_layout(
        title=title, xaxis={"title": axes[0]}, yaxis={"title": axes[1]}, width=720, height=520,
    )  # fmt: skip
    return figure


def _plane_svg(points: Array, tokens: list[str], title: str, axes: list[str]) -> str:
    width, height, edge = 720, 520, 60
    low, high = points.min(0), points.max(0)
    span = np.maximum(high - low, 1e-9)
    parts = [
        f'<text x="{edge}" y="24" font-size="14">{escape(title)}</text>',
        f'<text x="{edge}" y="{height - 16}">{escape(f"{axes[0]} → · {axes[1]} ↑")}</text>',
    ]
    for place, (point, token) in enumerate(zip(points, tokens, strict=True)):
        x, y = edge + (point - low) / span * (width - 2 * edge, height - 2 * edge)
        fill, _ = colour(place / max(len(points) - 1, 1))
        parts.append(
            f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="4" fill="{fill}" stroke="#5f6b78">'
            f"<title>{escape(token)}</title></circle>"
        )
    return framed(parts, width, height)
