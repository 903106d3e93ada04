"""Lines over layers and points in a plane, as figures to keep."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from nnsight_lab.jupyter.figures import LabFigure
from nnsight_lab.jupyter.static_plots import COLOURS, Series, labels_that_fit, plot_svg

__all__ = ["plot_figure"]


def plot_figure(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    y_title: str,
    names: Sequence[str] = (),
) -> LabFigure:
    """Lines and points.

    names: what the whole numbers of the x axis are called, where it counts things.
    """
    svg = plot_svg(series, title=title, x_title=x_title, y_title=y_title, names=names)
    figure = LabFigure([_trace(one, place) for place, one in enumerate(series)], svg=svg)
    figure.update_layout(
        title=title, width=720, height=430,
        xaxis={"title": x_title, "zeroline": False}, yaxis={"title": y_title, "zeroline": False},
        margin={"l": 70, "r": 20, "t": 50, "b": 60}, showlegend=len(series) > 1,
        legend={"orientation": "h", "y": -0.2},
    )  # fmt: skip
    if names:
        figure.update_xaxes(tickvals=list(range(len(names))), ticktext=[*map(escape, names)])
    return figure


def _trace(series: Series, place: int) -> go.Scatter:
    colour = COLOURS[place % len(COLOURS)]
    mode = "lines" if series.dashed else "lines+markers" if series.line else "markers"
    labels = [escape(label) for label in series.labels]
    written = [] if series.line or not labels else labels_that_fit(series)
    return go.Scatter(
        x=list(series.x), y=list(series.y), name=escape(series.name),
        mode=mode + ("+text" if written else ""), text=[*map(escape, written)] or None,
        textposition="middle right", textfont={"size": 10}, hovertext=labels or None,
        line={"color": colour, "dash": "dash" if series.dashed else "solid"},
        marker={"color": colour, "size": 8},
        hovertemplate=f"{'%{hovertext}<br>' if labels else ''}%{{y:.3f}}<extra>%{{fullData.name}}</extra>",
    )  # fmt: skip
