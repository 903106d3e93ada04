"""Views of a run under its cell, `--show`: the next tokens, norms of the stream, the tokens.

Each is made from a run as the lens and the attention are, in a second run of a few numbers. Figures
carry an SVG, so a saved notebook shows them without JavaScript.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from math import isnan
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.axes import text_width
from nnsight_lab.jupyter.figures import LabFigure, attention_figure, heatmap_figure, lens_figure
from nnsight_lab.jupyter.static import RAMP, colour, heatmap_svg
from nnsight_lab.jupyter.static_frame import framed
from nnsight_lab.recipes import attention_pattern, logit_lens
from nnsight_lab.recipes.prompt import model_of, prompt_of, tokens_of, word

if TYPE_CHECKING:
    from nnsight_lab.models.run import Run

__all__ = [
    "VIEWS_OF_A_RUN",
    "TokenStrip",
    "next_tokens_figure",
    "norms_figure",
    "tokens_view",
]

_BAR = 22
_WIDE = 360


def next_tokens_figure(run: Run, *, top: int = 10, row: int = 0) -> LabFigure:
    """The likeliest tokens after the last position, with their probabilities, as bars.

    After a generation: what comes after its prompt. Edits of the run are seen.
    top: how many. row: which prompt of a batch.

    Raises:
        BadInput: there is no such row, or there are fewer tokens than `top`.
    """
    model = model_of(run)
    given = prompt_of(run, None, row)
    if top not in range(1, (model.card.vocab or top) + 1):
        raise BadInput(f"There is no top {top!r} of the tokens.", hint="top=10, say.")
    with model.trace(given, execute=False) as tracer:
        chances = model.logits[row, -1].float().softmax(-1).topk(top)
        tracer.save(probabilities=chances[0], ids=chances[1])
    found = run.then(tracer.graph)
    words = [word(model, id) for id in found["ids"].tolist()]
    values = found["probabilities"].tolist()
    title = f"Next token after {tokens_of(model, given, row)[-1]}"
    places = [f"{place} {escape(text)}" for place, text in enumerate(words)]
    figure = LabFigure(
        go.Bar(
            x=values, y=places, orientation="h", marker={"color": f"rgb{RAMP[2]}"},
            text=[_short(value) for value in values], textposition="outside", cliponaxis=False,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        ),
        svg=_bars_svg(words, values, title),
    )  # fmt: skip
    figure.update_layout(
        title=escape(title), height=100 + 26 * top, width=720,
        xaxis={"title": "probability", "range": [0, max(values) * 1.15]},
        yaxis={
            "autorange": "reversed", "type": "category", "tickvals": places,
            "ticktext": [escape(text) for text in words],
        },
    )  # fmt: skip
    return figure


def _short(value: float) -> str:
    """A number in three digits or so, without an exponent where it is not tiny."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.0e}"


def _bars_svg(words: list[str], values: list[float], title: str) -> str:
    left = max(map(text_width, words), default=40.0) + 16
    width, height = left + _WIDE + 60, 34 + _BAR * len(words) + 8
    most = max(values) or 1.0
    parts = [f'<text x="8" y="20" font-size="14">{escape(title)}</text>']
    for place, (text, value) in enumerate(zip(words, values, strict=True)):
        y, long = 34 + _BAR * place, _WIDE * value / most
        box = f'width="{long:.1f}" height="{_BAR - 5}" fill="rgb{RAMP[2]}"'
        parts += [
            f'<text x="{left - 6:.0f}" y="{y + 14}" text-anchor="end">{escape(text)}</text>',
            f'<rect x="{left:.0f}" y="{y + 2}" {box}/>',
            f'<text x="{left + long + 5:.0f}" y="{y + 14}">{_short(value)}</text>',
        ]
    return framed(parts, width, height, title)


