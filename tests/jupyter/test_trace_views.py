"""`%%trace --show`: next tokens, norms, tokens, against hooks of one's own."""

from __future__ import annotations

from typing import Any

import torch

import nnsight_lab as nl
from tests.jupyter.test_trace_options import LINE, PROMPT, plain


def test_the_likeliest_next_tokens(notebook: Any, tiny: nl.LanguageModel) -> None:
    cell = notebook.ran(f"{LINE} --show probs -q\nlm.layers[2].output[:, -1] += 3.0")

    def add(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[:, -1] += 3.0
        return changed

    handle = tiny.module.model.layers[2].register_forward_hook(add)
    edited = plain(tiny)[0, -1].softmax(-1)
    handle.remove()
    figure = cell.shown[-1].data["application/vnd.plotly.v1+json"]
    words = [tiny.token_string(id) for id in edited.topk(10).indices.tolist()]
    torch.testing.assert_close(torch.tensor(figure["data"][0]["x"]), edited.topk(10).values)
    assert figure["layout"]["yaxis"]["ticktext"] == words
    assert not torch.allclose(edited, plain(tiny)[0, -1].softmax(-1))
    assert all(word in cell.shown[-1].data["image/svg+xml"] for word in words)


def test_norms_of_the_stream(notebook: Any, tiny: nl.LanguageModel) -> None:
    cell = notebook.ran(f"{LINE} --show norms -q")

    data = cell.shown[-1].data["application/vnd.plotly.v1+json"]["data"][0]
    for layer in range(tiny.card.layers):
        expected = plain(tiny, layer)[0].norm(dim=-1)
        torch.testing.assert_close(torch.tensor(data["customdata"][layer + 1]), expected)
        torch.testing.assert_close(torch.tensor(data["z"][layer + 1]), expected.log10())


def test_tokens_with_their_surprisal(notebook: Any, tiny: nl.LanguageModel) -> None:
    cell = notebook.ran(f"{LINE} --show tokens -q -g 3\nids = tracer.result")

    bundle = cell.shown[-1].data
    ids = tiny.tokenizer(PROMPT)["input_ids"]
    expected = -plain(tiny)[0].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
    tips = [f"id {id}, {nats:.2f} nats" for id, nats in zip(ids[1:], expected, strict=True)]
    assert all(tip in bundle["text/html"] for tip in tips)
    made = notebook.names["ids"][0, len(ids) :].tolist()
    assert all(f'id {id}"' in bundle["text/html"] for id in made)
    words = [tiny.token_string(id) for id in made]
    assert bundle["text/plain"].endswith("→ " + "|".join(words))


def test_a_prompt_in_the_token_view_is_text(notebook: Any) -> None:
    cell = notebook.ran('%%trace lm "<b>x</b> & co" --show tokens -q')

    assert "<b>" not in cell.shown[-1].data["text/html"]


def test_views_come_in_the_order_asked_for(notebook: Any) -> None:
    cell = notebook.ran(f"{LINE} --show attn,lens,none -q")

    titles = [shown.data["text/plain"] for shown in cell.shown]
    assert ["Attention" in titles[0], "Logit lens" in titles[1], len(titles)] == [True, True, 2]
