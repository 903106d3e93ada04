"""What is read of an explorer without a kernel: the same numbers, small, and legible."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.jupyter.explorer import Sheet, Subject
from nnsight_lab.jupyter.explorer.still import Still
from nnsight_lab.jupyter.explorer.tokens import TokensView
from nnsight_lab.jupyter.static import DIVERGING, RAMP, colour
from tests.support.contrast import contrast
from tests.support.html_tree import parsed

PROMPT = "The capital of France is Paris. The capital of Italy is"
HARD = 'a {x} $y <script>alert("no")</script> 🙂 "quoted" ends '


def asked(view: Any, **wanted: Any) -> Sheet:
    told: list[Sheet] = []
    view.ask(wanted, told.append)
    return told[-1]


def still_of(source: Any, prompt: str | None = None, **wanted: Any) -> Still:
    """What is read after the tab of the tokens was told its numbers."""
    subject = Subject(source, prompt)
    still = Still(subject, "title")
    still.learn("tokens", wanted, asked(TokensView(subject), **wanted))
    return still


def by_hand(lm: nl.LanguageModel, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Surprisal `[pos - 1]` and the next token's probabilities, of the plain model."""
    ids = torch.tensor(lm.tokenize(prompt).rows)
    with torch.no_grad():
        spread = lm.module(ids).logits[0].log_softmax(-1)
    return -spread[:-1].gather(-1, ids[0, 1:, None])[:, 0], spread[-1].exp()


@pytest.mark.parametrize("prompt", [PROMPT, HARD])
def test_the_numbers_are_those_of_the_plain_model(tiny: nl.LanguageModel, prompt: str) -> None:
    html, text = still_of(tiny, prompt).drawn()
    surprisal, chances = by_hand(tiny, prompt)
    page = parsed(html)
    shown = [float(each.text) for each in page.every("small")]
    next_words = re.findall(r"(\S+) (\d\.\d{4})", page.text.partition("Likeliest next: ")[2])
    values, ids = chances.topk(5)

    assert shown == pytest.approx(surprisal.tolist(), abs=6e-4)
    assert [float(chance) for _, chance in next_words] == pytest.approx(values.tolist(), abs=6e-5)
    assert next_words[0][0] == tiny.token_string(int(ids[0])).replace(" ", "·")
    assert f"{surprisal[2].item():.3f}" in text
    assert not page.every("script")


def test_nothing_runs_for_it(tiny: nl.LanguageModel) -> None:
    subject = Subject(tiny, PROMPT)
    still = Still(subject, "title")
    calls: list[int] = []
    handle = tiny.module.register_forward_pre_hook(lambda *_: calls.append(1))
    sheet = asked(TokensView(subject))
    assert len(calls) == 1
    still.learn("tokens", {}, sheet)
    still.drawn()
    handle.remove()

    assert len(calls) == 1


def test_an_edited_run_is_read_with_its_edits(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.layers[3].output[:, -1] = 0
        logits = tiny.logits.save()
    html, _ = still_of(tracer.run).drawn()

    best = logits[0, -1].softmax(-1).max().item()
    assert f" {best:.4f}" in html
    assert f" {by_hand(tiny, PROMPT)[1].max().item():.4f}" not in html


def test_what_was_looked_at_last_is_shown_of_the_tokens(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        norm = tiny.layers[2].output.norm(dim=-1).save()
        tiny.logits.save()
    still = still_of(tracer.run, by="norm")
    html, _ = still.drawn()

    assert f"<small>{norm[0, 4].item():.3f}</small>" in html
    assert "At each token: norm" in html
    still.learn("tokens", {}, asked(TokensView(Subject(tracer.run))), job=1)
    assert "surprisal in nats" in still.drawn()[0]


@pytest.mark.parametrize("prompt", [PROMPT * 30, "<&\"'" * 100])
def test_a_long_prompt_stays_small_and_says_how_much_is_left(
    tiny: nl.LanguageModel, prompt: str
) -> None:
    html, text = still_of(tiny, prompt).drawn()
    shown = len(parsed(html).every("small")) + 1

    assert len(html.encode()) + len(text.encode()) < 30_000
    assert f"and {len(Subject(tiny, prompt).tokens) - shown} more" in html
    assert shown > 50


def test_before_there_are_numbers_it_has_the_tokens(tiny: nl.LanguageModel) -> None:
    html, text = Still(Subject(tiny, PROMPT), "title").drawn()

    assert "·capital" in html
    assert "·capital" in text
    assert "nats" not in html


@pytest.mark.parametrize("ramp", [RAMP, DIVERGING])
def test_what_stands_on_a_colour_can_be_read(ramp: Any) -> None:
    assert min(contrast(*colour(at / 500, ramp)) for at in range(501)) >= 4.5
