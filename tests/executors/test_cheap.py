"""The head of the model computes the rows of logits that are used, and they are the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from tests.support.family_models import FAMILY_NAMES, family_model
from tests.support.fixtures import IDS
from tests.support.hooks import forward
from tests.support.tensors import assert_differs, assert_same

PROMPTS = [[5, 17, 3, 42, 8, 29], [7, 8, 9]]


@contextmanager
def counted(lm: nl.LanguageModel) -> Iterator[list[int]]:
    """For how many positions the head was called, each time."""
    module = lm.module
    assert lm.card.layers, "measured before we count"
    seen: list[int] = []
    handle = module.get_output_embeddings().register_forward_hook(
        lambda _, args, output: seen.append(output.shape[-2])
    )
    yield seen
    handle.remove()


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_only_the_rows_that_are_used_are_computed(name: str) -> None:
    module = family_model(name).module
    lm = nl.LanguageModel(module)
    with counted(lm) as rows:
        with lm.trace(PROMPTS):
            last = lm.logits[:, -1].save()
        with lm.trace(PROMPTS):
            few = lm.logits[..., -3:-1, :].save()
            one = lm.logits[0][-2, [3, 4]].save()
        with lm.trace(PROMPTS):
            whole = lm.logits.save()

    assert rows == [1, 3, 6]
    assert_same(last, whole[:, -1])
    assert_same(few, whole[:, -3:-1])
    assert_same(one, whole[0, -2, [3, 4]])
    assert_same(whole[:1], forward(module, PROMPTS[:1]), atol=1e-5)


def test_an_edit_of_the_logits_computes_them_all(lm: nl.LanguageModel) -> None:
    with counted(lm) as rows, lm.trace(IDS):
        lm.logits[:, 0] = 7.0
        last = lm.logits[:, -1].save()
        lm.logits[:, -1] = 3.0
        after = lm.logits[:, -1].save()

    assert rows == [6]
    assert_same(last, forward(lm.module, IDS)[:, -1])
    assert bool((after == 3.0).all())


def test_an_edit_below_reaches_the_rows_that_are_left(lm: nl.LanguageModel) -> None:
    logits = []
    for whole in (False, True):
        with counted(lm) as rows, lm.trace(IDS):
            lm.layers[0].output[:, 2] *= 3.0
            logits.append(lm.logits[:, -1].save())
            if whole:
                lm.logits.save()
        assert rows == [6 if whole else 1]

    assert_same(logits[0], logits[1])
    assert_differs(logits[0], forward(lm.module, IDS)[:, -1])


def test_each_invoke_gets_its_own_last_rows(lm: nl.LanguageModel) -> None:
    """Also an invoke that has fewer positions than another one needs."""
    with counted(lm) as rows, lm.trace() as tracer:
        with tracer.invoke(PROMPTS[:1]):
            long = lm.logits[:, -5:].save()
        with tracer.invoke(PROMPTS[1:]):
            short = lm.logits[:, -2].save()
            clipped = lm.logits[:, -4:].save()

    alone = forward(lm.module, PROMPTS[1:])
    assert rows == [5]
    assert_same(long, forward(lm.module, PROMPTS[:1])[:, -5:], atol=1e-5)
    assert_same(short, alone[:, -2], atol=1e-5)
    assert_same(clipped, alone, atol=1e-5)


def test_a_gradient_through_the_last_row_is_the_same(lm: nl.LanguageModel) -> None:
    gradients = []
    for whole in (False, True):
        with lm.trace(IDS):
            h = lm.layers[0].output
            if whole:
                lm.logits.save()
            with lm.logits[0, -1, 7].backward():
                gradients.append(h.grad.save())

    assert_same(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0


def test_a_model_that_cannot_pick_rows_computes_them_all(lm: nl.LanguageModel) -> None:
    """Where its forward does not say `logits_to_keep`, nothing is passed."""
    given: list[set[str]] = []

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = lm.module
            self.config = lm.module.config

        def forward(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
            given.append(set(options))
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, **options)

    plain = nl.LanguageModel(Plain())
    given.clear()
    with plain.trace(IDS):
        last = plain.logits[:, -1].save()

    assert given == [{"use_cache"}]
    assert_same(last, forward(lm.module, IDS)[:, -1])


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_generation_computes_what_it_samples_from(name: str) -> None:
    """The tokens are those of a generation that computes, and saves, the logits of the prompt."""
    module = family_model(name).module
    lm = nl.LanguageModel(module)
    found = []
    for whole in (False, True):
        with counted(lm) as rows, lm.generate(PROMPTS, max_new_tokens=3) as tracer:
            lm.layers[0].output[:, -1] *= 3.0
            for _ in tracer.iter[1:]:
                last = lm.logits.save()
            if whole:
                prompt = lm.logits.save()
            found.append((tracer.result.save(), last))
        assert rows == [6 if whole else 1, 1, 1]

    assert prompt.shape[1] == 6
    assert torch.equal(found[0][0], found[1][0])
    assert_same(found[0][1], found[1][1], atol=1e-5)


def test_a_generation_computes_all_rows_that_are_asked_for(lm: nl.LanguageModel) -> None:
    """Under whichever name: of the head, of the model's own module, or of the model's output."""
    for place in ("lm_head.output", "lm_head.input", "output"):
        with counted(lm) as rows, lm.generate(IDS, max_new_tokens=2) as tracer:
            value: Any = lm
            for name in place.split("."):
                value = getattr(value, name)
            value = value["logits"] if isinstance(value.now().meta, dict) else value
            seen = value.save()
            tracer.result.save()

        assert rows == [6, 1]
        assert seen.shape[1] == 6
