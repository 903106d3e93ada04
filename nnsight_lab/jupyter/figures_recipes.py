"""The figure of each recipe's result: `result.figure()` comes here, as `run.fig` does to figures.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.figures import (
    LabFigure,
    attention_figure,
    heatmap_figure,
    lens_figure,
)
from nnsight_lab.jupyter.figures_plots import plot_figure
from nnsight_lab.jupyter.static_plots import Series
from nnsight_lab.recipes import (
    AttentionPattern,
    DirectLogits,
    InductionScores,
    LinearProbe,
    LogitLens,
    Patching,
    Result,
    SaeFeatures,
    SteeredTexts,
    SteeringVector,
    StreamGeometry,
    TunedLens,
)
from nnsight_lab.tracing.source import one_frame

__all__ = ["figure_of"]


@one_frame
def figure_of(result: Result, **options: Any) -> LabFigure:
    """The figure of a recipe's result.

    Raises:
        BadInput: this kind of figure has no such option, or not such a value.
    """
    draw = _FIGURES[type(result)]
    known = [*signature(draw).parameters][1:]
    for name in options:
        if name not in known:
            raise BadInput(
                f"The figure of {type(result).__name__} has no option {name!r}.",
                hint=f"Options: {', '.join(known) or 'none'}.",
            )
    return draw(result, **options)


def _layers(layers: list[int]) -> list[str]:
    return [str(layer) for layer in layers]


def _patching(found: Patching, recovered: bool = True) -> LabFigure:
    """The share of the clean metric that is back, or the effect itself."""
    what = "Attribution patching (an estimate)" if found.estimated else "Activation patching"
    said = "share recovered" if recovered else f"effect on the {found.metric}"
    return heatmap_figure(
        found.recovered if recovered else found.effect,
        rows=_layers(found.layers), columns=found.columns,
        title=f"{what}, {found.part}: {said}", colour_title="recovered" if recovered else "effect",
    )  # fmt: skip


def _induction(found: InductionScores, kind: str = "induction") -> LabFigure:
    scores = found.of(kind)  # type: ignore[arg-type]  # it says which kinds there are
    layers, heads = scores.shape
    return heatmap_figure(
        scores, rows=_layers([*range(layers)]), columns=[f"head {head}" for head in range(heads)],
        title=f"Heads on random tokens said twice: {kind} score", colour_title="score",
        limits=(0.0, 1.0),
    )  # fmt: skip


def _direct(found: DirectLogits) -> LabFigure:
    """Layers by heads and MLP; without heads, by attention and MLP. Below them, the embedding."""
    heads = found.attn[:, None] if found.heads is None else found.heads
    count = heads.shape[1]
    names = ["attention"] if found.heads is None else [f"head {head}" for head in range(count)]
    shares = torch.cat([heads, found.mlp[:, None]], dim=1)
    below = torch.full((1, count + 1), torch.nan)
    below[0, 0] = found.embed
    title = f"{found.target}: {found.logit_difference:+.2f}, by what says so directly"
    return heatmap_figure(
        torch.cat([below, shares]), rows=["embed", *_layers([*range(len(shares))])],
        columns=[*names, "mlp"], title=title, colour_title="logits",
    )  # fmt: skip


def _vector(found: SteeringVector) -> LabFigure:
    """How far along the direction each prompt is."""
    kinds = (("negative", found.negative), ("positive", found.positive))
    series = [
        Series(name, [float(row)] * len(kind), kind.tolist(), line=False)
        for row, (name, kind) in enumerate(kinds)
    ]
    title = (
        f"Prompts along the steering vector of layer {found.layer} (d' = {found.separation:.1f})"
    )
    return plot_figure(
        series, title=title, x_title="kind of prompt", y_title="projection",
        names=[name for name, _ in kinds],
    )  # fmt: skip


def _steered(found: SteeredTexts) -> LabFigure:
    """A row for each strength: its tokens, and how far along the vector the stream was."""
    longest = max(len(text.words) for text in found.texts)
    missing = [torch.full((longest - len(text.words),), torch.nan) for text in found.texts]
    values = [torch.cat(pair) for pair in zip((t.along for t in found.texts), missing, strict=True)]
    words = [[*text.words, *[""] * (longest - len(text.words))] for text in found.texts]
    return heatmap_figure(
        torch.stack(values), rows=[f"{text.strength:+g}" for text in found.texts],
        columns=[f"+{step + 1}" for step in range(longest)], texts=words,
        title=f"{found.prompt} … at each strength", colour_title="along",
    )  # fmt: skip


def _probe(found: LinearProbe) -> LabFigure:
    places = [*range(len(found.layers))]
    series = [
        Series("held-out prompts", places, found.test.tolist()),
        Series("training prompts", places, found.train.tolist()),
        Series("most frequent class", places, [found.chance] * len(places), dashed=True),
    ]
    return plot_figure(
        series, title="Linear probe of the residual stream", x_title="after layer",
        y_title="share right", names=found.layers,
    )  # fmt: skip


def _tuned(found: TunedLens) -> LabFigure:
    places = [*range(len(found.layers))]
    series = [
        Series("logit lens", places, found.plain.tolist()),
        Series("tuned lens", places, found.tuned.tolist()),
        Series("tuned, training prompts", places, found.train.tolist(), dashed=True),
    ]
    return plot_figure(
        series, title="How far a lens is from the model's output (held-out prompts)",
        x_title="after layer", y_title="KL divergence, nats", names=found.layers,
    )  # fmt: skip


def _features(found: SaeFeatures) -> LabFigure:
    top = float(found.activations.max()) if found.ids else 1.0
    return heatmap_figure(
        found.activations.flip(0), rows=[f"feature {id}" for id in reversed(found.ids)],
        columns=found.tokens, title=f"Features of layer {found.layer}, {found.part}",
        colour_title="activation", limits=(0.0, top),
    )  # fmt: skip


def _geometry(
    found: StreamGeometry, kind: str = "norms", direction: str | None = None, layer: int = -1
) -> LabFigure:
    if kind == "norms":
        return heatmap_figure(
            found.norms.log10(), rows=found.layers, columns=found.tokens,
            texts=[[f"{norm:.3g}" for norm in row] for row in found.norms.tolist()],
            title="Norm of the residual stream", colour_title="log10",
            limits=(float(found.norms.log10().min()), float(found.norms.log10().max())),
        )  # fmt: skip
    if kind == "cosine":
        return _cosine(found, direction)
    if kind == "pca":
        return _axes(found, layer)
    raise BadInput(f"There is no kind {kind!r}.", hint="One of norms, cosine, pca.")


def _cosine(found: StreamGeometry, direction: str | None) -> LabFigure:
    name = direction if direction is not None else next(iter(found.directions), None)
    if name is None or name not in found.directions:
        raise BadInput(
            f"There is no direction {name!r}.",
            hint=f"There are {', '.join(found.directions)}." if found.directions
            else "Give some: norms_and_directions(…, directions={name: vector}).",
        )  # fmt: skip
    return heatmap_figure(
        found.cosines[found.directions.index(name)], rows=found.layers, columns=found.tokens,
        title=f"Cosine of the residual stream to {name}", colour_title="cosine",
    )  # fmt: skip


def _axes(found: StreamGeometry, layer: int) -> LabFigure:
    count = len(found.layers) - 1
    if layer not in range(-count, count):
        raise BadInput(f"There is no layer {layer!r}.", hint=f"It has 0 to {count - 1}.")
    row = 1 + layer % count
    points = found.points[row, found.skipped :]
    labels = [f"{found.skipped + place} {token}" for place, token in
              enumerate(found.tokens[found.skipped :])]  # fmt: skip
    shares = [f"{100 * share:.0f} %" for share in found.explained[row].tolist()]
    return plot_figure(
        [Series("positions", points[:, 0].tolist(), points[:, 1].tolist(), labels, line=False)],
        title=f"Positions on the two main axes of the stream after layer {layer % count}",
        x_title=f"first axis ({shares[0]} of the variance)", y_title=f"second axis ({shares[1]})",
    )  # fmt: skip


_FIGURES: Mapping[type[Result], Callable[..., LabFigure]] = {
    LogitLens: lens_figure,
    TunedLens: _tuned,
    AttentionPattern: attention_figure,
    InductionScores: _induction,
    Patching: _patching,
    DirectLogits: _direct,
    SteeringVector: _vector,
    SteeredTexts: _steered,
    LinearProbe: _probe,
    SaeFeatures: _features,
    StreamGeometry: _geometry,
}
