"""Figures show the numbers that plain hooks give, and can be looked at without a kernel."""

from __future__ import annotations

import json
import re
import traceback
from html import unescape
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.jupyter.figures import heatmap_figure
from nnsight_lab.jupyter.static_frame import DARK, DARK_INK, INK, PAPER
from nnsight_lab.jupyter.static_plots import COLOURS
from tests.support.contrast import contrast

PROMPT = "When Mary and John went to the store, John gave a drink to"


def residuals(model: nl.LanguageModel, prompt: str, edit: float = 0.0) -> list[torch.Tensor]:
    """The stream before block 0 and after each block, by hand-written hooks: `[pos, d_model]`."""
    found: list[torch.Tensor] = []
    layers = model.module.model.layers

    def before(_: Any, args: Any, kwargs: Any) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    def after(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        found.append(output[0].clone())
        return output

    def add(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output + edit

    handles = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles.append(layers[1].register_forward_hook(add))
    handles += [layer.register_forward_hook(after) for layer in layers]
    with torch.no_grad():
        model.module(**model.tokenizer(prompt, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    return found


def expected_lens(model: nl.LanguageModel, stream: list[torch.Tensor]) -> torch.Tensor:
    """Probabilities `[layer, pos, vocab]`, by the model's own modules; the output comes last."""
    with torch.no_grad():
        logits = [model.module.lm_head(model.module.model.norm(resid)) for resid in stream]
    logits.append(logits[-1])
    return torch.stack(logits).softmax(-1)


@pytest.mark.parametrize("edit", [0.0, 0.5])
def test_the_lens_shows_what_hooks_and_the_models_own_head_give(
    tiny: nl.LanguageModel, edit: float
) -> None:
    """Every cell: the likeliest token and its probability, also for a run with an edit."""
    with tiny.trace(PROMPT) as tracer:
        tiny.layers[1].output[:] += edit
        tiny.logits.save()
    figure = tracer.run.fig.lens()

    expected = expected_lens(tiny, residuals(tiny, PROMPT, edit))
    heatmap = figure.data[0]
    torch.testing.assert_close(torch.tensor(heatmap.z), expected.amax(-1))
    words = [[tiny.token_string(int(id)) for id in row] for row in expected.argmax(-1)]
    assert [[unescape(word) for word in row] for row in heatmap.text] == words


def test_an_edit_changes_the_lens_only_from_its_layer_on(tiny: nl.LanguageModel) -> None:
    runs = []
    for edit in (0.0, 0.5):
        with tiny.trace(PROMPT) as tracer:
            tiny.layers[1].output[:] += edit
        runs.append(torch.tensor(tracer.run.fig.lens().data[0].z))
    plain, edited = runs

    torch.testing.assert_close(plain[:2], edited[:2])  # embed and block 0
    assert not torch.allclose(plain[2:], edited[2:])


@pytest.mark.parametrize("place", ["norm.input", "norm.output", "lm_head.input", "logits"])
def test_the_output_row_sees_edits_at_and_after_the_final_norm(
    tiny: nl.LanguageModel, place: str
) -> None:
    """The row of the last layer is read past such edits; the row `output` is what came out."""
    module, _, port = place.rpartition(".")
    with tiny.trace(PROMPT) as tracer:
        where = tiny.get(module) if module else tiny
        getattr(where, port)[:] *= -0.5
        logits = tiny.logits.save()
    lens = nl.recipes.logit_lens(tracer.run)
    figure = tracer.run.fig.lens()

    expected = logits[0].softmax(-1).sort(-1, descending=True).values[:, :5]
    torch.testing.assert_close(lens.probabilities[-1], expected)
    assert not torch.allclose(lens.probabilities[-1], lens.probabilities[-2])
    assert figure.data[0].y == ("embed", "0", "1", "2", "3", "4", "5", "output")
    torch.testing.assert_close(torch.tensor(figure.data[0].z[-1]), expected[:, 0])


def test_the_attention_figure_shows_the_models_own_attentions(tiny: nl.LanguageModel) -> None:
    """Against `output_attentions` of the plain model with eager attention."""
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()
    figure = tracer.run.fig.attention(2)

    config = tiny.module.config
    was = config._attn_implementation
    config._attn_implementation = "eager"
    with torch.no_grad():
        inputs = tiny.tokenizer(PROMPT, return_tensors="pt")
        expected = tiny.module(**inputs, output_attentions=True).attentions[2][0]
    config._attn_implementation = was
    shown = torch.stack([torch.tensor(trace.z) for trace in figure.data])
    torch.testing.assert_close(shown, expected)
    torch.testing.assert_close(shown.sum(-1), torch.ones(shown.shape[:2]))


def test_a_row_of_a_batch_is_shown_without_its_padding(tiny: nl.LanguageModel) -> None:
    short = "The capital of France is"
    with tiny.trace([short, PROMPT]) as tracer:
        tiny.logits.save()
    with tiny.trace(short) as alone:
        tiny.logits.save()

    batched = torch.tensor(tracer.run.fig.lens(row=0).data[0].z)
    torch.testing.assert_close(batched, torch.tensor(alone.run.fig.lens().data[0].z))


def test_figures_are_plotly_figures(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()

    assert isinstance(tracer.run.fig.lens(), go.Figure)
    assert isinstance(tracer.run.fig.attention(-1), go.Figure)


def test_a_figure_carries_a_picture_that_needs_nothing(tiny: nl.LanguageModel) -> None:
    """The bundle is JSON, and neither the SVG nor the Plotly data name an address to fetch."""
    with tiny.trace("a <b>bold</b> & <script>x</script> prompt") as tracer:
        tiny.logits.save()
    bundle, _ = tracer.run.fig.lens()._repr_mimebundle_()

    text = json.dumps(bundle)
    assert "https://" not in text
    assert set(bundle) == {"application/vnd.plotly.v1+json", "image/svg+xml", "text/plain"}
    assert "<script" not in bundle["image/svg+xml"]
    assert "<script" not in json.dumps(bundle["application/vnd.plotly.v1+json"])


def test_a_heatmap_shows_the_numbers_it_is_given() -> None:
    values = torch.tensor([[0.0, 1.0], [-0.5, 0.25]])
    figure = heatmap_figure(values, rows=["0", "1"], columns=["a", "a"], title="t")

    assert torch.equal(torch.tensor(figure.data[0].z), values)
    assert len(set(figure.data[0].x)) == 2, "repeated tokens keep their own columns"


@pytest.mark.parametrize(
    ("view", "options", "code"),
    [
        ("attention", {"layer": 40}, "address-not-found"),
        ("attention", {"layer": "x"}, "address-not-found"),
        ("attention", {"layer": 0, "row": 5}, "bad-input"),
        ("lens", {"row": 5}, "bad-input"),
        ("lens", {"top": 10**6}, "bad-input"),
        ("lens", {"top": 0}, "bad-input"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_a_typed_error_at_the_users_line(
    tiny: nl.LanguageModel, view: str, options: dict[str, Any], code: str
) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()
    draw = getattr(tracer.run.fig, view)

    with pytest.raises(nl.errors.LabError) as caught:
        draw(**options)  # the user's line

    assert caught.value.code == code
    assert caught.value.hint
    assert caught.value.where is not None
    assert caught.value.where.text.endswith("# the user's line")
    frames = [frame.filename for frame in traceback.extract_tb(caught.tb)]
    assert sum("/nnsight_lab/" in name for name in frames) <= 1


def test_a_layer_counted_from_the_end_is_that_layer(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()

    assert "layer 5 " in tracer.run.fig.attention(-1).layout.title.text
    with pytest.raises(nl.errors.AddressNotFound):
        tracer.run.fig.attention(-7)


def test_parts_of_a_character_are_shown_as_bytes(tiny: nl.LanguageModel) -> None:
    lens = nl.recipes.logit_lens(tiny, "a 🙂é", top=1)

    assert lens.tokens == ["<|begin|>", "a", "·", "F0", "9F", "99", "82", "C3", "A9"]
    assert nl.recipes.attention_pattern(tiny, 0, "a 🙂").tokens[3:] == ["F0", "9F", "99", "82"]
    assert not any("\ufffd" in word for layer in lens.words for place in layer for word in place)


@pytest.mark.parametrize("repeats", [1, 2, 4, 16])
def test_pictures_fit_a_page_and_labels_do_not_meet(tiny: nl.LanguageModel, repeats: int) -> None:
    """Whatever the prompt; every token is still named where one hovers."""
    with tiny.trace("When Mary and John went to the store, he left. " * repeats) as tracer:
        tiny.logits.save()
    lens, attention = tracer.run.fig.lens(), tracer.run.fig.attention(3)

    for figure in (lens, attention):
        count = len(figure.data[0].x)
        assert 700 <= figure.layout.width <= 1620
        assert len(set(figure.data[0].x)) == count
        svg = figure._svg
        assert float(svg.split('width="')[1].split('"')[0]) <= 1620
        labels = len(figure.layout.xaxis.tickvals)
        inside = 1400 if figure is lens else 520
        assert labels == 1 or labels * 13 <= inside + 13
        assert labels <= count
    assert len(attention._svg) < 600_000
    assert bool(lens.data[0].texttemplate) == (repeats < 3)


def test_a_still_picture_has_every_head_and_whole_labels(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()
    svg = tracer.run.fig.attention(3)._svg

    assert all(f">head {head}<" in svg for head in range(4))
    ends = re.findall(r'<text x="(\d+)" y="\d+" text-anchor="end" [^>]*size="12">([^<]*)<', svg)
    assert ends
    for x, label in ends:
        assert int(x) >= 7 * len(unescape(label)), f"{label} is cut off at the left edge"


def test_words_and_lines_are_seen_on_white_and_on_black(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()
    figure = tracer.run.fig.lens()
    words = figure.layout.template.layout.font.color

    assert figure.layout.template.layout.paper_bgcolor == "rgba(0, 0, 0, 0)"
    assert figure.layout.template.layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
    # No grey has 4.5 on both; in JupyterLab a style sheet gives words the theme's colour.
    assert min(contrast(words, "#ffffff"), contrast(words, "#111111")) > 4.3
    for line in COLOURS:
        assert min(contrast(line, "#ffffff"), contrast(line, "#111111")) >= 3


def test_the_words_of_a_still_picture_are_read_on_its_sheet() -> None:
    assert contrast(INK, PAPER) >= 4.5
    assert contrast(DARK_INK, DARK) >= 4.5
    assert len(set(COLOURS)) == len(COLOURS)