def norms_figure(run: Run, *, row: int = 0) -> LabFigure:
    """The length of the residual stream at each layer and position, edits included.

    Colour is on a scale of logarithms: a begin token may be a hundred times as long as the others.
    row: which prompt of a batch.
    """
    model = model_of(run)
    given = prompt_of(run, None, row)
    tokens = tokens_of(model, given, row)
    with model.trace(given, execute=False) as tracer:
        stream = [model.layers[0].input, *(layer.output for layer in model.layers)]
        tracer.save(norms=torch.stack([h[row].float().norm(dim=-1) for h in stream]))
    norms = run.then(tracer.graph)["norms"][:, -len(tokens) :].cpu()
    layers = ["embed", *(str(layer) for layer in range(model.card.layers))]
    title = "Norm of the residual stream, after each layer"
    figure = heatmap_figure(
        norms, rows=layers, columns=tokens, title=title, colour_title="norm"
    )  # its axes and sizes; its colours are for values around zero
    logs = norms.clamp_min(1e-12).log10()
    low, top = float(logs.min()), float(logs.max())
    top = top if top > low else low + 1
    ticks = [low + (top - low) * part / 4 for part in range(5)]
    scale = [[place / (len(RAMP) - 1), f"rgb{each}"] for place, each in enumerate(RAMP)]
    figure.data[0].update(
        z=logs.tolist(), zmin=low, zmax=top, zmid=None, colorscale=scale,
        customdata=norms.tolist(), hovertemplate="%{y}, %{x}<br>%{customdata:.4g}<extra></extra>",
        colorbar={
            "title": "norm", "thickness": 12, "tickvals": ticks,
            "ticktext": [f"{10**tick:.3g}" for tick in ticks],
        },
    )  # fmt: skip
    texts = [[_short(value) for value in line] for line in norms.tolist()]
    svg = heatmap_svg(
        logs.tolist(), rows=layers, columns=tokens, texts=texts, title=title, low=low, top=top,
        cell=(max(min(62, 1400 // len(tokens)), 1), 24),
    )  # fmt: skip
    return LabFigure(figure, svg=svg)


class TokenStrip:
    """Tokens of a prompt and of what was generated, each in a box; colour: how surprising it was.

    tokens, ids: as text with visible spaces, and as numbers. surprisal: of each in nats, NaN where
    it was not predicted: of the first, and of generated ones. generated: how many at the end are.
    """

    def __init__(
        self, tokens: list[str], ids: list[int], surprisal: list[float], generated: int
    ) -> None:
        self.tokens = tokens
        self.ids = ids
        self.surprisal = surprisal
        self.generated = generated

    def __repr__(self) -> str:
        prompt = "|".join(self.tokens[: len(self.tokens) - self.generated])
        made = "|".join(self.tokens[len(self.tokens) - self.generated :])
        return f"{prompt} → {made}" if made else prompt

    def _repr_html_(self) -> str:
        count = len(self.tokens) - self.generated
        boxes = [self._box(place, place >= count) for place in range(len(self.tokens))]
        if self.generated:
            boxes.insert(count, '<span style="padding:0 4px">→</span>')
        note = "darker: more surprising" + ("; after the arrow: generated" * bool(self.generated))
        return (
            f'<div style="font-family:monospace;font-size:13px;line-height:2.1">{"".join(boxes)}'
            f'<div style="font-family:sans-serif;font-size:11px;line-height:1.4">{note}</div></div>'
        )

    def _box(self, place: int, generated: bool) -> str:
        nats = self.surprisal[place]
        known = not isnan(nats)
        fill, ink = colour(nats / 10, RAMP) if known else ("#ffffff", "#1a1a1a")
        edge = "#d9822b" if generated else "#8a9aa8"
        tip = f"position {place}, id {self.ids[place]}" + (f", {nats:.2f} nats" if known else "")
        return (
            f'<span title="{tip}" style="background:{fill};color:{ink};border:1px solid {edge};'
            f'border-radius:3px;padding:1px 3px;margin:1px;white-space:pre">'
            f"{escape(self.tokens[place])}</span>"
        )


def tokens_view(run: Run, *, row: int = 0) -> TokenStrip:
    """The tokens of a run's prompt, and those it generated. row: which prompt of a batch."""
    model = model_of(run)
    given = prompt_of(run, None, row)
    ids = list(given.rows[row])
    with model.trace(given, execute=False) as tracer:
        chances = model.logits[row, -len(ids) :].float().log_softmax(-1)
        following = torch.tensor(ids[1:] + ids[:1])
        tracer.save(said=chances.gather(-1, following.unsqueeze(-1)).squeeze(-1))
    surprisal = [float("nan"), *(-run.then(tracer.graph)["said"]).tolist()[:-1]]
    made = [step[row] for step in run.tokens]
    words = [word(model, id) for id in (*ids, *made)]
    return TokenStrip(words, [*ids, *made], surprisal + [float("nan")] * len(made), len(made))


def _last_layer(run: Run) -> LabFigure:
    return attention_figure(attention_pattern(run, -1))


VIEWS_OF_A_RUN: Mapping[str, Callable[[Any], Any]] = {
    "lens": lambda run: lens_figure(logit_lens(run)),
    "attn": _last_layer,
    "probs": next_tokens_figure,
    "norms": norms_figure,
    "tokens": tokens_view,
}
"""What `--show` draws, by name."""
