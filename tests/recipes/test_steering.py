"""A steering vector is a difference of means; adding it is what a hook that adds it does."""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.recipes import steered_texts, steering_vector, texts_one_by_one
from tests.recipes.by_hand import change_output, ids_of, plain, stream
from tests.support.tensors import assert_differs

LAYER, STEPS = 3, 6
GOOD = [
    f"I watched the {it}. It was {how}. I thought the {it} was"
    for it in ("movie", "play") for how in ("wonderful", "great", "lovely")
]  # fmt: skip
BAD = [text.replace(how, other) for text in GOOD
       for how, other in zip(("wonderful", "great", "lovely"), ("awful", "terrible", "bad"), strict=True)
       if how in text]  # fmt: skip
PROMPT = "I watched the movie last night. The movie was"


def last(tiny: nl.LanguageModel, texts: list[str]) -> torch.Tensor:
    """The stream after the block, at each prompt's last position, by hooks: `[prompt, d]`."""
    return torch.stack([stream(tiny.module, ids_of(tiny, t))[1 + LAYER, -1] for t in texts])


def test_the_vector_is_the_difference_of_the_means(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    found = steering_vector(either, GOOD, BAD, LAYER, batch=4)
    good, bad = last(tiny, GOOD), last(tiny, BAD)
    expected = good.mean(0) - bad.mean(0)

    torch.testing.assert_close(found.direction, expected, rtol=1e-4, atol=1e-3)
    middle = (good.mean(0) + bad.mean(0)) / 2
    along = (good - middle) @ expected / expected.norm()
    torch.testing.assert_close(found.positive, along, rtol=1e-3, atol=1e-2)
    assert found.positive.min() > 0 > found.negative.max()
    assert found.separation > 2


def test_the_steered_model_is_one_with_a_hook_that_adds(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    vector = steering_vector(either, GOOD, BAD, LAYER)
    steered = vector.on(either, 0.4)
    with steered.trace(PROMPT) as tracer:
        tracer.save(logits=steered.logits)
    ids = ids_of(tiny, PROMPT)
    expected = change_output(tiny.module, ids, LAYER, lambda h: h + 0.4 * vector.direction)

    torch.testing.assert_close(tracer.run["logits"], expected, rtol=1e-4, atol=1e-3)
    assert_differs(expected, plain(tiny.module, ids))
    assert either.edits == ()


def greedy(tiny: nl.LanguageModel, push: torch.Tensor) -> list[int]:
    """Written step by step with a hook, without a cache."""
    ids = ids_of(tiny, PROMPT)
    for _ in range(STEPS):
        logits = change_output(tiny.module, ids, LAYER, lambda h: h + push)
        ids = [*ids, int(logits[0, -1].argmax())]
    return ids[-STEPS:]


def test_steered_texts_are_what_a_hook_would_write(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    vector = steering_vector(either, GOOD, BAD, LAYER)
    found = steered_texts(either, vector, PROMPT, (-0.3, 0, 0.3), max_new_tokens=STEPS)

    assert len({text.text for text in found.texts}) == 3
    for text in found.texts:
        ids = greedy(tiny, text.strength * vector.direction)
        assert text.text == tiny.tokenizer.decode(ids)
        assert text.words == [tiny.token_string(id) for id in ids]
        whole = [*ids_of(tiny, PROMPT), *ids]
        h = stream_pushed(tiny, whole[:-1], text.strength * vector.direction)
        torch.testing.assert_close(text.along, h[-STEPS:] @ vector.unit, rtol=1e-3, atol=1e-2)


def stream_pushed(tiny: nl.LanguageModel, ids: list[int], push: torch.Tensor) -> torch.Tensor:
    """The stream after the block with the push in it; earlier blocks do not see it."""
    return stream(tiny.module, ids)[1 + LAYER] + push


def test_texts_are_written_one_by_one(tiny: nl.LanguageModel) -> None:
    vector = steering_vector(tiny, GOOD, BAD, LAYER)
    texts = texts_one_by_one(tiny, vector, PROMPT, (0.3, 99.0), max_new_tokens=2)

    assert next(texts).strength == 0.3
    texts.close()  # type: ignore[attr-defined]


def test_a_kind_without_prompts_is_refused(tiny: nl.LanguageModel) -> None:
    with pytest.raises(errors.BadInput, match="A mean needs prompts"):
        steering_vector(tiny, GOOD, [], LAYER)
    with pytest.raises(errors.AddressNotFound, match="no layer 6"):
        steering_vector(tiny, GOOD, BAD, 6)
