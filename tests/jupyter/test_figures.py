"""Figures show the numbers that plain hooks give, and can be looked at without a kernel."""

from __future__ import annotations

import json
from html import unescape
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.jupyter.figures import heatmap_figure

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
    """Probabilities `[layer, pos, vocab]`, by the model's own modules."""
    with torch.no_grad():
        logits = [model.module.lm_head(model.module.model.norm(resid)) for resid in stream]
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


def test_a_layer_that_is_not_there_is_a_typed_error(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()

    with pytest.raises(nl.errors.AddressNotFound):
        tracer.run.fig.attention(99)
