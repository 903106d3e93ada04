"""A recipe's result draws itself: the numbers it holds, as Plotly, as SVG, and as text."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.jupyter.figures_plots import plot_figure
from nnsight_lab.jupyter.static_plots import Series, labels_that_fit, ticks
from nnsight_lab.recipes import (
    DirectLogits,
    InductionScores,
    LinearProbe,
    Patching,
    Result,
    SaeFeatures,
    SteeredText,
    SteeredTexts,
    SteeringVector,
    StreamGeometry,
    TunedLens,
    attention_pattern,
    logit_lens,
)

WORDS = ["When", "·Mary", "<b>"]
GRID = torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.25, -0.5]])


def heatmap(figure: Any) -> torch.Tensor:
    """The numbers of the first trace; what is not there is NaN."""
    rows = [[math.nan if v is None else v for v in row] for row in figure.data[0].z]
    return torch.tensor(rows)


PATCHING = Patching("resid", "logit of ·a minus ·b", [3, 4], WORDS, GRID, 3.0, 1.0)
INDUCTION = InductionScores(GRID.abs() / 2, GRID.abs() / 3, GRID.abs() / 4, GRID.abs() / 5, 24, 8)
DIRECT = DirectLogits(
    WORDS, 2, "·a minus ·b", 4.0, 0.1, GRID[:, 0], GRID[:, 1], GRID[:, :2], 0.0, 0.0
)
VECTOR = SteeringVector(3, GRID[0], GRID[0], GRID[1])
TEXTS = SteeredTexts(
    "So", [SteeredText(-1.0, " a", ["·a"], GRID[0, :1]), SteeredText(1.0, " b c", ["·b", "·c"], GRID[1, :2])]
)  # fmt: skip
PROBE = LinearProbe(
    ["embed", "0", "1"], ["a", "b"], GRID[0].abs(), GRID[1].abs(), 0.5,
    torch.zeros(3, 2, 4), torch.zeros(3, 2), [0], [1],
)  # fmt: skip
TUNED = TunedLens(
    ["embed", "0", "1"], torch.zeros(3, 4, 4), torch.zeros(3, 4), GRID[0], GRID[1], GRID[1] / 2
)
FEATURES = SaeFeatures(WORDS, 1, "resid", [7, 3], GRID.abs(), torch.tensor([2, 1, 1]), None)
GEOMETRY = StreamGeometry(
    WORDS, ["embed", "0"], GRID.abs() + 1, ["up"], GRID[None] / 2,
    torch.stack([GRID[:, :2].repeat(2, 1)[:3]] * 2), GRID.abs()[:, :2] / 4, 0,
)  # fmt: skip
ALL: list[Result] = [PATCHING, INDUCTION, DIRECT, VECTOR, TEXTS, PROBE, TUNED, FEATURES, GEOMETRY]


@pytest.mark.parametrize("result", ALL, ids=lambda result: type(result).__name__)
def test_a_result_shows_itself_everywhere(result: Result) -> None:
    """Plotly in a notebook, a picture in a saved one, a few lines of text in a terminal."""
    bundle, metadata = result._repr_mimebundle_()

    assert "application/vnd.plotly.v1+json" in bundle
    assert bundle["image/svg+xml"].startswith("<svg ")
    assert "<b>" not in bundle["image/svg+xml"]
    assert "<b>" not in str(bundle["application/vnd.plotly.v1+json"]["data"]).replace("<br>", "")
    assert len(metadata["image/svg+xml"]["alt"]) > 10
    text = bundle["text/plain"]
    assert text == repr(result)
    assert text.startswith(f"<{type(result).__name__}>\n")
    assert "tensor(" not in text


def test_patching_draws_shares_or_effects() -> None:
    assert torch.equal(heatmap(PATCHING.figure()), GRID / 2)
    effect = PATCHING.figure(recovered=False)
    assert torch.equal(heatmap(effect), GRID)
    assert "logit of ·a minus ·b" in effect.layout.title.text
    assert list(effect.data[0].y) == ["3", "4"]


def test_scores_features_and_shares_are_drawn_as_they_are() -> None:
    assert torch.equal(heatmap(INDUCTION.figure()), GRID.abs() / 2)
    assert torch.equal(heatmap(INDUCTION.figure(kind="first")), GRID.abs() / 5)
    assert torch.equal(heatmap(FEATURES.figure()), GRID.abs().flip(0))
    assert list(FEATURES.figure().data[0].y) == ["feature 3", "feature 7"]
    shares = heatmap(DIRECT.figure())
    assert torch.equal(shares[1:], GRID[:, [0, 1, 1]])
    assert shares[0, 0] == pytest.approx(0.1)
    assert torch.equal(heatmap(GEOMETRY.figure(kind="cosine")), GRID / 2)
    torch.testing.assert_close(heatmap(GEOMETRY.figure()), (GRID.abs() + 1).log10())


def test_curves_are_drawn_as_they_are() -> None:
    drawn = {trace.name: list(trace.y) for trace in PROBE.figure().data}
    assert drawn["held-out prompts"] == PROBE.test.tolist()
    assert drawn["most frequent class"] == [0.5] * 3
    drawn = {trace.name: list(trace.y) for trace in TUNED.figure().data}
    assert drawn["logit lens"] == TUNED.plain.tolist()
    assert drawn["tuned lens"] == TUNED.tuned.tolist()
    (points,) = GEOMETRY.figure(kind="pca", layer=0).data
    assert list(points.x) == GEOMETRY.points[1, :, 0].tolist()


def test_a_shorter_text_leaves_the_rest_of_its_row_empty() -> None:
    figure = TEXTS.figure()
    words = [list(row) for row in figure.data[0].text]

    assert words == [["·a", ""], ["·b", "·c"]]
    assert heatmap(figure)[0, 1].isnan()
    assert "nan" not in figure._repr_mimebundle_()[0]["image/svg+xml"]


@pytest.mark.parametrize(
    ("result", "options"),
    [
        (PATCHING, {"top": 3}),
        (INDUCTION, {"kind": "sink"}),
        (GEOMETRY, {"kind": "angles"}),
        (GEOMETRY, {"kind": "cosine", "direction": "down"}),
        (GEOMETRY, {"kind": "pca", "layer": 1}),
    ],
)
def test_an_option_that_is_none_is_refused(result: Result, options: dict[str, Any]) -> None:
    with pytest.raises(errors.BadInput) as caught:
        result.figure(**options)

    assert caught.value.hint


def test_the_figure_of_a_run_is_that_of_the_recipe(tiny: nl.LanguageModel) -> None:
    """`run.fig` and a recipe's result are one thing."""
    with tiny.trace("The capital of France is") as tracer:
        tiny.logits.save()
    run = tracer.run

    assert run.fig.lens() == logit_lens(run).figure()
    assert run.fig.attention(2) == attention_pattern(run, 2).figure()


def test_labels_that_would_touch_are_left_out() -> None:
    crowd = Series(
        "x", [0.0, 0.0, 10.0], [0.0, 0.01, 5.0], ["first", "second", "third"], line=False
    )

    assert labels_that_fit(crowd) == ["first", "", "third"]
    figure = plot_figure([crowd], title="t", x_title="x", y_title="y")
    assert list(figure.data[0].hovertext) == ["first", "second", "third"]
    svg = figure._repr_mimebundle_()[0]["image/svg+xml"]
    assert re.findall(r">(first|second|third)</text>", svg) == ["first", "third"]


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-3.2, 47.0), (1e-5, 9e-5), (2.0, 2.0)])
def test_ticks_are_round_and_inside(ends: tuple[float, float]) -> None:
    found = ticks(*ends)

    assert all(ends[0] - 1e-9 <= tick <= ends[1] + 1e-9 for tick in found)
    assert 1 <= len(found) <= 9
    assert all(len(f"{tick:g}") <= 7 for tick in found)
