"""run.fig: Plotly figures of a run, to look at and to keep.

Each is an ordinary `plotly.graph_objects.Figure`; in a notebook it also carries an SVG, so that a
saved notebook shows it without a kernel, without JavaScript, and without the network.
"""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nnsight_lab.jupyter.axes import Labels, cell_width, numbered, panel_grid, token_axis
from nnsight_lab.jupyter.figures_theme import THEME
from nnsight_lab.jupyter.static import DIVERGING, RAMP, heatmap_svg, panels_svg
from nnsight_lab.recipes import AttentionPattern, LogitLens, attention_pattern, logit_lens
from nnsight_lab.tracing.source import one_frame

if TYPE_CHECKING:
    from nnsight_lab.models.run import Run

__all__ = ["LabFigure", "RunFigures", "attention_figure", "heatmap_figure", "lens_figure"]


def _scale(ramp: tuple[tuple[int, int, int], ...]) -> list[list[Any]]:
    """The colours of the SVG, as Plotly writes them."""
    return [[place / (len(ramp) - 1), f"rgb{colour}"] for place, colour in enumerate(ramp)]


_SCALE = _scale(RAMP)
_NARROWEST = 720
"""Below this width a title would run under the buttons of a Plotly figure."""
_PLOTLY_MIME = "application/vnd.plotly.v1+json"


