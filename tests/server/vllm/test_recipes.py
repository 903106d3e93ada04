"""Recipes on vLLM: the numbers of the model in this process, or a refusal that names an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.recipes import (
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    induction_scores,
    linear_probe,
    logit_lens,
    norms_and_directions,
    sae_features,
    steered_texts,
    steering_vector,
    tuned_lens,
)
from nnsight_lab.recipes.places import PARTS, Part
from tests.server.lab_server import TOKEN, serving
from tests.server.vllm.vllm_server import vllm_engine

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
METRIC = (" Mary", " John")
GOOD, BAD = ["It was great. The movie was"], ["It was awful. The movie was"]
FACTS = ["The capital of France is", "The language of France is"] * 3
SAE = {
    "W_enc": torch.randn(128, 64, generator=torch.Generator().manual_seed(0)),
    "b_enc": torch.ones(64),
}


def patching(part: Part) -> Callable[[Any], torch.Tensor]:
    """The effect of patching a part in two layers."""
    return lambda m: activation_patching(m, CLEAN, CORRUPT, METRIC, part=part, layers=[0, 4]).effect


RECIPES: dict[str, Callable[[Any], torch.Tensor]] = {
    **{part: patching(part) for part in PARTS},
    "direct": lambda m: (
        direct_logit_attribution(m, CLEAN, answer=" Mary", wrong=" John", heads=False).attn
    ),
    "induction": lambda m: induction_scores(m, length=10, batch=4).induction,
    "steering": lambda m: steering_vector(m, GOOD, BAD, 3).direction,
    "texts": lambda m: torch.stack(
        [
            text.along
            for text in steered_texts(
                m, steering_vector(m, GOOD, BAD, 3), "The movie was", (-0.3, 0.3), max_new_tokens=4
            ).texts
        ]
    ),
    "norms": lambda m: norms_and_directions(m, CLEAN).norms,
    "probe": lambda m: linear_probe(m, FACTS, [0, 1] * 3).test,
    "tuned": lambda m: tuned_lens(m, FACTS, steps=3).tuned,
    "features": lambda m: sae_features(m, SAE, 3, CLEAN).activations,
    "lens": lambda m: logit_lens(m, CLEAN).probabilities,
}


@pytest.fixture(scope="module")
def on_vllm() -> Iterator[nl.LanguageModel]:
    """The bundled model on a server that runs it with vLLM."""
    with serving(("tiny", vllm_engine)) as lab, nl.connect(lab.url, TOKEN) as connected:
        yield connected.model("tiny")


@pytest.fixture(scope="module")
def here() -> nl.LanguageModel:
    """The same model in this process, whose numbers are compared with hooks elsewhere."""
    return nl.LanguageModel("tiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_the_same_numbers(
    on_vllm: nl.LanguageModel, here: nl.LanguageModel, name: str
) -> None:
    expected = RECIPES[name](here)

    torch.testing.assert_close(RECIPES[name](on_vllm), expected, rtol=1e-3, atol=1e-3)
    assert expected.abs().max() > 1e-2


@pytest.mark.slow
def test_what_needs_gradients_is_refused_with_an_engine_that_has_them(
    on_vllm: nl.LanguageModel,
) -> None:
    with pytest.raises(errors.NotSupported, match="computes no gradients") as caught:
        attribution_patching(on_vllm, CLEAN, CORRUPT, METRIC)
    assert "--engine auto" in str(caught.value.hint)

    with pytest.raises(errors.NotSupported, match="computes no gradients"):
        direct_logit_attribution(on_vllm, CLEAN, answer=" Mary")
