"""What a first user of the engine tries, each beside the same program at home."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

import nnsight_lab as nl
from nnsight_lab.errors import NotSupported
from tests.server.lab_server import TOKEN, Serving, serving
from tests.server.vllm.vllm_server import vllm_engine

FOUR = [5, 17, 3, 58]
"""As many tokens as the model has heads."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Serving]:
    with serving(("tiny", vllm_engine)) as running:
        yield running


@pytest.fixture(scope="module")
def there(lab: Serving) -> Any:
    return nl.connect(lab.url, token=TOKEN).model("tiny")


@pytest.fixture(scope="module")
def here() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


def plain(lm: Any, prompt: Any = FOUR) -> torch.Tensor:
    with lm.trace(prompt):
        logits: torch.Tensor = lm.logits.save()
    return logits


def check(program: Any, there: Any, here: Any) -> None:
    """The program gives the same on both, and something else than no edit."""
    found, wanted = program(there), program(here)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (found - plain(there)).abs().max() > 0.05


def test_a_pattern_is_edited_where_there_are_as_many_heads_as_tokens(there: Any, here: Any) -> None:
    def knocked_out(lm: Any) -> torch.Tensor:
        with lm.trace(FOUR):
            lm.layers[1].attn.pattern[:, 0, -1, 1] = 0
            lm.layers[1].attn.pattern[:, 1, 2, :] = 0.3
            logits: torch.Tensor = lm.logits.save()
        return logits

    assert len(FOUR) == plain_heads(here)
    check(knocked_out, there, here)


def plain_heads(lm: Any) -> int:
    with lm.trace(FOUR):
        pattern: torch.Tensor = lm.layers[1].attn.pattern.save()
    return pattern.shape[1]


def test_a_tuple_and_a_dict_are_edited_by_item(there: Any, here: Any) -> None:
    def of_a_tuple(lm: Any) -> torch.Tensor:
        with lm.trace(FOUR):
            lm.model.layers[0].self_attn.output[0][:, -1] = 0
            logits: torch.Tensor = lm.logits.save()
        return logits

    def of_a_dict(lm: Any) -> torch.Tensor:
        with lm.trace(FOUR):
            lm.model.output.last_hidden_state[:, 0] = 0
            logits: torch.Tensor = lm.logits.save()
        return logits

    check(of_a_tuple, there, here)
    check(of_a_dict, there, here)


@pytest.mark.parametrize("name", ["k", "v"])
def test_keys_and_values_of_the_whole_text_are_refused_after_the_first_step(
    there: Any, here: Any, name: str
) -> None:
    def first(lm: Any) -> torch.Tensor:
        with lm.generate(FOUR, max_new_tokens=2, eos_token_id=[]):
            value: torch.Tensor = getattr(lm.layers[1].attn, name).save()
        return value

    torch.testing.assert_close(first(there), first(here), atol=1e-4, rtol=0)

    with (
        pytest.raises(NotSupported) as caught,
        there.generate(FOUR, max_new_tokens=2, eos_token_id=[]) as tracer,
    ):
        for _ in tracer.iter[1:]:
            getattr(there.layers[1].attn, name).save()  # here

    assert "# here" in str(caught.value)
    assert "new token" in str(caught.value)


def test_arguments_that_vllm_has_not_are_refused_and_not_made_up(there: Any) -> None:
    with pytest.raises(NotSupported) as caught, there.trace(FOUR):
        _ = there.layers[1].attn.inputs  # here

    assert "# here" in str(caught.value)


def test_texts_of_unequal_length_are_the_result_of_a_generation(there: Any, here: Any) -> None:
    found = []
    for lm in (there, here):
        with lm.generate(["The capital of", "Once"], max_new_tokens=4, seed=1) as tracer:
            out = tracer.result.save()
        found.append(out)

    assert torch.equal(*found)