class LabFigure(go.Figure):  # type: ignore[misc]  # plotly ships no types
    """A Plotly figure that shows itself as Plotly where it can, and as SVG anywhere else."""

    def __init__(self, *args: Any, svg: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.update_layout(template=THEME)
        object.__setattr__(self, "_svg", svg)

    def _ipython_display_(self) -> None:
        """Left to the mime bundle below, so that display ids and saved notebooks work."""
        raise NotImplementedError

    def _repr_html_(self) -> None:
        """None: Plotly's own HTML would fetch its library from the network."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **_: Any) -> Any:
        title = self.layout.title.text or "figure"
        bundle: dict[str, Any] = {
            _PLOTLY_MIME: self.to_plotly_json() | {"config": {"displaylogo": False}},
            "text/plain": f"<Plotly figure: {title}>",
        }
        if self._svg:
            bundle["image/svg+xml"] = self._svg
        return _json_ready(bundle), {"image/svg+xml": {"alt": title}}


def _json_ready(bundle: dict[str, Any]) -> dict[str, Any]:
    import json

    from plotly.utils import PlotlyJSONEncoder

    ready: dict[str, Any] = json.loads(json.dumps(bundle, cls=PlotlyJSONEncoder))
    return ready


class RunFigures:
    """The figures of one run: `run.fig.lens()`, `run.fig.attention(layer)`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @one_frame
    def lens(self, *, top: int = 5, row: int = 0) -> LabFigure:
        """Logit lens: the likeliest next token at each layer and position; colour, its probability.

        The top row, `output`, is what the model itself gave, after every edit of the run.
        top: how many tokens the hover shows. row: which prompt of a batch.
        """
        return lens_figure(logit_lens(self._run, top=top, row=row))

    @one_frame
    def attention(self, layer: int, *, row: int = 0) -> LabFigure:
        """Attention pattern of every head of a layer: query down, key across."""
        return attention_figure(attention_pattern(self._run, layer, row=row))

    def __repr__(self) -> str:
        return "figures of a run: .lens(), .attention(layer)"


def lens_figure(lens: LogitLens) -> LabFigure:
    """The logit-lens heatmap. Layers upwards, positions across; narrow cells have no text."""
    best = lens.probabilities[..., 0].tolist()
    words = [[place[0] for place in layer] for layer in lens.words]
    hover = [
        [_hover(lens, layer, pos) for pos in range(len(lens.tokens))]
        for layer in range(len(lens.layers))
    ]
    title = "Logit lens: the next token, read after each layer"
    columns, wide = numbered(lens.tokens), cell_width(len(lens.tokens))
    wide = max(wide, min((_NARROWEST - 200) // len(columns), 100))
    svg = heatmap_svg(
        best, rows=lens.layers, columns=lens.tokens, texts=words, title=title, cell=(wide, 24)
    )
    figure = LabFigure(
        go.Heatmap(
            z=best, x=columns, y=lens.layers, text=_escaped(words), hovertext=hover,
            texttemplate="%{text}" if wide >= 40 else None, textfont={"size": 11 if wide > 54 else 9},
            hoverinfo="text", colorscale=_SCALE, zmin=0, zmax=1, xgap=int(wide > 4), ygap=1,
            colorbar={"title": "probability", "thickness": 12},
        ),
        svg=svg,
    )  # fmt: skip
    labels = Labels(lens.tokens, wide, across=True)
    figure.update_layout(
        title=title, height=70 + labels.room + 32 * len(lens.layers),
        width=max(200 + wide * len(columns), _NARROWEST), xaxis=token_axis(columns, labels),
        yaxis={"title": "layer", "type": "category"},
        margin={"l": 60, "r": 20, "t": 50, "b": 20 + labels.room},
    )  # fmt: skip
    return figure


def _hover(lens: LogitLens, layer: int, pos: int) -> str:
    row = lens.layers[layer]
    place = f"layer {row}" if row.isdigit() else row
    lines = [f"{place}, position {pos} after {escape(lens.tokens[pos])}"]
    chances = lens.probabilities[layer, pos].tolist()
    for word, chance in zip(lens.words[layer][pos], chances, strict=True):
        lines.append(f"{chance:.3f}  {escape(word)}")
    lines.append(f"entropy {lens.entropy[layer, pos].item():.2f} nats")
    return "<br>".join(lines)


def attention_figure(found: AttentionPattern) -> LabFigure:
    """Every head of a layer side by side, in larger panels and fewer columns for longer prompts."""
    heads = found.pattern.shape[0]
    down, across, side = panel_grid(heads, len(found.tokens))
    names = [f"head {head}" for head in range(heads)]
    columns = numbered(found.tokens)
    inside = (side * across + 24 * (across - 1), side * down + 40 * (down - 1))
    figure = LabFigure(
        make_subplots(
            rows=down, cols=across, subplot_titles=names, shared_xaxes=True, shared_yaxes=True,
            horizontal_spacing=24 / inside[0], vertical_spacing=40 / inside[1],
        ),
        svg=_attention_svg(found),
    )  # fmt: skip
    for head in range(heads):
        figure.add_trace(
            go.Heatmap(
                z=found.pattern[head].tolist(), x=columns, y=columns, coloraxis="coloraxis",
                hovertemplate="query %{y}<br>key %{x}<br>%{z:.3f}<extra></extra>",
                name=names[head],
            ),
            row=head // across + 1, col=head % across + 1,
        )  # fmt: skip
        if head + across >= heads:  # nothing below it has the labels
            figure.update_xaxes(showticklabels=True, row=head // across + 1, col=head % across + 1)
    cell = side / len(columns)
    rows, below = Labels(found.tokens, cell), Labels(found.tokens, cell, across=True)
    figure.update_xaxes(**token_axis(columns, below))
    figure.update_yaxes(**token_axis(columns, rows), autorange="reversed")
    figure.update_layout(
        title={"text": _attention_title(found), "yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 22}},
        coloraxis={"colorscale": _SCALE, "cmin": 0, "cmax": 1, "colorbar": {"thickness": 12}},
        margin={"l": rows.room + 12, "r": 90, "t": 90, "b": below.room + 12},
        width=max(inside[0] + rows.room + 102, _NARROWEST),
        height=inside[1] + below.room + 102,
    )  # fmt: skip
    return figure


def _attention_title(found: AttentionPattern) -> str:
    return f"Attention pattern, layer {found.layer} (query down, key across)"


_PICTURED = 16 * 64 * 64
"""Cells of a still picture; with more, only the mean over heads is in it."""


def _attention_svg(found: AttentionPattern) -> str:
    """Every head, or their mean where that would be a large file."""
    heads, count = found.pattern.shape[0], len(found.tokens)
    title = _attention_title(found)
    if heads * count * count <= _PICTURED:
        panels, names = found.pattern, [f"head {head}" for head in range(heads)]
    else:
        panels, names = found.pattern.mean(0, keepdim=True), [f"mean of {heads} heads"]
    return panels_svg(panels.tolist(), names=names, labels=found.tokens, title=title)


def heatmap_figure(
    values: Any,
    *,
    rows: list[str],
    columns: list[str],
    title: str,
    colour_title: str = "",
    texts: list[list[str]] | None = None,
    limits: tuple[float, float] | None = None,
) -> LabFigure:
    """A layer by position heatmap of any numbers: for patching results, scores, norms.

    values: a tensor or nested list `[row, column]`. rows, columns: their labels.
    texts: `[row, column]`, what stands in the cells; the numbers, if left out.
    limits: of the colours, light to dark. Without them zero is in the middle, red below, blue above.
    """
    numbers = values.tolist() if hasattr(values, "tolist") else [list(row) for row in values]
    shown = [number for row in numbers for number in row if isfinite(number)]
    largest = max(map(abs, shown), default=1.0) or 1.0
    low, top = limits or (-largest, largest)
    ramp = DIVERGING if limits is None else RAMP
    words = texts or [[_number(number) for number in row] for row in numbers]
    wide = cell_width(len(columns), most=62 if texts is None else 76)
    svg = heatmap_svg(
        numbers, rows=rows, columns=columns, texts=words, title=title, cell=(wide, 24),
        low=low, top=top, ramp=ramp,
    )  # fmt: skip
    places, labels = numbered(columns), Labels(columns, wide, across=True)
    figure = LabFigure(
        go.Heatmap(
            z=numbers, x=places, y=rows, zmin=low, zmax=top, colorscale=_scale(ramp),
            text=_escaped(words), texttemplate="%{text}" if texts and wide >= 40 else None,
            xgap=int(wide > 4), ygap=1, colorbar={"title": colour_title, "thickness": 12},
            hovertemplate=f"%{{y}}, %{{x}}<br>{'%{text}<br>' if texts else ''}%{{z:.3f}}<extra></extra>",
        ),
        svg=svg,
    )  # fmt: skip
    figure.update_layout(
        title=title, xaxis=token_axis(places, labels), yaxis={"type": "category"},
        height=max(74 + labels.room + 30 * len(rows), 230),
        margin={"t": 50, "b": 24 + labels.room},
        width=max(220 + wide * len(columns), _NARROWEST),
    )  # fmt: skip
    return figure


def _number(value: float) -> str:
    """A number for a cell: short, and no minus in front of nothing."""
    if not isfinite(value):
        return ""
    text = f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return text.replace("-0.00", "0.00")


def _escaped(words: list[list[str]]) -> list[list[str]]:
    return [[escape(word) for word in row] for row in words]
