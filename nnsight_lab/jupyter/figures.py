"""run.fig: Plotly figures of a run, to look at and to keep.

Each is an ordinary `plotly.graph_objects.Figure`; in a notebook it also carries an SVG, so that a
saved notebook shows it without a kernel, without JavaScript, and without the network.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nnsight_lab.jupyter.static import DIVERGING, RAMP, heatmap_svg
from nnsight_lab.recipes import AttentionPattern, LogitLens, attention_pattern, logit_lens

if TYPE_CHECKING:
    from nnsight_lab.models.run import Run

__all__ = ["LabFigure", "RunFigures", "attention_figure", "heatmap_figure", "lens_figure"]


def _scale(ramp: tuple[tuple[int, int, int], ...]) -> list[list[Any]]:
    """The colours of the SVG, as Plotly writes them."""
    return [[place / (len(ramp) - 1), f"rgb{colour}"] for place, colour in enumerate(ramp)]


_SCALE = _scale(RAMP)
_PLOTLY_MIME = "application/vnd.plotly.v1+json"


class LabFigure(go.Figure):  # type: ignore[misc]  # plotly ships no types
    """A Plotly figure that shows itself as Plotly where it can, and as SVG anywhere else."""

    def __init__(self, *args: Any, svg: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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

    def lens(self, *, top: int = 5, row: int = 0) -> LabFigure:
        """Logit lens: the likeliest next token at each layer and position; colour, its probability.

        top: how many tokens the hover shows. row: which prompt of a batch.
        """
        return lens_figure(logit_lens(self._run, top=top, row=row))

    def attention(self, layer: int, *, row: int = 0) -> LabFigure:
        """Attention pattern of every head of a layer: query down, key across."""
        return attention_figure(attention_pattern(self._run, layer, row=row))

    def __repr__(self) -> str:
        return "figures of a run: .lens(), .attention(layer)"


def lens_figure(lens: LogitLens) -> LabFigure:
    """The logit-lens heatmap. Layers upwards, positions across."""
    best = lens.probabilities[..., 0].tolist()
    words = [[place[0] for place in layer] for layer in lens.words]
    hover = [
        [_hover(lens, layer, pos) for pos in range(len(lens.tokens))]
        for layer in range(len(lens.layers))
    ]
    title = "Logit lens: the next token, read after each layer"
    columns = _numbered(lens.tokens)
    svg = heatmap_svg(best, rows=lens.layers, columns=lens.tokens, texts=words, title=title)
    figure = LabFigure(
        go.Heatmap(
            z=best, x=columns, y=lens.layers, text=_escaped(words), hovertext=hover,
            texttemplate="%{text}", textfont={"size": 11}, hoverinfo="text", colorscale=_SCALE, zmin=0, zmax=1,
            colorbar={"title": "probability", "thickness": 12}, xgap=1, ygap=1,
        ),
        svg=svg,
    )  # fmt: skip
    figure.update_layout(
        title=title, height=120 + 32 * len(lens.layers), width=200 + 64 * len(columns),
        xaxis=_token_axis(columns, lens.tokens), yaxis={"title": "layer", "type": "category"},
        margin={"l": 60, "r": 20, "t": 50, "b": 50}, template="plotly_white",
    )  # fmt: skip
    return figure


def _hover(lens: LogitLens, layer: int, pos: int) -> str:
    lines = [f"layer {lens.layers[layer]}, position {pos} after {escape(lens.tokens[pos])}"]
    chances = lens.probabilities[layer, pos].tolist()
    for word, chance in zip(lens.words[layer][pos], chances, strict=True):
        lines.append(f"{chance:.3f}  {escape(word)}")
    lines.append(f"entropy {lens.entropy[layer, pos].item():.2f} nats")
    return "<br>".join(lines)


def attention_figure(found: AttentionPattern) -> LabFigure:
    """Every head of a layer side by side."""
    heads = found.pattern.shape[0]
    across = min(heads, 4)
    down = -(-heads // across)
    names = [f"head {head}" for head in range(heads)]
    columns = _numbered(found.tokens)
    figure = LabFigure(
        make_subplots(
            rows=down, cols=across, subplot_titles=names, shared_xaxes=True, shared_yaxes=True,
            horizontal_spacing=0.03, vertical_spacing=0.3 / down if down > 1 else 0.1,
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
    side = max(150, min(24 * len(columns) + 40, 920 // across))
    figure.update_xaxes(**_token_axis(columns, found.tokens), tickangle=-60)
    figure.update_yaxes(**_token_axis(columns, found.tokens), autorange="reversed")
    figure.update_layout(
        title=f"Attention pattern, layer {found.layer} (query down, key across)",
        coloraxis={"colorscale": _SCALE, "cmin": 0, "cmax": 1, "colorbar": {"thickness": 12}},
        width=110 + side * across, height=130 + side * down, template="plotly_white",
    )  # fmt: skip
    return figure


def _attention_svg(found: AttentionPattern) -> str:
    """Heads one below another would be long; the mean over heads is the still picture."""
    mean = found.pattern.mean(0).flip(0).tolist()
    return heatmap_svg(
        mean,
        rows=list(reversed(found.tokens)),
        columns=found.tokens,
        title=f"Attention pattern, layer {found.layer}, mean of {found.pattern.shape[0]} heads",
        cell=(40, 22),
    )


def heatmap_figure(
    values: Any, *, rows: list[str], columns: list[str], title: str, colour_title: str = ""
) -> LabFigure:
    """A layer by position heatmap of any numbers, zero in the middle: for patching results.

    values: a tensor or nested list `[row, column]`. rows, columns: their labels.
    """
    numbers = values.tolist() if hasattr(values, "tolist") else [list(row) for row in values]
    largest = max((abs(number) for row in numbers for number in row), default=1.0) or 1.0
    texts = [[f"{number:.2f}".replace("-0.00", "0.00") for number in row] for row in numbers]
    svg = heatmap_svg(
        numbers, rows=rows, columns=columns, texts=texts, title=title, cell=(60, 24),
        low=-largest, top=largest, ramp=DIVERGING,
    )  # fmt: skip
    places = _numbered(columns)
    figure = LabFigure(
        go.Heatmap(
            z=numbers, x=places, y=rows, zmid=0, colorscale=_scale(DIVERGING), xgap=1, ygap=1,
            colorbar={"title": colour_title, "thickness": 12},
            hovertemplate="%{y}, %{x}<br>%{z:.3f}<extra></extra>",
        ),
        svg=svg,
    )  # fmt: skip
    figure.update_layout(
        title=title, xaxis=_token_axis(places, columns), yaxis={"type": "category"},
        height=140 + 30 * len(rows), width=220 + 62 * len(columns), template="plotly_white",
    )  # fmt: skip
    return figure


def _numbered(tokens: list[str]) -> list[str]:
    """Axis values must differ even where tokens repeat."""
    return [f"{place} {escape(token)}" for place, token in enumerate(tokens)]


def _token_axis(columns: list[str], tokens: list[str]) -> dict[str, Any]:
    labels = [escape(token) for token in tokens]
    return {"tickmode": "array", "tickvals": columns, "ticktext": labels, "type": "category"}


def _escaped(words: list[list[str]]) -> list[list[str]]:
    return [[escape(word) for word in row] for row in words]
